"""The guard: what it is read from, and that it catches a model that has forgotten."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from trainings import evaluations, train_evaluated, write_rows
from utils.data.judged import JudgedSet
from utils.errors import EXIT_REGRESSION, InputError
from utils.training import guard
from utils.training.guard import pools_of_set, read_guard

pytestmark = pytest.mark.usefixtures("one_thread")


def save_beir(folder: Path, queries: int, documents: int = 40) -> Path:
    """Save a set in which query n asks for document n; a second document is judged irrelevant."""
    (folder / "qrels").mkdir(parents=True)
    texts = [{"_id": f"d{n}", "title": "", "text": f"town {n} holds a market"} for n in range(documents)]
    write_rows(folder / "corpus.jsonl", texts)
    write_rows(folder / "queries.jsonl", [{"_id": f"q{n}", "text": f"market of town {n}"} for n in range(queries)])
    lines = [f"q{n}\td{n}\t2\nq{n}\td{n + 1}\t0\n" for n in range(queries)]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder


def test_a_pool_holds_the_judged_documents_then_the_best_of_bm25() -> None:
    documents = {f"d{n}": f"town {n}" for n in range(60)} | {"far": "a lake", "near": "town hall of the king"}
    grades = {f"d{n}": n % 3 for n in range(30)} | {"far": 0}
    (pool,) = pools_of_set(JudgedSet("set", {"q": "hall of the king"}, documents, {"q": grades}))
    assert len(pool.passages) == guard.POOL_SIZE
    assert pool.grades.tolist() == [2] * 10 + [0] * 10  # of 20 relevant ones the ten with the best grade
    (pool,) = pools_of_set(JudgedSet("set", {"q": "hall of the king"}, documents, {"q": {"far": 1, "d3": 0}}))
    assert pool.passages[:3] == ["a lake", "town 3", "town hall of the king"]
    assert pool.grades.tolist() == [1] + [0] * 19
    assert pool.missed == ()
    (pool,) = pools_of_set(JudgedSet("set", {"q": "lake"}, documents, {"q": {"gone": 2, "far": 1, "lost": 0}}))
    assert (pool.passages[0], pool.missed) == ("a lake", (2,))


def test_rows_and_folders_share_the_queries_and_the_seed_draws_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MOST_QUERIES", 10)
    folder = save_beir(tmp_path / "beir", 30)
    rows = write_rows(tmp_path / "rows.jsonl", [{"query": f"q{n}", "pos": ["yes"], "neg": ["no"]} for n in range(30)])
    paths = [str(folder), str(rows)]
    pools = read_guard(paths, 1, print)
    assert [len(pool.passages) for pool in pools] == [20] * 5 + [2] * 5
    assert pools[0].grades.max() == 2

    def queries(seed: int) -> list[str]:
        return [pool.query for pool in read_guard(paths, seed, print)]

    assert queries(1) == [pool.query for pool in pools] != queries(2)
    assert read_guard([], 1, print) == []


def test_a_guard_without_anything_to_rank_is_refused(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"query": "q", "pos": ["yes"]}])
    with pytest.raises(InputError, match="no query has both a relevant passage and another to rank"):
        read_guard([str(rows)], 1, print)
    with pytest.raises(InputError, match=r"guard data none\.jsonl not found"):
        read_guard(["none.jsonl"], 1, print)


def test_planted_forgetting_is_caught_in_a_training(
    trained: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base knows that rivers answer; the new rows teach rules of another kind, with rivers on the wrong side."""
    known = [json.loads(line) for line in data.read_text().splitlines()]
    new = [
        {
            "query": f"which is it, {n}?",
            "pos": [f"a lake {n}", f"a kite {n}"],
            "neg": [f"a river {n} {i}" for i in "abc"],
        }
        for n in range(240)
    ]
    guard_rows = write_rows(tmp_path / "guard.jsonl", known[:60])
    rows = write_rows(tmp_path / "new.jsonl", new)
    folder = tmp_path / "out"
    flags = ("--guard_data", str(guard_rows), "--save_steps", "0", "--fail_on_regression")
    assert train_evaluated(trained, rows, folder, *flags) == EXIT_REGRESSION
    found = evaluations(folder)
    assert found["difference"]["outcome"] == "better"
    assert found["guard"]["difference"]["outcome"] == "worse"
    assert "BETTER AT HOME, WORSE ABROAD" in caplog.text
    assert "verdict: better at home, worse abroad" in capsys.readouterr().out
    assert "nDCG@10, guard" in (folder / "README.md").read_text()
    best = found["guard"]["best"]
    assert best["nDCG_10"] == pytest.approx(np.mean(best["values"]))


def test_a_guard_that_is_trained_on_is_noted(
    tiny_reranker: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_beir(tmp_path / "beir", 8)
    flags = ("--guard_data", str(data), str(folder), "--dry_run")
    assert train_evaluated(tiny_reranker, data, tmp_path / "out", *flags) == 0
    assert "share a query or passage with --guard_data" in caplog.text
