"""BEIR folders, qrels and runs: read as they are, and bad ones reported in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from utils.data.judged import JudgedSet, is_beir, judged_share, missed, pools_of_run, read_beir, read_run
from utils.errors import InputError


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """Two queries on three documents: q1 has a relevant and an unjudged document, q2 nothing relevant."""
    folder = tmp_path / "towns"
    (folder / "qrels").mkdir(parents=True)
    rows(
        folder / "corpus.jsonl",
        {"_id": "d1", "title": "Arden", "text": "A mining town."},
        {"_id": "d2", "text": "A lake."},
    )
    rows(folder / "queries.jsonl", {"_id": "q1", "text": "who founded Arden?"}, {"_id": 2, "text": "where?"})
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n2\td2\t0\n")
    return folder


def rows(path: Path, *values: dict) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


def test_a_beir_folder_is_read_with_its_grades(beir: Path) -> None:
    assert is_beir(beir)
    judged = read_beir(beir)
    assert judged.folder == beir
    assert judged.documents == {"d1": "Arden\nA mining town.", "d2": "A lake."}
    assert judged.queries == {"q1": "who founded Arden?"}  # the other has nothing relevant
    assert judged.grades == {"q1": {"d1": 2, "d2": 0}}


def test_relevant_documents_that_the_corpus_lacks_count_as_missed(beir: Path, caplog: pytest.LogCaptureFixture) -> None:
    (beir / "qrels" / "test.tsv").write_text("q1\td1\t2\nq1\td9\t3\nq1\td8\t0\n")
    judged = read_beir(beir)
    assert "judges 2 documents that are not in" in caplog.text
    (pool,) = pools_of_run(judged, {"q1": {"d1": 1.0}})
    assert (pool.grades.tolist(), pool.missed) == ([2], (3,))


def test_a_run_is_read_for_the_judged_queries(beir: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("q1 Q0 d2 1 3.5 first\n\nq9 Q0 d1 1 1 first\n")
    assert read_run(tmp_path / "run", read_beir(beir)) == {"q1": {"d2": 3.5}}  # q9 is not of the set


def test_judged_queries_that_a_run_lacks_are_told(beir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (beir / "qrels" / "test.tsv").write_text("q1\td1\t2\n2\td2\t1\n")
    (tmp_path / "run").write_text("q1 Q0 d2 1 3.5 first\n")
    judged = read_beir(beir)
    run = read_run(tmp_path / "run", judged)
    assert "lacks 1 of 2 judged queries, which count as 0" in caplog.text
    first, second = pools_of_run(judged, run)
    assert (second.passages, second.missed) == ([], (1,))
    assert missed([first, second]) == 1.0


def test_pools_are_the_best_of_a_run_and_count_what_they_lack() -> None:
    judged = JudgedSet(Path("s"), {"q": "text"}, {"a": "A", "b": "B", "c": "C"}, {"q": {"a": 2, "b": -1, "c": 1}})
    run = {"q": {"b": 1.0, "a": 3.0, "c": 0.5}}
    (whole,), (cut,) = pools_of_run(judged, run), pools_of_run(judged, run, 2)
    assert (whole.ids, whole.grades.tolist(), whole.missed) == (["a", "b", "c"], [2, -1, 1], ())
    assert (cut.passages, cut.first.tolist(), cut.missed) == (["A", "B"], [3.0, 1.0], (1,))
    assert missed([whole, cut]) == 1 / 4
    (unknown,) = pools_of_run(judged._replace(grades={"q": {"a": 1}}), run)
    assert unknown.unjudged == 2
    assert judged_share([unknown, whole]) == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("corpus.jsonl", '{"text": "no id"}\n', 'corpus.jsonl, line 1: "_id" is missing'),
        ("corpus.jsonl", '{"_id": "d1", "text": 3}\n', 'corpus.jsonl, line 1: "text" must be a string'),
        (
            "corpus.jsonl",
            '{"_id": "d1", "text": "a"}\n{"_id": "d1", "text": "b"}\n',
            "line 2: \"_id\" 'd1' is a duplicate",
        ),
        ("corpus.jsonl", None, "corpus.jsonl not found"),
        ("queries.jsonl", None, "queries.jsonl not found"),
        ("qrels/test.tsv", None, "has no qrels"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\tgood\n", "line 2: the grade must be a whole number"),
        ("qrels/test.tsv", "q1\td1\t1.5\n", "line 1: the grade must be a whole number, not '1.5'"),
        ("qrels/test.tsv", "q1\td1\t1e300\n", "line 1: the grade must be a whole number, not '1e300'"),
        ("qrels/test.tsv", "q1\td1\t1\nq1\td2\tnan\n", "line 2: the grade must be a whole number, not 'nan'"),
        ("qrels/test.tsv", "q1\td1\t1\nq1\td1\t2\n", "line 2: query 'q1' and document 'd1' have another grade above"),
        ("qrels/test.tsv", "q1\td1\t-1\n", "judges no query of"),
        ("qrels/test.tsv", "q7\td1\t1\n", "judges no query of"),
        ("qrels/test.tsv", "q1\td9\t1\n", "judges no query of"),
        ("qrels/test.tsv", "q1 d1\n", "line 1: expected query-id, corpus-id and score"),
    ],
)
def test_a_bad_folder_is_one_line(beir: Path, file: str, text: str | None, problem: str) -> None:
    if text is None:
        (beir / file).unlink()
    else:
        (beir / file).write_text(text)
    with pytest.raises(InputError) as error:
        read_beir(beir)
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("q1 Q0 d9 1 3.5 first\n", "line 1: document 'd9' is not in"),
        ("q1 Q0 d1 1 high first\n", "line 1: the score must be a finite number, not 'high'"),
        ("q1 Q0 d1 1 nan first\n", "line 1: the score must be a finite number, not 'nan'"),
        ("q1 Q0 d1 1 2 first\nq1 Q0 d1 2 1 first\n", "line 2: document 'd1' is ranked twice for query 'q1'"),
        ("", "ranks none of the judged queries"),
        ("q1 d1 3.5\n", "line 1: expected query, Q0, document, rank, score and name"),
        ("q9 Q0 d1 1 3.5 first\n", "ranks none of the judged queries"),
    ],
)
def test_a_bad_run_is_one_line(beir: Path, tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "run").write_text(text)
    with pytest.raises(InputError) as error:
        read_run(tmp_path / "run", read_beir(beir))
    assert problem in str(error.value)


def test_pipes_in_a_folder_are_not_waited_for(beir: Path) -> None:
    os.mkfifo(beir / "qrels" / "dev.tsv")
    assert read_beir(beir).grades["q1"] == {"d1": 2, "d2": 0}
    (beir / "qrels" / "test.tsv").unlink()
    with pytest.raises(InputError, match="no qrels"):
        read_beir(beir)
    (beir / "queries.jsonl").unlink()
    os.mkfifo(beir / "queries.jsonl")
    with pytest.raises(InputError, match=r"queries\.jsonl"):
        read_beir(beir)
