"""Encoding a corpus: resumed after a kill, on several devices, in FAISS's own layout."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from kills import kill_after_three_blocks
from utils.retrieval import corpus_vectors
from utils.retrieval.encoder import Encoder, EncoderOptions
from utils.retrieval.faiss_store import open_index
from utils.retrieval.retriever import Retriever

pytestmark = pytest.mark.usefixtures("small_blocks")


def test_killed_encoding_resumes_to_the_same_bytes(
    retriever: Retriever, tiny_encoder: Path, tmp_path: Path, encoded: list[int]
) -> None:
    path = tmp_path / "killed.index"
    kill_after_three_blocks(retriever.corpus.path, tiny_encoder, f"open_index(corpus, encoder, Path({str(path)!r}))")
    assert not path.exists()
    open_index(retriever.corpus, retriever.encoder, path)
    assert sum(encoded) == len(retriever.corpus) - 3 * 16
    open_index(retriever.corpus, retriever.encoder, tmp_path / "whole.index")
    assert path.read_bytes() == (tmp_path / "whole.index").read_bytes()
    assert {file.name for file in tmp_path.iterdir() if file.suffix != ".lock"} == {
        f"{name}.index{suffix}" for name in ("killed", "whole") for suffix in ("", ".json")
    }


def test_vectors_of_another_encoder_are_not_resumed(
    retriever: Retriever, tiny_encoder: Path, tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(corpus_vectors, "append_jsonl", lambda out, row: 1 / (2 - row["block"]))  # fails at block 2
        with pytest.raises(ZeroDivisionError):
            open_index(retriever.corpus, retriever.encoder, tmp_path / "an.index")
    encoded.clear()
    open_index(retriever.corpus, Encoder(tiny_encoder, EncoderOptions(pooling="cls")), tmp_path / "an.index")
    assert sum(encoded) == len(retriever.corpus)


def test_flat_file_has_the_layout_of_faiss(retriever: Retriever, tmp_path: Path) -> None:
    flat = faiss.IndexFlatIP(retriever.encoder.dimension)
    flat.add(retriever.index.vectors(range(len(retriever.corpus))))
    faiss.write_index(flat, str(tmp_path / "faiss.index"))
    open_index(retriever.corpus, retriever.encoder, tmp_path / "ours.index")
    header = len(corpus_vectors.flat_header(1, 1))
    ours, theirs = ((tmp_path / name).read_bytes() for name in ("ours.index", "faiss.index"))
    assert ours[:header] == theirs[:header]
    assert len(ours) == len(theirs)


def test_several_processes_give_the_same_vectors(retriever: Retriever, tiny_encoder: Path, tmp_path: Path) -> None:
    two = Encoder(tiny_encoder, EncoderOptions(method="tiny", half=False), devices=["cpu", "cpu"])
    assert two.fingerprint == retriever.encoder.fingerprint
    opened = open_index(retriever.corpus, two, tmp_path / "an.index")
    rows = range(len(retriever.corpus))
    np.testing.assert_allclose(opened.vectors(rows), retriever.index.vectors(rows), atol=1e-5)
