"""Validating, filling and splitting examples."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from utils.data.negatives import fill_negatives
from utils.data.rows import parse_example, read_examples
from utils.data.split import Labelled, split_examples
from utils.errors import InputError
from utils.schema import ContrastiveExample


def test_negatives_are_optional() -> None:
    assert parse_example({"query": "q", "pos": ["p"]}, "").neg == []
    assert parse_example({"query": "q", "pos": ["p"], "neg": None}, "").neg == []


def test_row_has_exactly_three_keys_without_scores() -> None:
    assert list(ContrastiveExample("q", ["p"], ["n"]).row()) == ["query", "pos", "neg"]
    assert ContrastiveExample("q", ["p"], [], [1.0], []).row()["pos_scores"] == [1.0]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"pos": ["p"], "neg": []}, '"query" must be a non-empty string'),
        ({"query": " ", "pos": ["p"]}, '"query" must be a non-empty string'),
        ({"query": "q", "pos": "p"}, '"pos" must be a list'),
        ({"query": "q", "pos": []}, '"pos" must hold at least one'),
        ({"query": "q", "pos": ["p"], "neg": [""]}, '"neg" must be a list of non-empty strings'),
        ({"query": "q", "pos": ["p"], "pos_scores": [1, 2]}, '"pos_scores" must hold one number'),
    ],
)
def test_malformed_row_is_told_with_file_and_line(tmp_path: Path, row: dict, problem: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"query": "q", "pos": ["p"]}\n' + json.dumps(row) + "\n")
    with pytest.raises(InputError) as told:
        read_examples([path])
    assert f"{path}, line 2: " in str(told.value)
    assert problem in str(told.value)


def test_folder_of_files_is_read_in_order(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"query": name, "pos": ["p"]}) + "\n")
    assert [example.query for example in read_examples([tmp_path])] == ["a", "b"]


def test_fill_takes_other_rows_passages_and_never_the_own() -> None:
    rng = random.Random(0)
    examples = [ContrastiveExample(f"q{i}", [f"p{i}", "shared"], [f"n{i}"] * (i % 3)) for i in range(20)]
    filled = fill_negatives(examples, 3, rng)
    for before, after in zip(examples, filled, strict=True):
        assert len(after.neg) == 3
        assert after.neg[: len(before.neg)] == before.neg
        assert not set(after.neg) & set(before.pos)
        added = after.neg[len(before.neg) :]
        assert len(set(added)) == len(added)


def test_fill_needs_enough_passages() -> None:
    with pytest.raises(InputError, match="too few passages"):
        fill_negatives([ContrastiveExample("q", ["p"], [])], 3, random.Random(0))


def test_split_has_nothing_in_common() -> None:
    rng = random.Random(5)
    texts = [f"text {i}" for i in range(900)]
    labelled = []
    for i in range(240):
        pos, *neg = rng.sample(texts, 3)
        entity = f"Entity {i // 3}" if i % 2 else f"entity {i // 3}"
        labelled.append(Labelled(texts[i], entity, ContrastiveExample(f"q{i}", [pos], neg)))
    split = split_examples(labelled, 0.1, random.Random(1))
    by_query = {one.example.query: one for one in labelled}
    assert len(split.test) == 24
    assert len(split.train) + len(split.test) + split.dropped == len(labelled)
    assert split.dropped <= 24
    sides = []
    for side in (split.train, split.test):
        entities = {by_query[example.query].entity.casefold() for example in side}
        sources = {by_query[example.query].source for example in side}
        passages = {text for example in side for text in example.passages}
        sides.append((entities, sources | passages))
    assert not sides[0][0] & sides[1][0]
    assert not sides[0][1] & sides[1][1]


def test_nothing_is_split_from_nothing() -> None:
    assert split_examples([], 0.2, random.Random(1)) == ([], [], 0, 0, 0, 0)
