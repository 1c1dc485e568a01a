"""BM25 over a list of texts: a first stage that needs no model."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np


class BM25:
    """Okapi BM25 (Robertson et al., TREC-3, 1994) as bm25s computes it, over lower-case words without stop words."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Index the texts; their positions are the rows of the results."""
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to report every index
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


def _tokens(texts: Sequence[str]) -> list[list[str]]:
    import bm25s

    found = bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)
    return [words or [" "] for words in found]  # bm25s fails on texts without a word, and "" is its own
