"""A retriever that is named by the path of its folder, and corpora smaller than what is asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from miniature import LengthReranker
from utils.config import Config, load_config
from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.files import write_jsonl
from utils.retrieval.arms import ARMS, BASE, FINE_TUNED
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import open_retrieval
from utils.retrieval.stores import index_file

pytestmark = pytest.mark.usefixtures("one_thread")
Load = Callable[..., Config]


@pytest.fixture
def load(config_file: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads the configuration with other keys and no index named; copies of the encoder are in three folders."""
    for name in ("models/tiny", "other/tiny", "models/an encoder*"):
        shutil.copytree(tiny_encoder, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load(config_file.read_text()) | {"method2index": {}, "model2path": {}}

    def load(**keys: Any) -> Config:
        config_file.write_text(yaml.safe_dump(values | keys))
        return load_config(config_file)

    return load


def named(config: Config) -> Path:
    return index_file(config, Corpus(config.corpus))


def test_path_as_name_works_however_it_is_written(load: Load, tmp_path: Path) -> None:
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


def test_folders_of_one_name_have_their_own_index(load: Load) -> None:
    one, other = (named(load(retrieval_method=f"{place}/tiny")) for place in ("models", "other"))
    assert one != other


def test_name_that_is_no_file_s(load: Load, tmp_path: Path) -> None:
    for name in ("intfloat/e5-base-v2", r"C:\models\e5", "e5:base", "a*b?", "e5.", "..", "x" * 300 + "/y", "é 5"):
        file = named(load(retrieval_method=name, model2path={name: "models/an encoder*"}))
        assert file.parent == tmp_path
        assert file.name.startswith("corpus.an-encoder-")
        assert not set(file.name) & set('\\/:*?"<>| ')
    for name in ("e5", "bge-base-en-v1.5", "mini_lm"):  # as it has always been
        assert named(load(retrieval_method=name)).name == f"corpus.{name}.index"


def test_repository_that_is_not_downloaded_is_told(load: Load) -> None:
    config = load(retrieval_method="intfloat/e5-base-v2")
    with pytest.raises(InputError, match=r"retrieval model intfloat/e5-base-v2 .*models/README\.md"):
        open_retrieval(config, Corpus(config.corpus), Lambdas(1, 0, 0))


@pytest.mark.parametrize("documents", [1, 2, 4])
@pytest.mark.parametrize("store", ["Flat", "HNSW8", "milvus"])
def test_corpus_smaller_than_what_is_asked_for(load: Load, tmp_path: Path, documents: int, store: str) -> None:
    corpus = tmp_path / "few.jsonl"
    write_jsonl(corpus, ({"id": str(n), "contents": f"the lake of {n} herrings"} for n in range(documents)))
    where: dict[str, Any] = {"faiss_index_factory": store}
    if store == "milvus":
        pytest.importorskip("milvus_lite")
        where = {"vector_store": "milvus", "milvus_uri": "vectors.db"}
    config = load(retrieval_method="models/tiny", corpus_path=str(corpus), rerank_pool_factor=3, **where)
    rerankers: Any = {BASE: LengthReranker(1), FINE_TUNED: LengthReranker(-1)}
    retriever = open_retrieval(config, Corpus(corpus), Lambdas.scaled(0.8, 0.1, 0.1), rerankers)
    (found,) = retriever.retrieve(list(ARMS), ["herrings"], [retriever.corpus[0]], 5)
    for arm in ARMS:
        assert sorted(c.document.id for c in found[arm]) == [str(n) for n in range(1, documents)], arm


def test_corpus_that_shrank_below_k(load: Load, corpus_file: Path) -> None:
    for kept in (24, 3):
        rows = [json.loads(line) for line in corpus_file.read_text().splitlines()][:kept]
        write_jsonl(corpus_file, rows)
        config = load(retrieval_method="models/tiny")
        retriever = open_retrieval(config, Corpus(config.corpus), Lambdas.scaled(0.8, 0.1, 0.1))
        (found,) = retriever.retrieve(["diverse"], ["a lake"], [retriever.corpus[1]], 10)
        assert len(found["diverse"]) == min(kept - 1, 10)
