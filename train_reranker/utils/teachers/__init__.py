"""What labels the data: rules, or a language model behind an endpoint."""
