"""Encoding a corpus: resumed after a kill, on several devices, in FAISS's own layout."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


DAMAGES: dict[str, tuple[Callable[[Path, Path], object], int]] = {
    "none": (lambda part, noted: None, 0),
    "cut": (lambda part, noted: os.truncate(part, 3000), 2),
    "zeros": (lambda part, noted: part.write_bytes(bytes(part.stat().st_size)), 3),
    "rows swapped": (lambda part, noted: part.write_bytes(part.read_bytes()[::-1]), 3),
    "notes repeated": (lambda part, noted: append(noted, noted.read_text().split("\n", 1)[1]), 0),
    "notes of blocks that are not there": (lambda part, noted: append(noted, '{"block": 4}\n{"block": 99}\n[7]\n'), 0),
    "note cut": (lambda part, noted: noted.write_text(noted.read_text()[:-9]), 1),
    "no notes": (lambda part, noted: noted.unlink(), 3),
}


def append(path: Path, text: str) -> None:
    with path.open("a") as out:
        out.write(text)


@pytest.mark.parametrize("damage", DAMAGES)
def test_blocks_that_are_not_what_was_noted_are_encoded_again(
    damage: str, retriever: Retriever, tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, path = Encoder.encode, tmp_path / "an.index"

    def three_blocks(*args: Any) -> np.ndarray:
        if len(encoded) == 3:
            raise KeyboardInterrupt
        return encode(*args)

    with monkeypatch.context() as patched:
        patched.setattr(Encoder, "encode", three_blocks)
        with pytest.raises(KeyboardInterrupt):
            open_index(retriever.corpus, retriever.encoder, path)
    encoded.clear()
    spoil, lost = DAMAGES[damage]
    spoil(tmp_path / "an.index.part", tmp_path / "an.index.part.log")
    open_index(retriever.corpus, retriever.encoder, path)
    assert sum(encoded) == len(retriever.corpus) - (3 - lost) * 16
    whole = tmp_path / "whole.index"
    open_index(retriever.corpus, retriever.encoder, whole)
    assert path.read_bytes() == whole.read_bytes()


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
