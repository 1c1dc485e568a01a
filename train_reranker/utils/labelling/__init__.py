"""One record for every judged source, and what is made of it: examples, or an ablation."""
