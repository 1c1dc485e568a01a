"""Hard negatives out of a corpus, for rows that have too few: near the query, and clearly below the positive."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from utils.data.rows import canonical, positives_by_query
from utils.errors import InputError
from utils.retrieval.encoder import QUERY
from utils.retrieval.retriever import Retriever
from utils.schema import ContrastiveExample, Document
from utils.scoring import Scorer

SEARCHED_AT_ONCE = 1024  # queries


class Margin(NamedTuple):
    """How far below the lowest score of a query's positives a negative must stay; as in sentence-transformers."""

    absolute: float | None = None
    relative: float | None = None  # to the absolute value of the positive's score
    max_score: float | None = None  # whatever the positives' scores

    def admits(self, score: float, positive: float) -> bool:
        """Tell whether a passage with this score may be a negative, beside a positive with that."""
        return not (
            (self.absolute is not None and score + self.absolute > positive)
            or (self.relative is not None and score > positive - abs(positive) * self.relative)
            or (self.max_score is not None and score > self.max_score)
        )


class Window(NamedTuple):
    """Which passages are taken, by rank: the reranker's, among those that the margin admits."""

    num_negatives: int  # of a row in the end, its own included
    range_min: int = 0  # best ranks that are skipped
    range_max: int = 50  # nearest passages of the retriever that the reranker sees
    margin: Margin = Margin()


class Mined(NamedTuple):
    """A negative from the corpus."""

    row: int  # of the rows, from 0
    document: Document
    rank: int  # of the retriever, from 1, among the passages that are not known to be positive
    score: float  # the reranker's


def mine(rows: Sequence[ContrastiveExample], retriever: Retriever, scorer: Scorer, window: Window) -> list[Mined]:
    """Return negatives for the rows that have fewer than ``num_negatives``, row by row, the best-scored first.

    Of the ``range_max`` nearest passages those are taken that the reranker scores highest, within the margin and after
    the first ``range_min``: for rows without negatives what sentence-transformers' ``mine_hard_negatives`` takes with
    a ``cross_encoder``, where a margin makes it use that. No positive of the query in any row and no text of the row is
    taken, and no text twice.
    InputError if the window is too narrow.
    """
    if window.range_min < 0 or window.range_max - window.range_min < window.num_negatives:
        raise InputError(f"--range_min and --range_max must leave --num_negatives ({window.num_negatives}) ranks")
    short = [number for number, row in enumerate(rows) if len(row.neg) < window.num_negatives]
    near = list(nearest([rows[number] for number in short], positives_by_query(rows), retriever, window.range_max))
    pairs = [(rows[i].query, text) for i, found in zip(short, near, strict=True) for text in _texts(rows[i], found)]
    scores, mined = iter(scorer.score(pairs, "candidates scored").tolist()), []
    for number, found in zip(short, near, strict=True):
        row = rows[number]
        positive = min(islice(scores, len(row.pos)))
        scored = [Mined(number, document, rank, next(scores)) for rank, document in enumerate(found, 1)]
        admitted = [one for one in scored if window.margin.admits(one.score, positive)]
        admitted.sort(key=lambda one: -one.score)
        mined += admitted[window.range_min :][: window.num_negatives - len(row.neg)]
    return mined


def with_mined(rows: Sequence[ContrastiveExample], mined: Sequence[Mined]) -> list[ContrastiveExample]:
    """Return the rows with the mined negatives behind their own, and without scores, which the new ones lack."""
    added: dict[int, list[str]] = {}
    for one in mined:
        added.setdefault(one.row, []).append(one.document.text)
    return [
        row._replace(neg=[*row.neg, *added.get(number, ())], pos_scores=None, neg_scores=None)
        for number, row in enumerate(rows)
    ]


def _texts(row: ContrastiveExample, found: Sequence[Document]) -> list[str]:
    return [*row.pos, *(document.text for document in found)]


def nearest(
    rows: Sequence[ContrastiveExample], positives: dict[str, set[str]], retriever: Retriever, wanted: int
) -> Iterator[list[Document]]:
    """Yield the ``wanted`` nearest documents of each row that have none of its texts, and no positive's of its query.

    ``positives`` are those of other rows, by query, in their canonical form.
    """
    vectors = retriever.encoder.encode([row.query for row in rows], QUERY)
    known = [positives.get(canonical(row.query), set()) | set(map(canonical, row.passages)) for row in rows]
    spare = max(map(len, known), default=0)
    for start in range(0, len(rows), SEARCHED_AT_ONCE):
        part = slice(start, start + SEARCHED_AT_ONCE)
        _, found = retriever.index.search(vectors[part], wanted + spare)
        yield from (
            list(islice(_new(near, texts, retriever), wanted)) for near, texts in zip(found, known[part], strict=True)
        )


def _new(near: np.ndarray, known: set[str], retriever: Retriever) -> Iterator[Document]:
    """Yield the documents whose text is not known yet."""
    for number in near[near >= 0].tolist():  # approximate indexes fill up with -1
        document = retriever.corpus[number]
        if (text := canonical(document.text)) not in known:
            known.add(text)
            yield document
