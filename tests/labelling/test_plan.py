"""The number of calls of a run, by hand."""

from __future__ import annotations

from utils.labelling.plan import Plan


def test_calls_by_hand() -> None:
    plan = Plan(examples=10, candidates=4, sources=1000)
    assert plan.expected == 20 * (1 + 3)
    assert plan.largest == 1000 * (1 + 4) * 3
    assert Plan(10, 4, 1000, max_attempts=5, windows=2).largest == 5 * (1 + 4) * 2 * 3
    assert Plan(10, 2, 8).expected == 8 * (1 + 2)
    limited = Plan(10, 4, 1000, max_calls=30)
    assert str(limited) == "10 examples from up to 1000 sources: about 30 calls expected, 30 at most"
