"""The corpus: documents, their offset index, and samples."""
