"""The largest wins and losses of each comparison, few of them, with ranks that equal scores share."""

from __future__ import annotations

import numpy as np

from utils.data.judged import JudgedPool
from utils.evaluation.wins_and_losses import CHARACTERS, QUERIES, TOP, wins_and_losses

PAIRS = [("model", "first")]


def pool(number: int, size: int = 3) -> JudgedPool:
    """A query whose last passage is relevant."""
    return JudgedPool(f"q{number}", [f"{number} {i}" for i in range(size)], np.arange(size) // (size - 1), query_id="x")


def test_wins_and_losses_are_told_with_ranks_that_equal_scores_share() -> None:
    scores = {"model": [np.array([0.0, 0.0, 1.0])] * 3, "first": [np.array([2.0, 1.0, 1.0])] * 3}
    values = {"model": [1.0, 0.5, 0.2], "first": [0.5, 0.5, 0.9]}
    won, lost = wins_and_losses([pool(i) for i in range(3)], scores, values, PAIRS)
    assert (won.query, lost.query) == ("q0", "q2")
    assert won.values == {"model": 1.0, "first": 0.5}
    assert [(one.text, one.grade, one.ranks) for one in won.passages] == [
        ("0 2", 1, {"model": 1, "first": 2}),
        ("0 0", 0, {"model": 2, "first": 1}),
        ("0 1", 0, {"model": 2, "first": 2}),
    ]


def test_few_queries_and_the_first_passages_are_told() -> None:
    count, size = 500, 40
    rng = np.random.default_rng(0)
    pools = [pool(i, size)._replace(query="long " * CHARACTERS) for i in range(count)]
    scores = {name: list(rng.normal(size=(count, size))) for name in ("model", "first", "base")}
    values = {name: list(rng.random(count)) for name in scores}
    found = wins_and_losses(pools, scores, values, [*PAIRS, ("model", "base")])
    assert QUERIES / 2 < len(found) <= QUERIES
    gains = np.subtract(values["model"], values["first"])
    shown = {one.values["model"] - one.values["first"] for one in found}
    assert {gains.max(), gains.min()} <= shown
    for one in found:
        assert len(one.query) == CHARACTERS
        assert len(one.passages) <= 3 * TOP + 1
        assert any(passage.grade for passage in one.passages)


def test_nothing_is_told_of_no_difference_or_an_empty_pool() -> None:
    assert wins_and_losses([], {"model": [], "first": []}, {"model": [], "first": []}, PAIRS) == []
    empty = [JudgedPool("q", [], np.array([], dtype=int), missed=(1,))]
    scores = {name: [np.array([])] for name in ("model", "first")}
    assert wins_and_losses(empty, scores, {"model": [0.0], "first": [0.0]}, PAIRS) == []
    (lost,) = wins_and_losses(empty, scores, {"model": [0.0], "first": [0.5]}, PAIRS)
    assert lost.passages == []
