"""Serving: what serves a trained folder, and whether it scores and orders as the folder does."""
