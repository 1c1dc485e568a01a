"""The model card: metadata that the hub knows, where the data came from, and examples that run."""

from __future__ import annotations

from pathlib import Path

import yaml

from trainings import evaluations


def test_metadata_and_examples_are_of_the_trained_model(trained: Path, tiny_reranker: Path) -> None:
    best = evaluations(trained)["best"]
    header, body = (trained / "README.md").read_text().split("---\n", 2)[1:]
    metadata = yaml.safe_load(header)
    assert metadata["base_model"] == tiny_reranker.name
    assert metadata["pipeline_tag"] == "text-ranking"
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == round(best["MRR"], 4)
    assert "SHA-256" in body
    for snippet in body.split("```python\n")[1:]:
        exec(snippet.partition("```")[0].replace('"out"', repr(str(trained))))
