"""Results to look at: text tables, plots, and the self-contained page."""
