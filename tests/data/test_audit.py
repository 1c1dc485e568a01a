"""Rows are gathered as numbers: their places, origins and scripts, and none of their texts."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from auditing import clean_rows, write
from utils.data.audit import SAMPLE, Gathered, read_origins, script


def test_places_are_those_of_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = clean_rows(random.Random(0), 3)
    write(folder / "a.jsonl", [rows[0], "", rows[1]])
    (folder / "b.json").write_text(json.dumps(rows[2:]))
    gathered = Gathered(pytest.fail)
    gathered.read(folder)
    gathered.read(folder / "a.jsonl")
    assert [str(gathered.place(row)).removeprefix(f"{folder}/") for row in range(5)] == [
        "a.jsonl, line 1", "a.jsonl, line 3", "b.json, row 1", "a.jsonl, line 1", "a.jsonl, line 3",
    ]  # fmt: skip
    assert gathered.set.tolist() == [0, 0, 0, 1, 1]
    assert len(gathered.text) == 5 * 5
    assert len(gathered.sketched) == 3 * 5  # each different text once


def test_the_sample_is_bounded_and_of_all_rows(tmp_path: Path) -> None:
    rows = [{"query": f"q{i}", "pos": ["p"], "neg": ["n"]} for i in range(3 * SAMPLE)]
    gathered = Gathered(pytest.fail)
    gathered.read(write(tmp_path / "a.jsonl", rows))
    drawn = {int(one.query[1:]) for one in gathered.sample}
    assert len(drawn) == SAMPLE
    assert 0.28 < sum(number < SAMPLE for number in drawn) / SAMPLE < 0.39


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a lake", "LATIN"),
        ("été é", "LATIN"),
        ("озеро и lake", "CYRILLIC"),
        ("湖水 清澈", "CJK"),
        ("— 12 —", "no letters"),
    ],
)
def test_scripts(text: str, name: str) -> None:
    assert script(text) == name


def test_origins_are_those_of_all_provenance_files_of_a_folder(tmp_path: Path) -> None:
    line = {"source": "1", "entity": {"name": "Arden", "query": "What of Arden?"}}
    write(tmp_path / "a.provenance.jsonl", [{"settings": {}}, line])
    write(tmp_path / "b.provenance.jsonl", [{"row": 1, "query": "q", "passage": "p"}, {"source": 5, "entity": {}}])
    assert len(read_origins(tmp_path)) == 1
