"""What a test of rerankers shows, on scores that a reader can check."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trials import reranker_test, result_from
from utils.data.first_stage import FIRST, HYBRID, LEXICAL, RankedPools
from utils.data.judged import JudgedPool
from utils.data.rows import pools_of_rows
from utils.evaluation.metrics import Pool
from utils.evaluation.reranker_results import calibration_error, histogram, ranges, separation
from utils.evaluation.results import Advice
from utils.evaluation.statistics import holm
from utils.evaluation.verdict import FUSED
from utils.schema import ContrastiveExample


def drawn(rows: list[ContrastiveExample], models: tuple[str, ...], first: tuple[str, ...] = (FIRST,)) -> Any:
    """Pools of rows with drawn scores for models and orders before reranking."""
    rng, pools = np.random.default_rng(2), pools_of_rows(rows)
    stages = {name: [rng.normal(size=len(pool.passages)) for pool in pools] for name in first}
    scores = {name: rng.normal(size=sum(len(pool.passages) for pool in pools)) for name in models}
    return RankedPools(pools, "tiny", False, stages), scores


def test_comparisons_are_corrected_over_all_pairs_of_a_metric() -> None:
    rows = [ContrastiveExample(f"q{i}", ["p"], [*"nmkl"]) for i in range(40)]
    result = result_from(*drawn(rows, ("model", "a", "b"), (FIRST, LEXICAL, HYBRID)))
    assert list(result.metrics[0].values) == ["model", "a", "b", FUSED, FIRST, LEXICAL, HYBRID]
    for metric in ("MRR", "MAP"):
        found = [row for row in result.comparisons if row.metric == metric]
        pairs = [("model", "a"), ("model", "b"), *((order, FIRST) for order in ("model", FUSED, LEXICAL, HYBRID))]
        assert [(row.order, row.baseline) for row in found] == pairs
        assert [row.p_corrected for row in found] == holm([row.p for row in found])
    assert (result.difference("model", "a"), result.value("a")) == (
        result.comparisons[0],
        result.metrics[0].values["a"],
    )
    assert (result.difference("a", "b"), result.value("c")) == (None, None)


def test_graded_sets_go_by_ndcg_and_tell_what_is_judged_and_missed() -> None:
    test, scores = drawn([ContrastiveExample(f"q{i}", ["p"], [*"nmkl"]) for i in range(4)], ("model",))
    pools = [test.pools[0]._replace(missed=(1, 2, 1), unjudged=2), *test.pools[1:]]
    empty = JudgedPool("q", [], np.zeros(0, dtype=int), (1,))
    stages = {FIRST: [*test.orders[FIRST], np.zeros(0)]}
    result = result_from(RankedPools([*pools, empty], "tiny", True, stages), scores)
    assert (result.main_metric, result.queries) == ("nDCG@10", 5)
    assert (result.missed, result.judged) == (4 / 8, 1 - 2 / 20)
    assert sum(row.queries for row in result.slices if row.kind == "passages in the pool") == 4
    assert result.metrics[0].random < 1


def test_pools_without_anything_relevant_have_no_slices_and_no_separation() -> None:
    pools = [JudgedPool("q", ["a", "b"], np.array([0, 0]), (1,))] * 3
    result = result_from(
        RankedPools(pools, "tiny", True, {FIRST: [np.array([2.0, 1.0])] * 3}), {"model": np.arange(6.0)}
    )
    assert (result.slices, result.separation) == ([], {})
    assert result.value("model") == 0
    assert result.advice == Advice(False, 0.0, 2)


def test_curves_go_through_the_chosen_weight_and_depth() -> None:
    result = reranker_test(3.0)
    curves = result.curves
    at = curves.depths.index(curves.depth), curves.weights.index(curves.weight)
    assert curves.fused[at[0]] == curves.by_weight[at[1]]
    assert curves.by_weight[-1] == curves.alone[at[0]]
    # Here the first stage knows nothing, so the model gains no less by itself.
    assert result.advice == Advice(True, 1.0, curves.depths[-1])


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
