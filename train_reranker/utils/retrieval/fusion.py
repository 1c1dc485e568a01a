"""Fusion of rankings of the same documents: by weighted scores, or by reciprocal ranks."""

import numpy as np

DECIMALS = 9  # fused scores that agree to so many are ties, which keep the first ranking's order


def normalised(scores: np.ndarray) -> np.ndarray:
    """Return one query's scores, (N,), with mean 0 and standard deviation 1; zeros where they are all equal."""
    spread = np.std(scores)
    return (scores - np.mean(scores)) / spread if spread > 0 else np.zeros(len(scores))


def fuse(first: np.ndarray, reranker: np.ndarray, weight: float | np.ndarray) -> np.ndarray:
    """Return the weighted sum of two rankings' scores for one query's documents, each normalised within the query.

    Args:
        first: scores of the first stage, higher is better, (N,).
        reranker: scores of the reranker for the same documents, (N,).
        weight: of the reranker, 0 to 1; 0 is the first stage alone, 1 the reranker alone. Several are of shape (W, 1).

    Returns:
        weight · reranker + (1 − weight) · first, (N,) or (W, N), rounded so that ties are ties.
    """
    return np.round(weight * normalised(reranker) + (1 - weight) * normalised(first), DECIMALS)


def reciprocal_rank_fusion(*scores: np.ndarray, k: int = 60) -> np.ndarray:
    """Return the fused scores of several rankings of the same documents (Cormack et al., SIGIR 2009).

    Args:
        scores: each ranking's scores, higher is better, (N,); ties keep their order.
        k: dampens the weight of the top ranks.

    Returns:
        The sum of 1 / (k + rank) over the rankings, (N,), ranks from 1.
    """
    fused = np.zeros(len(scores[0]))
    for one in scores:
        ranks = np.empty(len(one))
        ranks[np.argsort(-one, kind="stable")] = np.arange(1, len(one) + 1)
        fused += 1 / (k + ranks)
    return fused
