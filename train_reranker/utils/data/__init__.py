"""Rows of query, pos and neg: read, completed with negatives, split."""
