"""What the retriever asks of a vector index, whichever store holds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

Rows = Sequence[int] | np.ndarray


class Index(Protocol):
    """The corpus's vectors by row, L2-normalised and compared by inner product."""

    @property
    def settings(self) -> dict[str, Any]:
        """What its results depend on, besides corpus and encoder; fit for JSON."""

    def search(self, queries: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows of the ``n`` nearest to each query, best first.

        Both are of shape (queries, n), or narrower where the corpus has fewer; row -1 fills up where fewer were found.
        """

    def vectors(self, rows: Rows) -> np.ndarray:
        """Return the vectors of rows, float32 of shape (rows, dimension)."""
