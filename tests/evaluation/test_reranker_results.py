"""What a test of rerankers shows, on scores that a reader can check."""

from __future__ import annotations

import numpy as np
import pytest

from trials import reranker_test
from utils.errors import InputError
from utils.evaluation.metrics import Pool
from utils.evaluation.reranker_results import calibration_error, histogram, ranges, reranker_test_result, separation
from utils.schema import ContrastiveExample


def test_comparisons_are_corrected_over_the_baselines_of_a_metric() -> None:
    rng = np.random.default_rng(2)
    examples = [ContrastiveExample(f"q{i}", ["p"], ["n"] * 4) for i in range(40)]
    drawn = {name: [Pool.of(1, rng.normal(size=5)) for _ in examples] for name in ("model", "a", "b")}
    result = reranker_test_result(examples, drawn, {})
    for metric in ("MRR", "MAP"):
        one, other = (row for row in result.comparisons if row.metric == metric)
        smaller, larger = sorted((one, other), key=lambda row: row.p)
        assert (one.baseline, other.baseline) == ("a", "b")
        assert smaller.p_corrected == min(1, 2 * smaller.p)
        assert larger.p_corrected == max(larger.p, smaller.p_corrected)


def test_slices_cover_all_queries_once_for_each_kind() -> None:
    result = reranker_test()
    for kind in ("passages in the pool", "words of the positive"):
        assert sum(row.queries for row in result.slices if row.kind == kind) == result.queries == 30
    assert ranges([1, 1, 1, 1, 1, 9]) == [(1, 1), (9, 9)]
    assert ranges([3] * 5) == [(3, 3)]


def test_separation_by_hand() -> None:
    found = separation([Pool.of(1, np.array([3.0, 1.0])), Pool.of(1, np.array([0.0, 1.0]))])
    assert (found.auc, found.positive_mean, found.negative_mean) == (0.5, 1.5, 1.0)
    assert found.gap == (2 - 1) / 2
    assert calibration_error(np.full(10, 40.0), np.full(10, -40.0)) == pytest.approx(0)
    assert calibration_error(np.full(10, 40.0), np.full(10, 40.0)) == pytest.approx(0.5)
    shares = histogram(np.array([1.0, 1.0]), np.array([0.0]), bins=2)
    assert (shares.edges, shares.positives, shares.negatives) == ([0, 0.5, 1], [0, 1], [1, 0])


def test_nothing_to_rank_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to rank"):
        reranker_test_result([ContrastiveExample("q", ["p"], [])], {"model": [Pool.of(1, np.zeros(1))]}, {})
