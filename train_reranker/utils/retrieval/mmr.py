"""Maximal marginal relevance, and its weights."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from utils.errors import InputError

LAMBDAS = ("lambda1", "lambda2", "lambda3")


class Lambdas(NamedTuple):
    """Weights of relevance, similarity to the source and similarity to what is already chosen; they sum to 1."""

    relevance: float
    source: float
    chosen: float

    @classmethod
    def scaled(cls, lambda1: float, lambda2: float, lambda3: float) -> Lambdas:
        """Return three weights scaled to sum 1; ``InputError`` if one is negative or not finite, or all are zero."""
        weights = (lambda1, lambda2, lambda3)
        total = sum(weights)
        if not all(0 <= weight < float("inf") for weight in weights) or total <= 0:
            raise InputError(f"lambda1, lambda2, lambda3 = {weights}: must be finite, at least 0, and one above 0")
        return cls(*(weight / total for weight in weights))


def mmr(query: np.ndarray, pool: np.ndarray, source: np.ndarray, k: int, weights: Lambdas) -> list[int]:
    """Choose ``k`` of a pool greedily by maximal marginal relevance, with a penalty for similarity to the source.

    The score of candidate d is λ1·sim(q,d) − λ2·sim(d,d0) − λ3·max(0, max over chosen s of sim(d,s)), as HopWeaver
    (arXiv 2505.15087) extends MMR (Carbonell and Goldstein, 1998). Scores that agree to nine decimals are ties, and go
    to the better retrieval rank.

    ``query`` and ``source`` are vectors of shape (D,), ``pool`` is (P, D), best retrieval rank first, all of length 1.
    Returns positions in the pool in the order in which they were chosen, all of them if it has fewer than ``k``.
    """
    base = weights.relevance * (pool @ query) - weights.source * (pool @ source)
    similarity = np.zeros(len(pool))  # to the nearest of the chosen
    chosen: list[int] = []
    for _ in range(min(k, len(pool))):
        scores = np.round(base - weights.chosen * similarity, 9)
        scores[chosen] = -np.inf
        best = int(scores.argmax())  # the first of equals
        chosen.append(best)
        np.maximum(similarity, pool @ pool[best], out=similarity)
    return chosen
