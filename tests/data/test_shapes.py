"""Triplets, tables and BEIR folders become rows of query, pos and neg."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from utils.data.rows import read_examples
from utils.data.shapes import BEIR, TRIPLETS, read_shaped
from utils.errors import InputError
from utils.schema import ContrastiveExample


def shaped(path: Path, *rows: Any, shape: str | None = None) -> list[dict[str, Any]]:
    if rows:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [row for _, row in read_shaped(path, pytest.fail, shape=shape)]


def test_triplets_of_one_query_and_positive_are_one_row(tmp_path: Path) -> None:
    triplets = [
        {"anchor": "q", "positive": "p", "negative": "n"},
        {"anchor": "q", "positive": "p", "negative": "m"},
        {"anchor": "q", "positive": "other", "negative": "n"},
        {"query": "r", "positive": "p", "negative_1": "a", "negative_2": ["b", "c"], "label": 1},
    ]
    assert shaped(tmp_path / "a.jsonl", *triplets) == [
        {"query": "q", "pos": ["p"], "neg": ["n", "m"]},
        {"query": "q", "pos": ["other"], "neg": ["n"]},
        {"query": "r", "pos": ["p"], "neg": ["a", "b", "c"]},
    ]


def test_triplets_with_other_names_are_taken_by_their_order_if_asked(tmp_path: Path) -> None:
    triplet = {"first": "q", "second": "p", "third": "n", "score": 0.5}
    assert shaped(tmp_path / "a.jsonl", triplet, shape=TRIPLETS) == [{"query": "q", "pos": ["p"], "neg": ["n"]}]
    assert shaped(tmp_path / "a.jsonl") == [triplet]
    with pytest.raises(InputError, match="line 1: a triplet has the columns anchor, positive and negative"):
        shaped(tmp_path / "b.jsonl", {"only": "q"}, shape=TRIPLETS)


def test_rows_that_are_none_stay_as_they_are(tmp_path: Path) -> None:
    rows = [{"query": "q", "pos": "not a list"}, {"query": "q", "pos": ["p"], "positive": "?"}]
    assert shaped(tmp_path / "a.jsonl", *rows) == rows


def test_cells_of_a_table_are_lists_or_the_only_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text('query\tpos\tneg\tpos_scores\nq\tp\t"[""a"", ""b""]"\t[0.5]\nr\t[no list\t\t\n')
    assert read_examples([path]) == [
        ContrastiveExample("q", ["p"], ["a", "b"], [0.5]), ContrastiveExample("r", ["[no list"], []),
    ]  # fmt: skip


def beir(folder: Path, **qrels: str) -> Path:
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{i}", "title": "Arden" if i == 1 else "", "text": f"text {i}"} for i in range(4)]
    queries = [{"_id": "q1", "text": "who?"}, {"_id": "q2", "text": "where?"}]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in qrels.items():
        (folder / "qrels" / f"{name}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{text}")
    return folder


def test_a_beir_folder_s_training_queries_are_rows(tmp_path: Path) -> None:
    judged = "q1\td1\t1\nq1\td2\t0\nq1\tgone\t1\nq2\td3\t0\nq9\td1\t1\n"
    folder = beir(tmp_path / "set", train=judged, test="q2\td3\t1\n")
    assert read_examples([folder]) == [ContrastiveExample("who?", ["Arden\ntext 1"], ["text 2"])]
    assert shaped(folder, shape=BEIR) == shaped(folder)


def test_grades_above_1_are_kept(tmp_path: Path) -> None:
    folder = beir(tmp_path / "set", test="q1\td0\t1\nq1\td1\t2\nq1\td2\t0\n")
    (row,) = read_examples([folder])
    assert (row.pos, row.neg, row.pos_grades) == (["Arden\ntext 1", "text 0"], ["text 2"], [2, 1])
