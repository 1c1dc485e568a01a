"""The orders before reranking: of a run, of the retriever, of BM25 and of both; no order leaks what is relevant."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from miniature import FACTS, TOWNS, lines, row, write_beir, write_run
from utils.config import Config, load_config
from utils.data import first_stage
from utils.data.first_stage import FIRST, HYBRID, LEXICAL, read_test_data, without_ties
from utils.errors import InputError
from utils.retrieval.bm25 import BM25
from utils.retrieval.encoder import PASSAGE, QUERY, open_encoder
from utils.retrieval.stores import CHECKED


@pytest.fixture
def config(config_file: Path) -> Config:
    """The miniature configuration; its index is another corpus's."""
    return load_config(config_file)


def test_ties_are_broken_in_single_precision_and_nothing_else_changes() -> None:
    assert without_ties(np.array([1.0, 3.0, 2.0])).tolist() == [1, 3, 2]
    scores = np.array([0.0, 1.0, 0.0, 1.0, 1.0 - 1e-12, 0.0])
    found = without_ties(scores)
    assert found.dtype == np.float32
    assert np.argsort(-found).tolist() == [1, 3, 4, 0, 2, 5]
    assert len(set(found.tolist())) == 6
    np.testing.assert_allclose(found, scores, atol=1e-6)
    assert without_ties(np.zeros(0)).tolist() == []


def test_a_run_gives_pools_and_first_stage(tmp_path: Path) -> None:
    folder, run = write_beir(tmp_path / "towns"), write_run(tmp_path / "first.trec")
    test = read_test_data(str(folder), str(run))
    assert (test.first_stage, test.graded, list(test.orders)) == ("first.trec", True, [FIRST, LEXICAL, HYBRID])
    assert [pool.query_id for pool in test.pools] == [f"q-{town}" for town in TOWNS]
    assert all(np.argsort(-one).tolist() == list(range(10)) for one in test.orders[FIRST])
    cut = read_test_data(str(folder), str(run), depth=3)
    assert [list(pool.ids) for pool in cut.pools] == [list(pool.ids[:3]) for pool in test.pools]
    everything = BM25([f"{town} {fact}." for town in TOWNS for fact in FACTS])  # not the pool's documents alone
    names = [f"{town}-{i}" for town in TOWNS for i in range(3)]
    for pool, scores in zip(test.pools, test.orders[LEXICAL], strict=True):
        expected = everything.scores(pool.query)[[names.index(name) for name in pool.ids]]
        np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_ties_of_a_run_keep_its_order(tmp_path: Path) -> None:
    folder, run = write_beir(tmp_path / "towns"), tmp_path / "first.trec"
    names = ["Arden-2", "Belmont-0", "Arden-0", "Arden-1"]
    run.write_text("".join(f"q-Arden Q0 {name} 1 {score} drawn\n" for name, score in zip(names, "2222", strict=True)))
    test = read_test_data(str(folder), str(run))
    assert test.pools[0].ids == names
    assert np.argsort(-test.orders[FIRST][0]).tolist() == [0, 1, 2, 3]
    assert len(set(test.orders[FIRST][0].tolist())) == 4


def test_the_retriever_searches_the_folders_corpus_and_leaves_the_configurations_index_alone(
    tmp_path: Path, config: Config, encoded: list[int]
) -> None:
    folder = write_beir(tmp_path / "towns")
    index = Path(str(config.index_path))
    index.write_bytes(b"of another corpus")
    test = read_test_data(str(folder), config=config, depth=5)
    assert (test.first_stage, sum(encoded)) == ("tiny", len(TOWNS) * len(FACTS) + CHECKED)
    encoder = open_encoder(config)
    texts = [f"{town} {fact}." for town in TOWNS for fact in FACTS]
    similarities = encoder.encode([pool.query for pool in test.pools], QUERY) @ encoder.encode(texts, PASSAGE).T
    for pool, expected in zip(test.pools, similarities, strict=True):
        assert pool.passages == [texts[i] for i in np.argsort(-expected, kind="stable")[:5]]
    encoded.clear()
    assert read_test_data(str(folder), config=config, depth=5).pools[0].ids == test.pools[0].ids
    assert sum(encoded) == CHECKED  # the vectors are kept
    assert index.read_bytes() == b"of another corpus"


