"""Scores of rows' passages by a reranker: soft labels, and what tells hard negatives from false ones."""

from collections.abc import Sequence

import numpy as np

from utils.schema import ContrastiveExample
from utils.scoring import Scorer


def score_rows(rows: Sequence[ContrastiveExample], scorer: Scorer, desc: str | None = None) -> list[ContrastiveExample]:
    """Return the rows with ``pos_scores`` and ``neg_scores`` by a scorer; ``desc`` names a progress bar."""
    scores = scorer.score([(row.query, passage) for row in rows for passage in row.passages], desc)
    parts = np.split(scores, np.cumsum([len(row.passages) for row in rows])[:-1])
    # In single precision, as they are computed: fewer digits make files a third smaller.
    found = [[float(str(score)) for score in part] for part in parts]
    return [
        row._replace(pos_scores=scores[: len(row.pos)], neg_scores=scores[len(row.pos) :])
        for row, scores in zip(rows, found, strict=True)
    ]
