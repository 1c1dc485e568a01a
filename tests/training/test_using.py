"""How to use a trained folder elsewhere: every example runs where its library is installed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from utils.files import ROOT
from utils.models.lengths import Lengths
from utils.retrieval.fusion import fuse
from utils.training.using import EXAMPLES, examples, using

# What must be there beside the toolkit's own requirements.
PACKAGES = {
    "LangChain": ("langchain_classic", "langchain_community"),
    "LlamaIndex": ("llama_index.core", "llama_index.postprocessor.sbert_rerank"),
    "Haystack": ("haystack", "haystack_integrations.components.rankers.sentence_transformers"),
}


@pytest.mark.parametrize("library", EXAMPLES)
def test_example_runs(library: str, tiny_reranker: Path) -> None:
    for package in PACKAGES.get(library, ()):
        pytest.importorskip(package, reason=f"{library} is no requirement of the toolkit")
    found: dict[str, object] = {}
    exec(examples(str(tiny_reranker), Lengths(16, 24))[library], found)
    results = next(found[name] for name in ("scores", "ranking", "best") if name in found)
    assert len(results) == (1 if "scores" in found else 2)  # type: ignore[arg-type]


def test_names_and_lengths_are_filled_in() -> None:
    text = using("./mine", Lengths(16, 24))
    assert 'FlagReranker("./mine", max_length=40, query_max_length=16)' in text
    assert not re.search(r"\b(?:MODEL|PAIR|QUERY)\b", text)


def test_fusion_is_the_one_that_is_tested() -> None:
    page = (ROOT / "docs" / "using.md").read_text(encoding="utf-8")
    found: dict[str, Any] = {}
    exec(page.split("```python\n")[1].partition("```")[0], found)
    first, reranked = np.array([0.1, 0.5, 0.2]), np.array([-3.0, 1.0, 2.0])
    for weight in (0.0, 0.6, 1.0):
        np.testing.assert_allclose(found["fused"](first, reranked, weight), fuse(first, reranked, weight), atol=1e-9)
    assert not found["fused"](np.ones(3), np.zeros(3), 0.5).any()


def test_page_has_all_examples() -> None:
    page = (ROOT / "docs" / "using.md").read_text(encoding="utf-8")
    assert all(f"### {library}\n" in page for library in EXAMPLES)
