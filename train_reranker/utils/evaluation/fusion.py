"""What a reranker adds to the order before it: by depth, and by its weight in a fusion of both scores."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from utils.data.judged import rankable
from utils.evaluation.metrics import Pool, dcg
from utils.retrieval.fusion import fuse

WEIGHTS = tuple(step / 10 for step in range(11))
DEPTHS = (5, 10, 20, 50, 100, 200, 500, 1000)
FOLDS = 5
CUTOFF = 10  # of the nDCG that everything here is chosen by


class Fusion(NamedTuple):
    """The weight and depth that all queries choose, the curves, and each pool's order by what the others choose."""

    weight: float  # of the reranker, 0 to 1; 0 is the first stage alone
    depth: int  # documents that are reranked
    pools: list[Pool]  # ordered with the weight and depth that the other folds choose
    depths: list[int]
    table: np.ndarray  # mean nDCG@10 by weight and depth, (weights, depths)


def depths_of(pools: Sequence[Pool]) -> list[int]:
    """Return the depths to try: 5, 10, 20, … below the largest pool, and that pool's size."""
    largest = max(pool.size for pool in pools)
    return [*(depth for depth in DEPTHS if depth < largest), largest]


def orders(first: Pool, model: Pool, weights: Sequence[float], depth: int) -> np.ndarray:
    """Return positions in rank order for each weight, (weights, N).

    The first ``depth`` of the first stage's order are sorted by the fused scores, the others keep their places after
    them. Ties keep the first stage's order.
    """
    before = np.argsort(-first.scores, kind="stable")
    head, tail = before[:depth], before[depth:]
    fused = fuse(first.scores[head].astype(float), model.scores[head].astype(float), np.array(weights)[:, None])
    sorted_heads = head[np.argsort(-fused, axis=1, kind="stable")]
    return np.hstack([sorted_heads, np.broadcast_to(tail, (len(weights), len(tail)))])


def ndcg(first: Sequence[Pool], model: Sequence[Pool], depths: Sequence[int]) -> np.ndarray:
    """Return each query's nDCG@10 for all weights and depths, (weights, depths, queries)."""
    found = np.zeros((len(WEIGHTS), len(depths), len(first)))
    discounts = 1 / np.log2(np.arange(2, CUTOFF + 2))
    for query, (before, after) in enumerate(zip(first, model, strict=True)):
        gains = np.maximum(before.grades, 0) / (dcg(before.ideal, CUTOFF) or 1)
        for number, depth in enumerate(depths):
            if number and depths[number - 1] >= before.size:  # the whole pool was reranked already
                found[:, number, query] = found[:, number - 1, query]
            elif before.size:
                top = gains[orders(before, after, WEIGHTS, depth)[:, :CUTOFF]]
                found[:, number, query] = top @ discounts[: top.shape[1]]
    return found


def choose(table: np.ndarray) -> tuple[int, int]:
    """Return weight and depth, as places in ``table`` (weights, depths, queries) of nDCG@10.

    Of all that are within one standard error of the best, the one closest to the first stage, which is the smallest
    weight, then the smallest depth (Breiman et al., Classification and Regression Trees, 1984): of a hundred choices
    the best one is too good by chance, and on few queries by much.
    """
    means = table.mean(2)
    behind = table[np.unravel_index(np.argmax(means), means.shape)] - table
    error = behind.std(2) / np.sqrt(max(1, table.shape[2] - 1))
    weight, depth = np.unravel_index(np.argmax(behind.mean(2) <= error + 1e-9), means.shape)
    return int(weight), int(depth)


def cross_fit(first: Sequence[Pool], model: Sequence[Pool], seed: int = 0) -> Fusion:
    """Choose weight and depth, and order each pool with those that the other folds choose.

    So what the orders are worth is not flattered by the choice (cross-fitting: Chernozhukov et al., 2018).

    Args:
        first: the first stage's pools.
        model: the same pools with the reranker's scores.
        seed: draws the folds.
    """
    depths = depths_of(first)
    table = ndcg(first, model, depths)
    rows = [row for row, pool in enumerate(first) if rankable([pool])]  # as the metrics; the others would dilute them
    random.Random(seed).shuffle(rows)
    fitted: list[Pool] = list(first)
    for fold in range(min(FOLDS, len(rows))):
        held = rows[fold::FOLDS]
        others = sorted(set(rows) - set(held))
        if not others:  # a single query keeps the first stage's order
            continue
        weight, depth = choose(table[:, :, others])
        for row in filter(lambda row: first[row].size, held):
            (order,) = orders(first[row], model[row], [WEIGHTS[weight]], depths[depth])
            fitted[row] = first[row]._replace(scores=-np.argsort(order).astype(float))
    table = table[:, :, sorted(rows)]
    weight, depth = choose(table)
    return Fusion(WEIGHTS[weight], depths[depth], fitted, depths, table.mean(2))