def test_the_index_of_a_folder_that_cannot_be_written_is_in_the_cache(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_beir(tmp_path / "towns")
    monkeypatch.setattr(first_stage, "CACHE", tmp_path / "cache")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder.resolve() and access(path, mode))
    read_test_data(str(folder), config=config)
    assert not list(folder.glob("*.index"))
    assert len(list((tmp_path / "cache").glob("*.corpus.tiny.index"))) == 1


def test_a_query_that_is_a_document_does_not_find_itself(tmp_path: Path, config: Config) -> None:
    folder = write_beir(tmp_path / "towns")
    queries = [{"_id": "Arden-0", "text": "Arden was founded"}, {"_id": "Arden-1", "text": "no such text"}]
    (folder / "queries.jsonl").write_bytes(lines(*queries))
    (folder / "qrels" / "test.tsv").write_text("Arden-0\tArden-1\t1\nArden-1\tArden-0\t1\n")
    test = read_test_data(str(folder), config=config, depth=24)
    assert [len(pool.ids) for pool in test.pools] == [23, 24]
    assert "Arden-0" not in test.pools[0].ids


def test_rows_are_ordered_by_bm25_or_the_encoder_and_never_by_their_place(tmp_path: Path, config: Config) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [row(f"q{i}", pos=[f"alike {i}"], neg=[f"alike {i} {j}" for j in range(3)]) for i in range(400)]
    path.write_bytes(lines(*rows, row("slate", pos=["slate quarry"], neg=["a lake"])))
    test = read_test_data(str(path))
    assert (test.first_stage, test.graded, list(test.orders)) == ("BM25", False, [FIRST])
    ranks = [int(np.argsort(-scores).tolist().index(int(np.argmax(pool.grades))))
             for pool, scores in zip(test.pools[:400], test.orders[FIRST], strict=False)]  # fmt: skip
    assert np.bincount(ranks).tolist() == pytest.approx([100] * 4, abs=30)  # all scores are 0
    assert test.pools[400].passages[int(np.argmax(test.orders[FIRST][400]))] == "slate quarry"
    assert read_test_data(str(path)).pools[0].passages == test.pools[0].passages

    named = read_test_data(str(path), config=config)
    assert (named.first_stage, list(named.orders)) == ("tiny", [FIRST, LEXICAL, HYBRID])
    encoder, pool = open_encoder(config), named.pools[400]
    expected = encoder.encode(pool.passages, PASSAGE) @ encoder.encode([pool.query], QUERY)[0]
    np.testing.assert_allclose(named.orders[FIRST][400], expected, atol=1e-3)


def test_rows_with_grades_are_graded(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(row("a"), row("b", pos=["b1", "b2"], pos_grades=[1, 2])))
    test = read_test_data(str(path))
    assert test.graded
    assert dict(zip(test.pools[1].passages, test.pools[1].grades.tolist(), strict=True))["b2"] == 2


def test_bad_combinations_are_one_line(tmp_path: Path, config: Config) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(row("a")))
    with pytest.raises(InputError, match="needs a BEIR folder"):
        read_test_data(str(path), run="first.trec")
    with pytest.raises(InputError, match="--depth 5 needs a BEIR folder"):
        read_test_data(str(path), depth=5)
    path.write_bytes(lines(row("a", neg=[])))
    with pytest.raises(InputError, match="there is nothing to rank"):
        read_test_data(str(path))
    folder = write_beir(tmp_path / "towns")
    with pytest.raises(InputError, match=r"run none\.trec not found"):
        read_test_data(str(folder), run="none.trec")
    missing = config.override(model2path={"tiny": "none"})
    with pytest.raises(InputError, match="retrieval model none not found"):
        read_test_data(str(folder), config=missing)
    shutil.rmtree(folder / "qrels")
    with pytest.raises(InputError, match="has no qrels"):
        read_test_data(str(folder), config=config)
