"""Negatives for rows that have too few."""

from __future__ import annotations

import random

import pytest

from utils.data.negatives import fill_negatives
from utils.errors import InputError
from utils.schema import ContrastiveExample


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


def test_filled_negatives_are_no_positives_of_the_query() -> None:
    import random

    rows = [ContrastiveExample("q", [f"p{i}"], []) for i in range(5)] + [ContrastiveExample("r", ["n0", "n1"], [])]
    filled = fill_negatives(rows, 2, random.Random(0))
    assert all(set(one.neg) == {"n0", "n1"} for one in filled[:5])
    assert set(filled[5].neg) <= {f"p{i}" for i in range(5)}
