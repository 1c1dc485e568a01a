"""Milvus Lite, started from its file, against FAISS; what cannot be opened is refused in one line."""

from __future__ import annotations

import builtins
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kills import kill_after_three_blocks
from miniature import WORDS
from utils.config import load_config
from utils.corpus.documents import Corpus
from utils.errors import InputError, RunError
from utils.files import SCRIPTS
from utils.retrieval.arms import ARMS
from utils.retrieval.milvus_store import MilvusIndex, MilvusOptions, connect, open_milvus
from utils.retrieval.retriever import Retriever

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
        both = (each.retrieve(list(ARMS), *some, 10) for each in (over, retriever))
        for theirs, ours in zip(*both, strict=True):
            for arm in ARMS:
                assert [c.document.id for c in theirs[arm]] == [c.document.id for c in ours[arm]], arm
                np.testing.assert_allclose([c.score for c in theirs[arm]], [c.score for c in ours[arm]], atol=1e-5)


def test_killed_loading_resumes(retriever: Retriever, tiny_encoder: Path, tmp_path: Path, encoded: list[int]) -> None:
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


# Opens a store, searches it and ends, as a script would; waits for a line of input before it ends.
OPENED = """
import sys
from pathlib import Path
from utils import cli
from utils.corpus.documents import Corpus
from utils.retrieval.encoder import Encoder, EncoderOptions
from utils.retrieval.milvus_store import open_milvus


import builtins
from pathlib import Path
from typing import Any

import pytest

from utils.errors import InputError
from utils.retrieval.milvus_store import connect
from utils.retrieval.retriever import Retriever

def main(argv):
    encoder = Encoder(Path({encoder!r}), EncoderOptions(method="tiny", half=False))
    store = open_milvus(Corpus(Path({corpus!r})), encoder, {uri!r})
    print(store.search(store.vectors([3]), 1)[1][0, 0], flush=True)
    sys.stdin.readline()

cli.run(main)
"""


