"""Depth and weight curves agree with plain loops, and what cross-fitting reports is what fresh queries give."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from trials import simulated
from utils.evaluation.fusion import DEPTHS, WEIGHTS, choose, cross_fit, depths_of, ndcg, orders
from utils.evaluation.metrics import Pool, evaluate


def by_hand(first: Pool, model: Pool, weight: float, depth: int) -> float:
    """nDCG@10 in plain loops."""
    before = sorted(range(first.size), key=lambda i: -first.scores[i])
    head = before[:depth]

    def z(scores: np.ndarray, i: int) -> float:
        values = [scores[j] for j in head]
        mean = sum(values) / len(values)
        spread = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
        return (scores[i] - mean) / spread

    head = sorted(head, key=lambda i: -(weight * z(model.scores, i) + (1 - weight) * z(first.scores, i)))
    gains = [first.grades[i] / math.log2(rank + 2) for rank, i in enumerate([*head, *before[depth:]][:10])]
    ideal = sorted([*first.grades, *first.missed], reverse=True)[:10]
    return sum(gains) / sum(grade / math.log2(rank + 2) for rank, grade in enumerate(ideal))


def test_both_curves_are_those_of_plain_loops() -> None:
    first, model = simulated("useful", 1, queries=12)
    first[0] = first[0]._replace(missed=(2, 1))
    first[1], model[1] = (Pool(pool.grades[:7], pool.scores[:7], missed=(1,)) for pool in (first[1], model[1]))
    fusion = cross_fit(first, model)
    assert fusion.depths == [5, 10, 20]
    for row, weight in enumerate(WEIGHTS):
        for column, depth in enumerate(fusion.depths):
            values = [by_hand(a, b, weight, depth) for a, b in zip(first, model, strict=True)]
            assert fusion.table[row, column] == pytest.approx(np.mean(values))


def test_pools_that_no_order_can_be_wrong_about_change_nothing() -> None:
    first, model = simulated("useful", 1, queries=12)
    constant = Pool(np.ones(4, dtype=int), np.arange(4.0))
    alone, diluted = cross_fit(first, model), cross_fit([*first, constant], [*model, constant])
    np.testing.assert_allclose(diluted.table, alone.table)
    assert (diluted.weight, diluted.depth, len(diluted.pools)) == (alone.weight, alone.depth, 13)
    assert evaluate(diluted.pools[:-1]) == evaluate(alone.pools)


def test_ndcg_is_that_of_ir_measures() -> None:
    first, model = simulated("useful", 2, queries=12)
    first[0] = first[0]._replace(missed=(2, 1))
    table = ndcg(first, model, [20])
    np.testing.assert_allclose(table[0, 0], evaluate(first)["nDCG@10"])
    alone = [one._replace(missed=before.missed) for before, one in zip(first, model, strict=True)]
    np.testing.assert_allclose(table[-1, 0], evaluate(alone)["nDCG@10"])


def test_orders_keep_what_is_below_the_depth_and_ties_in_place() -> None:
    first, model = Pool.of(1, np.array([1.0, 4.0, 3.0, 2.0])), Pool.of(1, np.array([9.0, 1.0, 1.0, 8.0]))
    assert orders(first, model, [0.0, 1.0], 3).tolist() == [[1, 2, 3, 0], [3, 1, 2, 0]]
    flat = model._replace(scores=np.zeros(4))
    assert orders(first, flat, [1.0], 4).tolist() == [[1, 2, 3, 0]]


def test_orders_of_a_fusion_are_what_the_other_folds_choose() -> None:
    first, model = simulated("useful", 5, queries=20)
    fusion = cross_fit(first, model)
    assert 0 < fusion.weight <= 1
    table = ndcg(first, model, fusion.depths)
    found = evaluate(fusion.pools)["nDCG@10"]
    assert all(np.isclose(table[:, :, query], value).any() for query, value in enumerate(found))
    assert np.mean(found) > np.mean(table[0, 0])


def test_within_a_standard_error_of_the_best_the_closest_to_the_first_stage_is_chosen() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(200)
    table = np.stack([[base, base], [base + 0.1, base + 0.1 + 1e-12], [base + 0.1, base + 0.05]])
    assert choose(table) == (1, 0)
    noisy = np.stack([[base], [base + rng.normal(0.001, 1, 200)]])
    assert choose(noisy) == (0, 0)


def test_depths_are_those_below_the_largest_pool_and_its_size() -> None:
    sizes: Sequence[int] = (3, 120, 50)
    assert depths_of([Pool.of(1, np.zeros(size)) for size in sizes]) == [*(d for d in DEPTHS if d < 120), 120]


@pytest.mark.parametrize("queries", [1, 2])
def test_few_queries_and_empty_pools_are_fitted(queries: int) -> None:
    first, model = simulated("useful", 4, queries=queries)
    empty = Pool(np.zeros(0, dtype=int), np.zeros(0), missed=(1,))
    fusion = cross_fit([*first, empty], [*model, empty])
    assert [pool.size for pool in fusion.pools] == [20] * queries + [0]
    assert len(cross_fit(first[:1], model[:1]).pools) == 1
