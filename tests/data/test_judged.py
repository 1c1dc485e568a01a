"""BEIR folders, qrels and runs: read as they are, and bad ones reported in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from utils.data.judged import is_beir, missed, read_beir, read_run
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
    assert judged.name == "towns"
    assert judged.documents == {"d1": "Arden\nA mining town.", "d2": "A lake."}
    assert judged.queries == {"q1": "who founded Arden?"}  # the other has nothing relevant
    assert judged.grades == {"q1": {"d1": 2, "d2": 0}}


def test_a_run_is_read_and_what_it_misses_is_counted(beir: Path, tmp_path: Path) -> None:
    judged = read_beir(beir)
    (tmp_path / "run").write_text("q1 Q0 d2 1 3.5 first\nq9 Q0 d1 1 1 first\n")
    run = read_run(tmp_path / "run", judged)
    assert run == {"q1": {"d2": 3.5}}
    assert missed(judged, run) == 1.0
    assert missed(judged, {"q1": {"d1": 1.0}}) == 0.0


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("corpus.jsonl", '{"text": "no id"}\n', 'corpus.jsonl, line 1: "_id" is missing'),
        ("corpus.jsonl", '{"_id": "d1", "text": 3}\n', 'corpus.jsonl, line 1: "text" must be a string'),
        ("corpus.jsonl", None, "corpus.jsonl not found"),
        ("qrels/test.tsv", None, "has no qrels"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\tgood\n", "line 2: the grade must be a whole number"),
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
        ("q1 Q0 d9 1 3.5 first\n", "line 1: document 'd9' is not in towns's corpus.jsonl"),
        ("q1 Q0 d1 1 high first\n", "line 1: the score must be a number"),
        ("q1 d1 3.5\n", "line 1: expected query, Q0, document, rank, score and name"),
        ("q9 Q0 d1 1 3.5 first\n", "ranks none of the judged queries"),
    ],
)
def test_a_bad_run_is_one_line(beir: Path, tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "run").write_text(text)
    with pytest.raises(InputError) as error:
        read_run(tmp_path / "run", read_beir(beir))
    assert problem in str(error.value)
