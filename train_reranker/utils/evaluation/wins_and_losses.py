"""The queries that an order won and lost by most against another, with their passages, to be read by a person."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from utils.data.judged import JudgedPool

QUERIES = 60  # that a result holds at most: each comparison's largest wins and losses
TOP = 3  # passages of each order that are told, beside as many relevant ones
CHARACTERS = 300  # of a text


@dataclass(frozen=True)
class RankedPassage:
    """The beginning of a passage, its grade, and its rank by order, from 1; equal scores share the best rank."""

    text: str
    grade: int
    ranks: dict[str, int]


@dataclass(frozen=True)
class RankedQuery:
    """A query, the value of the main metric by order, and the passages that the orders put first."""

    query: str
    query_id: str
    values: dict[str, float]
    passages: list[RankedPassage]


def wins_and_losses(
    pools: Sequence[JudgedPool],
    scores: Mapping[str, Sequence[np.ndarray]],
    values: Mapping[str, Sequence[float]],
    pairs: Sequence[tuple[str, str]],
) -> list[RankedQuery]:
    """Return the largest wins and losses of each pair of orders, ``QUERIES`` at most, in the order of the pools.

    Args:
        pools: one for each query.
        scores: each pool's, by order.
        values: each query's value of the main metric, by order.
        pairs: order and baseline.
    """
    named = list(dict.fromkeys(name for pair in pairs for name in pair))
    most = max(1, QUERIES // (2 * max(1, len(pairs))))
    chosen: dict[int, None] = {}
    for order, baseline in pairs:
        gains = np.subtract(values[order], values[baseline])
        by_gain = np.argsort(-gains, kind="stable")
        chosen |= dict.fromkeys(int(i) for i in by_gain[:most] if gains[i] > 0)
        chosen |= dict.fromkeys(int(i) for i in by_gain[-most:] if gains[i] < 0)
    return [
        RankedQuery(
            _beginning(pools[i].query), pools[i].query_id, {name: float(values[name][i]) for name in named},
            _passages(pools[i], {name: scores[name][i] for name in named}),
        )
        for i in sorted(list(chosen)[:QUERIES])
    ]  # fmt: skip


def _passages(pool: JudgedPool, scores: Mapping[str, np.ndarray]) -> list[RankedPassage]:
    """Return the first of each order and of the relevant passages, in the first order's ranks."""
    ranks = {name: 1 + (values[None] > values[:, None]).sum(1) for name, values in scores.items()}
    by_rank = {name: np.argsort(found, kind="stable") for name, found in ranks.items()}
    first = next(iter(by_rank.values()))
    told = {int(i) for found in by_rank.values() for i in found[:TOP]}
    told |= {int(i) for i in [i for i in first if pool.grades[i] > 0][:TOP]}
    return [
        RankedPassage(
            _beginning(pool.passages[i]), int(pool.grades[i]), {n: int(found[i]) for n, found in ranks.items()}
        )
        for i in map(int, first)
        if i in told
    ]


def _beginning(text: str) -> str:
    return text if len(text) <= CHARACTERS else text[: CHARACTERS - 1] + "…"
