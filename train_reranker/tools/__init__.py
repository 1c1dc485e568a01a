"""Helpers around the four scripts, run from train_reranker/ as ``python -m tools.NAME``."""
