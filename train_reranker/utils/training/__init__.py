"""Fine-tuning a reranker: from a checked job to a model that is better than its base, or says that it is not."""
