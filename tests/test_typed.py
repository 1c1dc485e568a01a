"""JSON values become records only if each value is of its annotation's kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

from utils.schema import Outcome
from utils.typed import record, typed


class Pair(NamedTuple):
    low: float
    high: float = 1.0


@dataclass(frozen=True)
class Shelf:
    name: str
    pairs: list[Pair]
    notes: dict[str, Any] = field(default_factory=dict)
    size: int | None = None
    outcomes: tuple[Outcome, ...] = ()


def test_values_become_what_the_annotations_say() -> None:
    value = {"name": "a", "pairs": [[0, 0.5], {"low": 2}], "size": None, "outcomes": ["usable"], "unknown": 1}
    assert record(Shelf, value, "it") == Shelf("a", [Pair(0, 0.5), Pair(2)], {}, None, (Outcome.USABLE,))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": 1}, "it.name must be str, not int"),
        ({"pairs": {}}, "it.pairs must be list"),
        ({"pairs": [[1, 2], "x"]}, r"it.pairs\[1\] must be Pair, not str"),
        ({"pairs": [[1, 2, 3]]}, "longer"),
        ({"pairs": [{"high": 1}]}, r"it.pairs\[0\].*low"),
        ({"notes": []}, "it.notes must be dict"),
        ({"size": True}, "it.size must be int, not bool"),
        ({"size": 2**63}, "it.size must be int"),
        ({"size": 1.0}, "it.size must be int, not float"),
        ({"outcomes": ["fine"]}, r"it.outcomes\[0\] must be Outcome"),
        ({"outcomes": [[]]}, r"it.outcomes\[0\] must be Outcome"),
    ],
)
def test_another_kind_of_value_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        record(Shelf, {"name": "a", "pairs": []} | change, "it")


def test_a_missing_field_and_none_are_told_apart() -> None:
    with pytest.raises(ValueError, match="pairs"):
        record(Shelf, {"name": "a"}, "it")
    assert typed(int | None, None, "it") is None
    with pytest.raises(ValueError, match="it must be int"):
        typed(int, None, "it")
