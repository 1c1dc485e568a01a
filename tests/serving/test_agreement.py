"""Agreement of scores and orders, with figures that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from utils.data.judged import JudgedPool
from utils.errors import InputError
from utils.evaluation.metrics import pairs_of
from utils.serving.agreement import (
    LOGITS,
    PROBABILITIES,
    SCALES,
    SIGMOID_TWICE,
    Bounds,
    Scored,
    ServingResult,
    measure,
)

BOUNDS = Bounds(tau=0.95, tolerance=0.1)
JUDGED = [JudgedPool(query, ["a", "b", "c"], np.array([1, 0, 0])) for query in ("one", "two")]
OURS = np.array([3.0, 1.0, -2.0, 2.0, 0.0, -4.0])


def compared(theirs: np.ndarray, cut: list[int] | None = None) -> ServingResult:
    marked = np.isin(np.arange(6), cut or [])
    return measure(JUDGED, Scored(pairs_of(JUDGED), OURS, theirs, marked), BOUNDS, {})


@pytest.mark.parametrize("scale", SCALES)
def test_scale_is_detected(scale: str) -> None:
    result = compared(SCALES[scale](OURS))
    assert (result.scale, result.agreeing, result.tau, result.same_top, result.same_order) == (scale, 1, 1, 1, 1)
    assert result.faithful == (scale != SIGMOID_TWICE)
    assert result.largest == pytest.approx(0)
    assert ServingResult.from_json(result.to_json()) == result


def test_a_swap_in_one_of_two_queries() -> None:
    result = compared(np.array([1.0, 3.0, -2.0, 2.0, 0.0, -4.0]))
    assert result.tau == pytest.approx((1 / 3 + 1) / 2)  # of three pairs of passages, one is the other way round
    assert (result.same_top, result.same_order, result.agreeing) == (0.5, 0.5, pytest.approx(4 / 6))
    assert result.largest == pytest.approx(2 / OURS.std())
    mrr = next(row for row in result.metrics if row.metric == "MRR")
    assert mrr.values == {"folder": 1, "served": 0.75}
    assert result.differences["MRR"].difference == -0.25
    assert not result.faithful


def test_scores_may_differ_where_the_order_does_not() -> None:
    assert compared(OURS + 0.1 * OURS.std() * 0.99).faithful
    moved = compared(OURS + 1)
    assert (moved.tau, moved.agreeing, moved.faithful) == (1, 0, False)


def test_pairs_that_are_cut_count_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.serving.agreement.AGREEING", 0.8)
    theirs = OURS + np.array([0, 0, 0, 0, 0, 0.5])
    assert (compared(theirs).agreeing_cut, compared(theirs).faithful) == (None, True)
    cut = compared(theirs, cut=[4, 5])
    assert (cut.cut, cut.agreeing_cut, cut.faithful) == (2, 0.5, False)


def test_ties_are_no_agreement() -> None:
    saturated = np.float16(expit(OURS + 20)).astype(float)
    assert compared(saturated).tau == 0
    assert compared(np.full(6, 0.5)).same_top == 0
    assert compared(expit(OURS)).scale == PROBABILITIES
    assert compared(OURS / 100).scale == LOGITS
    with pytest.raises(InputError, match="scores all pairs alike"):
        measure(JUDGED, Scored(pairs_of(JUDGED), np.ones(6), OURS, np.zeros(6, bool)), BOUNDS, {})
