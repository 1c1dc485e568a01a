"""Metrics against values worked out by hand, and the random order against shuffles."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from utils.metrics import RANDOM, Pool, compare, evaluate, pools_of
from utils.schema import ContrastiveExample


def test_values_by_hand() -> None:
    # Ranking: negative (3), positive (2), negative (1), positive (0).
    values = {metric: value[0] for metric, value in evaluate([Pool(2, np.array([2.0, 0.0, 3.0, 1.0]))]).items()}
    assert values["MRR"] == 1 / 2
    assert values["P@1"] == 0
    assert values["MAP"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    dcg, ideal = 1 / math.log2(3) + 1 / math.log2(5), 1 + 1 / math.log2(3)
    assert values["nDCG@10"] == pytest.approx(dcg / ideal)
    assert values["pairwise accuracy"] == 1 / 4


@pytest.mark.parametrize("metric", RANDOM)
@pytest.mark.parametrize(("positives", "size"), [(1, 2), (2, 5), (1, 6), (4, 6), (1, 12)])
def test_random_order_is_the_mean_over_all_orders(metric: str, positives: int, size: int) -> None:
    # What matters is which ranks the positives take: all such sets are equally likely.
    pools = []
    for ranks in itertools.combinations(range(size), positives):
        others = [rank for rank in range(size) if rank not in ranks]
        pools.append(Pool(positives, -np.array([*ranks, *others], dtype=float)))
    assert np.mean(evaluate(pools)[metric]) == pytest.approx(RANDOM[metric](positives, size), abs=1e-9)


def test_one_score_for_all_is_no_better_than_random() -> None:
    pools = [Pool(1, np.zeros(4))] * 4000
    rows = {row.metric: row for row in compare({"model": pools})}
    for metric, row in rows.items():
        assert row.values["model"] == pytest.approx(row.random, abs=0.03), metric


def test_pools_follow_the_pairs_and_empty_negatives_rank_nothing() -> None:
    examples = [ContrastiveExample("a", ["p"], ["n", "n"]), ContrastiveExample("b", ["p", "p"], [])]
    pools = pools_of(examples, np.arange(5.0))
    assert [pool.scores.tolist() for pool in pools] == [[0, 1, 2], [3, 4]]
    assert compare({"model": pools})[0].values["model"] == pytest.approx(1 / 3)  # of the first pool alone
