"""The registry of stores, and where the index of a retriever lies."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from utils.config import Config, load_config
from utils.corpus.documents import Corpus
from utils.errors import InputError, RunError
from utils.retrieval.encoder import Encoder
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import Retriever, open_retrieval
from utils.retrieval.stores import STORES, index_file, open_store

pytestmark = pytest.mark.usefixtures("one_thread")


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
        ({"vector_store": "pinecone"}, r"config\.yaml: vector_store must be faiss or milvus, not 'pinecone'"),
        ({"vector_store": "milvus"}, "needs milvus_uri"),
    ],
)
def test_store_that_cannot_be_used_is_refused(config_file: Path, values: dict, problem: str) -> None:
    config_file.write_text(yaml.safe_dump(yaml.safe_load(config_file.read_text()) | values))
    config = load_config(config_file)
    with pytest.raises(InputError, match=problem):
        open_retrieval(config, Corpus(config.corpus), Lambdas(1, 0, 0))


def test_third_store_is_one_entry(config_file: Path, retriever: Retriever, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STORES, "memory", lambda config, corpus, encoder: retriever.index)
    config_file.write_text(config_file.read_text() + "vector_store: memory\n")
    config = load_config(config_file)
    assert open_retrieval(config, retriever.corpus, Lambdas(1, 0, 0)).index is retriever.index
    with pytest.raises(InputError, match=r"config\.yaml: vector_store must be faiss or milvus or memory, not 'x'"):
        open_store(replace(config, vector_store="x"), retriever.corpus, retriever.encoder)


class Reordered:
    """An index whose rows are in another order."""

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = vectors

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        return self._vectors[rows]


REORDERED = {
    "reversed": lambda vectors: vectors[::-1],
    "one left out": lambda vectors: np.vstack([vectors[:50], vectors[51:], vectors[:1]]),
    "one twice": lambda vectors: np.vstack([vectors[:7], vectors[6:-1]]),
    "zeros": lambda vectors: vectors * 0,
    "NaN": lambda vectors: vectors * np.nan,
    "three times as long": lambda vectors: vectors * 3,
}


@pytest.mark.parametrize("kind", REORDERED)
def test_rows_that_are_not_their_documents_are_found_when_a_store_is_opened(
    kind: str, config_file: Path, retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = retriever.index.vectors(range(len(retriever.corpus)))
    monkeypatch.setitem(STORES, "faiss", lambda *_: Reordered(REORDERED[kind](own)))
    with pytest.raises(
        InputError, match=r"has a vector in row \d+ that is not its document's.*delete that index"
    ) as told:
        open_store(load_config(config_file), retriever.corpus, retriever.encoder)
    assert "\n" not in str(told.value)


def test_encoder_that_gives_no_numbers_is_found_when_a_store_is_opened(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(config_file)
    corpus = Corpus(config.corpus)
    open_retrieval(config, corpus, Lambdas(1, 0, 0))
    monkeypatch.setattr(
        Encoder, "_pool", lambda self, output, mask, skipped: output.last_hidden_state[:, 0].float() * np.nan
    )
    with pytest.raises(RunError, match="gives no vector for 8 of 8 texts"):
        open_retrieval(config, corpus, Lambdas(1, 0, 0))


def test_index_is_trained_with_the_seed_of_the_run(config_file: Path) -> None:
    config = replace(load_config(config_file), faiss_index_factory="IVF2,Flat", seed=41)
    open_retrieval(config, Corpus(config.corpus), Lambdas(1, 0, 0))
    assert json.loads(config_file.with_name("tiny.index.json").read_text())["seed"] == 41


def named(config: Config) -> Path:
    return index_file(config, Corpus(config.corpus))


def test_path_as_name_works_however_it_is_written(load: Callable, tmp_path: Path) -> None:
    ways = ["models/tiny", "./models/tiny", "models/tiny/", "models/../models/tiny", str(tmp_path / "models" / "tiny")]
    files = [named(load(retrieval_method=way)) for way in ways]
    assert len(set(files)) == 1
    assert files[0].parent == tmp_path
    assert files[0].name.startswith("corpus.tiny-")
    config = load(retrieval_method=ways[0])
    retriever = open_retrieval(config, Corpus(config.corpus), Lambdas(1, 0, 0))
    (found,) = retriever.retrieve(["standard"], ["a harbour town"], [retriever.corpus[0]], 3)
    assert len(found["standard"]) == 3
    assert files[0].is_file()


def test_folders_of_one_name_have_their_own_index(load: Callable) -> None:
    one, other = (named(load(retrieval_method=f"{place}/tiny")) for place in ("models", "other"))
    assert one != other


def test_name_that_is_not_a_file_name(load: Callable, tmp_path: Path) -> None:
    for name in ("intfloat/e5-base-v2", r"C:\models\e5", "e5:base", "a*b?", "e5.", "..", "x" * 300 + "/y", "é 5"):
        file = named(load(retrieval_method=name, model2path={name: "models/an encoder*"}))
        assert file.parent == tmp_path
        assert file.name.startswith("corpus.an-encoder-")
        assert not set(file.name) & set('\\/:*?"<>| ')
    for name in ("e5", "bge-base-en-v1.5", "mini_lm"):  # as it has always been
        assert named(load(retrieval_method=name)).name == f"corpus.{name}.index"