def test_good_run_shows_no_traceback_and_others_learn_that_it_has_the_file(
    retriever: Retriever, tmp_path: Path
) -> None:
    uri = str(tmp_path / "vectors.db")
    names = {"corpus": str(retriever.corpus.path), "encoder": str(retriever.encoder.path), "uri": uri}
    command = [sys.executable, "-c", OPENED.format(**names)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        assert process.stdout
        assert process.stdout.readline() == "3\n"
        with pytest.raises(InputError, match=r"vectors\.db: another process has it open: wait for it, name"):
            connect(uri)
        _, errors = process.communicate("\n", timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert "ERROR" not in errors
    connect(uri)


@pytest.mark.parametrize(
    ("index", "search_params", "problem"),
    [
        ({"index_type": "NOPE"}, {}, r"milvus_index \{'index_type': 'NOPE'\} cannot be built \(unknown index_type"),
        ({"index_type": "IVF_PQ"}, {}, r"milvus_index .* cannot be built \("),
        ({"index_type": 5}, {}, "must name an index_type and its params"),
        ({"params": {}}, {}, "must name an index_type and its params"),
        ({"index_type": "HNSW", "params": 3}, {}, "must name an index_type and its params"),
        ({"index_type": "FLAT", "metric_type": "L2"}, {}, "no metric_type"),
        ({"index_type": "HNSW", "params": {"M": "many"}}, {}, "milvus_index: params: M: 'many' does not suit HNSW"),
        ({"index_type": "HNSW", "params": {"nlist": 4}}, {}, "nlist: 4 does not suit HNSW, which takes M and ef"),
        ({"index_type": "IVF_FLAT", "params": {"nlist": -4}}, {}, "which takes nlist, at least 1"),
        (
            {"index_type": "HNSW"},
            {"ef": 0},
            "milvus_search_params: ef: 0 does not suit HNSW, which takes ef, at least 1",
        ),
        ({"index_type": "FLAT"}, {"nprobe": 4}, "milvus_search_params: nprobe: 4 does not suit FLAT, which takes none"),
        ({"index_type": "HNSW_SQ"}, {"ef": "x"}, r"milvus_search_params \{'ef': 'x'\}: a search of HNSW_SQ fails"),
    ],
)
def test_index_that_milvus_does_not_know_is_refused_before_encoding(
    retriever: Retriever, tmp_path: Path, encoded: list[int], index: dict, search_params: dict, problem: str
) -> None:
    with pytest.raises(InputError, match=problem) as refused:
        open_milvus(
            retriever.corpus, retriever.encoder, str(tmp_path / "v.db"), MilvusOptions(None, index, search_params)
        )
    assert "\n" not in str(refused.value)
    assert not encoded


def test_index_that_milvus_knows_is_built(retriever: Retriever, tmp_path: Path) -> None:
    index = {"index_type": "HNSW", "params": {"M": 8, "efConstruction": 40}}
    uri = str(tmp_path / "vectors.db")
    store = open_milvus(retriever.corpus, retriever.encoder, uri, MilvusOptions(index=index, search_params={"ef": 90}))
    assert store.search(retriever.index.vectors([5]), 1)[1].tolist() == [[5]]
    assert [name for name in connect(uri).list_collections() if name.endswith("_trial")] == []


def test_damaged_file_is_refused(retriever: Retriever, tiny_encoder: Path, tmp_path: Path) -> None:
    uri = str(tmp_path / "vectors.db")
    open_milvus(retriever.corpus, retriever.encoder, uri)
    from milvus_lite.server_manager import server_manager_instance

    server_manager_instance.release_server(uri)
    for file in Path(uri).rglob("*"):
        if file.is_file():
            file.write_bytes(b"damaged")
    with pytest.raises((InputError, RunError), match="Milvus") as refused:
        open_milvus(retriever.corpus, retriever.encoder, uri)
    assert "\n" not in str(refused.value)


def test_an_index_that_is_still_being_written_is_loaded_once_it_is_whole() -> None:
    from pymilvus.exceptions import MilvusException

    from utils.retrieval import milvus_store

    class Busy:
        loads = 0

        def load_collection(self, name: str, timeout: float) -> None:
            self.loads += 1
            if self.loads < 3:
                raise MilvusException(message="Failed to read all data for array (file seems not fully written?)")

    client = Busy()
    milvus_store._load(client, "corpus")
    assert client.loads == 3


def test_token_never_shows(config_file: Path) -> None:
    config_file.write_text(config_file.read_text() + "milvus_token: root:secret\n")
    assert "secret" not in repr(load_config(config_file))


def test_address_where_nothing_answers_is_refused() -> None:
    with pytest.raises(InputError, match=r"milvus_uri http://127\.0\.0\.1:9: cannot be opened") as refused:
        connect("http://127.0.0.1:9")
    assert "\n" not in str(refused.value)


def test_file_that_cannot_be_used_is_refused(retriever: Retriever, tmp_path: Path) -> None:
    (tmp_path / "old.db").write_text("an older version's file")
    for name in ("old.db", "vectors.sqlite"):
        with pytest.raises(InputError, match=f"milvus_uri .*{name}: Milvus Lite keeps its vectors in a folder"):
            connect(str(tmp_path / name))
    with pytest.raises(InputError, match=r"milvus_uri .*: .*; name a folder that can be written"):
        connect(str(tmp_path / "old.db" / "vectors.db"))
    with pytest.raises(InputError, match=r"milvus_uri .*: Milvus Lite cannot open it \(.*too long"):
        connect(str(tmp_path / f"{'n' * 300}.db"))
    for address in (f"unix:{tmp_path}/none.sock", "ftp://host", "http://127.0.0.1:port"):
        with pytest.raises(InputError, match="cannot be opened") as refused:
            connect(address)
        assert "\n" not in str(refused.value)


def test_missing_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pymilvus"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="needs pymilvus"):
        connect("vectors.db")


def test_row_that_the_collection_lacks_is_told() -> None:
    class Client:
        def get(self, *_: object, **__: object) -> list[dict]:
            return [{"row": 2, "vector": [1.0]}]

    index = MilvusIndex(Client(), "a_name", MilvusOptions())
    assert index.vectors([2]).tolist() == [[1.0]]
    with pytest.raises(RunError, match="no vector of row 3: drop collection a_name"):
        index.vectors([2, 3])
