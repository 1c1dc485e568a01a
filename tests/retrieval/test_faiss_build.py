"""Types of FAISS index that can and cannot be built, and what they are trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from utils.errors import InputError
from utils.retrieval import faiss_build
from utils.retrieval.faiss_store import FaissOptions, open_index
from utils.retrieval.retriever import Retriever

pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.mark.parametrize("factory", ["Flatt", "IVF91,Flat", "IVF4096,Flat", "PQ7", "", "HNSW8,PQ8x4", "IDMap,Flat"])
def test_type_that_cannot_be_built_is_refused_before_encoding(
    retriever: Retriever, tmp_path: Path, encoded: list[int], factory: str
) -> None:
    with pytest.raises(InputError, match=f"faiss_index_factory '{factory}' cannot be built") as refused:
        open_index(retriever.corpus, retriever.encoder, tmp_path / "an.index", FaissOptions(factory))
    assert "\n" not in str(refused.value)
    assert not encoded


def test_training_sample_is_seeded(retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_build, "TRAINING_VECTORS", 40)
    monkeypatch.setattr(faiss_build, "TRAINING_VECTORS_PER_LIST", 20)
    built = [
        open_index(
            retriever.corpus, retriever.encoder, tmp_path / f"{number}.index", FaissOptions("IVF2,Flat", seed=seed)
        )
        for number, seed in enumerate((1, -1, 2))  # a sign decides nothing, and is no error
    ]
    first, same, other = (each.index.quantizer.reconstruct_n(0, 2) for each in built)
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
