"""Milvus Lite, started from its file, against FAISS."""

from __future__ import annotations

import builtins
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from conftest import WORDS, kill_after_three_blocks
from utils.cli import InputError
from utils.config import load_config
from utils.corpus import Corpus
from utils.retrieval.arms import ARMS, Lambdas, Retriever, open_retrieval
from utils.retrieval.milvus import connect, open_milvus

pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")
pytestmark = pytest.mark.usefixtures("small_blocks")


def test_five_arms_give_the_lists_of_faiss(retriever: Retriever, tmp_path: Path) -> None:
    store = open_milvus(retriever.corpus, retriever.encoder, str(tmp_path / "folder" / "vectors.db"))
    over = Retriever(retriever.corpus, retriever.encoder, store, retriever.weights, retriever.rerankers)
    rng = random.Random(5)
    queries = [" ".join(rng.choices(WORDS, k=rng.randint(3, 12))) for _ in range(48)]
    sources = [retriever.corpus[rng.randrange(90)] for _ in queries]
    for start in range(0, 48, 16):
        some = queries[start : start + 16], sources[start : start + 16]
        for theirs, ours in zip(
            over.retrieve(list(ARMS), *some, 10), retriever.retrieve(list(ARMS), *some, 10), strict=True
        ):
            for arm in ARMS:
                assert [c.document.id for c in theirs[arm]] == [c.document.id for c in ours[arm]], arm
                np.testing.assert_allclose([c.score for c in theirs[arm]], [c.score for c in ours[arm]], atol=1e-5)


def test_killed_loading_goes_on(
    retriever: Retriever,
    tiny_encoder: Path,
    tmp_path: Path,
    encoded: list[int],
) -> None:
    uri = str(tmp_path / "vectors.db")
    kill_after_three_blocks(retriever.corpus.path, tiny_encoder, f"open_milvus(corpus, encoder, {uri!r})")
    store = open_milvus(retriever.corpus, retriever.encoder, uri)
    assert sum(encoded) == len(retriever.corpus) - 3 * 16
    rows = range(len(retriever.corpus))
    np.testing.assert_allclose(store.vectors(rows), retriever.index.vectors(rows), atol=1e-6)
    open_milvus(retriever.corpus, retriever.encoder, uri)
    assert sum(encoded) == len(retriever.corpus) - 3 * 16


def test_another_corpus_has_its_own_collection(retriever: Retriever, corpus_file: Path, tmp_path: Path) -> None:
    uri = str(tmp_path / "vectors.db")
    open_milvus(retriever.corpus, retriever.encoder, uri)
    other = open_milvus(Corpus(corpus_file), retriever.encoder, uri)
    scores, rows = other.search(retriever.index.vectors([0, 1]), 40)
    assert sorted(rows[0]) == [-1] * 16 + list(range(24))
    assert np.isneginf(scores[0, 24:]).all()


def test_configuration_names_the_store(config_file: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(config_file.read_text())
    lists = []
    for store in ({}, {"vector_store": "milvus", "milvus_uri": str(tmp_path / "vectors.db")}):
        config_file.write_text(yaml.safe_dump(values | store))
        config = load_config(config_file)
        over = open_retrieval(config, Corpus(config.corpus), Lambdas.scaled(0.85, 0.05, 0.1))
        lists.append(over.retrieve(["diverse"], ["a harbour town"], [over.corpus[0]], 5)[0]["diverse"])
    assert [c.document.id for c in lists[0]] == [c.document.id for c in lists[1]]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"vector_store": "pinecone"}, "vector_store must be faiss or milvus, not 'pinecone'"),
        ({"vector_store": "milvus"}, "needs milvus_uri"),
    ],
)
def test_store_that_cannot_be_used_is_told(config_file: Path, values: dict, problem: str) -> None:
    config_file.write_text(yaml.safe_dump(yaml.safe_load(config_file.read_text()) | values))
    config = load_config(config_file)
    with pytest.raises(InputError, match=problem):
        open_retrieval(config, Corpus(config.corpus), Lambdas(1, 0, 0))


def test_address_where_nothing_answers_is_told() -> None:
    with pytest.raises(InputError, match=r"milvus_uri http://127\.0\.0\.1:9: cannot be opened") as told:
        connect("http://127.0.0.1:9")
    assert "\n" not in str(told.value)


def test_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pymilvus"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="needs pymilvus"):
        connect("vectors.db")


def test_token_never_shows(config_file: Path) -> None:
    config_file.write_text(config_file.read_text() + "milvus_token: root:secret\n")
    assert "secret" not in repr(load_config(config_file))
