"""The model card: metadata that the hub knows, where the data came from, and examples that run."""

from __future__ import annotations

from pathlib import Path

import yaml

from trainings import evaluations
from utils.training.using import EXAMPLES


def test_metadata_and_examples_are_of_the_trained_model(trained: Path, tiny_reranker: Path) -> None:
    best = evaluations(trained)["best"]
    header, body = (trained / "README.md").read_text().split("---\n", 2)[1:]
    metadata = yaml.safe_load(header)
    assert metadata["base_model"] == tiny_reranker.name
    assert metadata["pipeline_tag"] == "text-ranking"
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == round(best["MRR"], 4)
    assert "SHA-256" in body
    snippets = [part.partition("```")[0] for part in body.split("```python\n")[1:]]
    assert len(snippets) == len(EXAMPLES)  # those of other libraries run in test_using.py, where they are installed
    for library, snippet in zip(EXAMPLES, snippets, strict=True):
        if library in ("FlagEmbedding", "sentence-transformers", "transformers"):
            exec(snippet.replace('"out"', repr(str(trained))))
