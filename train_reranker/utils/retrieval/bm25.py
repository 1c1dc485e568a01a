"""BM25 over a list of texts, and the fusion of rankings: first stages that need no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class BM25:
    """Okapi BM25 (Robertson et al., TREC-3, 1994) as bm25s computes it, over lower-case words without stop words."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Index the texts; their positions are the rows of the results."""
        import bm25s

        self._index = bm25s.BM25()
        self._index.index(_tokens(texts), show_progress=False)
        self.size = len(texts)

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows of the ``k`` best texts for each query, both (queries, k), best first."""
        k = min(k, self.size)
        rows, scores = self._index.retrieve(_tokens(queries), k=k, show_progress=False, n_threads=0)
        return scores, rows.astype(np.int64)

    def scores(self, query: str) -> np.ndarray:
        """Return the score of every text for one query, shape (texts,)."""
        return np.asarray(self._index.get_scores(_tokens([query])[0]))


def _tokens(texts: Sequence[str]) -> Any:
    import bm25s

    return bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)


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
