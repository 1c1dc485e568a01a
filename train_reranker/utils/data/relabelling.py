"""False negatives: found by a teacher that is asked about all of a row's negatives at once, or by a margin."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import log
from typing import Any, NamedTuple

import numpy as np

from utils.data.mining import Margin, Mined
from utils.data.rows import without
from utils.schema import ContrastiveExample, Outcome, Verdict
from utils.teachers.base import Teacher

CALLS_PER_ROW = 1.3
LISTED = 10  # passages in one question
ASKED_AT_ONCE = 32  # questions; which ones come next depends on the answers

PRIOR = np.array([-2.0, 1.0])  # log-odds of being relevant at the positive's score, and per standard deviation above it
RELABELLED_FROM = 0.9  # probability of being relevant
DROPPED_FROM = 0.1, 0.5  # as low in this range as LOST permits
LOST = 0.018  # share of the true negatives that may be expected to be dropped with the false ones

# What becomes of a negative.
KEPT, RELABELLED, DROPPED = "negative", "relabelled as positive", "dropped"


class Suspect(NamedTuple):
    """A negative with its score, and the lowest of the query's positives."""

    row: int
    passage: str
    score: float
    positive_score: float

    @property
    def excess(self) -> float:
        """How far it is above the positive: the higher, the more suspicious."""
        return self.score - self.positive_score


class Finding(NamedTuple):
    """What was found out about a negative; without a teacher, no probability and no verdict."""

    suspect: Suspect
    decision: str = KEPT
    probability: float | None = None  # of being relevant
    verdicts: tuple[Verdict, ...] = ()


class Steps(NamedTuple):
    """What is done about false negatives."""

    relabel: bool = True  # what is all but certain becomes a positive
    drop: bool = True  # what is likely is removed, and the former if it is not relabelled

    def decision(self, probability: float, limit: float) -> str:
        """Return what becomes of a passage that is relevant with a probability; ``limit`` is the least to drop it."""
        if self.relabel and probability >= RELABELLED_FROM:
            return RELABELLED
        return DROPPED if self.drop and probability >= limit else KEPT


def suspects_of(rows: Sequence[ContrastiveExample]) -> list[Suspect]:
    """Return all negatives of rows with scores, the most suspicious first."""
    found = [
        Suspect(number, passage, score, min(row.pos_scores or ()))
        for number, row in enumerate(rows)
        for passage, score in zip(row.neg, row.neg_scores or (), strict=True)
    ]
    return sorted(found, key=lambda one: -one.excess)


def by_margin(suspects: Iterable[Suspect], margin: Margin, steps: Steps) -> list[Finding]:
    """Find false negatives without a teacher: what the margin does not admit is dropped, never relabelled."""
    wrong = [one for one in suspects if not margin.admits(one.score, one.positive_score)]
    return [Finding(one, DROPPED if steps.drop else KEPT) for one in wrong]


class Beliefs:
    """How probable it is that each suspect is relevant, by its score and by the answers about it.

    Dawid and Skene's model (1979) of answers that err, with the teacher's error rate; the prior is a logistic curve
    over the reranker's scores, fitted by expectation maximisation to what the answers made of it.
    """

    def __init__(self, excess: Sequence[float], error_rate: float) -> None:
        """Start from ``excess``, (N,), which is brought to the same scale for all rerankers."""
        self._weight = log(1 / error_rate - 1)
        scores = np.array(excess, dtype=float)
        self._features = np.column_stack([np.ones_like(scores), scores / (scores.std() or 1.0)])  # (N, 2)
        self._curve = PRIOR
        self._votes = np.zeros_like(scores)  # log-odds, (N,)
        self._heard = np.zeros(len(scores), dtype=bool)

    def hear(self, number: int, verdict: Verdict) -> None:
        """Count an answer about a suspect; an error says nothing."""
        if verdict.outcome is not Outcome.ERROR:
            self._votes[number] += self._weight if verdict.outcome is Outcome.USABLE else -self._weight
            self._heard[number] = True

    @property
    def log_odds(self) -> np.ndarray:
        """The log-odds of being relevant, (N,)."""
        return self._features @ self._curve + self._votes

    @property
    def probabilities(self) -> np.ndarray:
        """The probabilities of being relevant, (N,)."""
        return _sigmoid(self.log_odds)

    def learn(self) -> None:
        """Fit the curve of the prior: two of Newton's steps, with ``PRIOR`` as worth one suspect."""
        features, votes = self._features[self._heard], self._votes[self._heard]
        for _ in range(2):
            prior = _sigmoid(features @ self._curve)
            posterior = _sigmoid(features @ self._curve + votes)
            curvature = (features * (prior * (1 - prior))[:, None]).T @ features + np.eye(2)
            gradient = features.T @ (posterior - prior) - (self._curve - PRIOR)
            self._curve = self._curve + np.linalg.solve(curvature, gradient)

    def distances(self, steps: Steps) -> np.ndarray:
        """Return how many log-odds each suspect is from another decision, (N,); what is not asked about is kept."""
        limit = self.limit if steps.drop else RELABELLED_FROM
        beyond = self.log_odds - log(limit / (1 - limit))
        return np.where(self._heard, np.abs(beyond), np.maximum(-beyond, 0))

    @property
    def limit(self) -> float:
        """The lowest probability in the range ``DROPPED_FROM`` from which no more than ``LOST`` is lost."""
        falling = np.sort(self.probabilities)[::-1]
        lost = np.cumsum(1 - falling)
        last = np.searchsorted(lost, LOST * lost[-1])
        return float(np.clip(falling[min(last, len(falling) - 1)], *DROPPED_FROM))

    def findings(self, suspects: Sequence[Suspect], said: Sequence[Sequence[Verdict]], steps: Steps) -> list[Finding]:
        """Return what is believed of each suspect that was asked about."""
        limit = self.limit
        known = zip(suspects, self.probabilities.tolist(), said, self._heard, strict=True)
        return [
            Finding(one, steps.decision(probability, limit) if heard else KEPT, probability, tuple(verdicts))
            for one, probability, verdicts, heard in known
            if verdicts
        ]


def _sigmoid(log_odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(log_odds, -30, 30)))


class Lists:
    """The suspects of each row, in questions about ``LISTED`` at most, and how often each was asked."""

    def __init__(self, suspects: Sequence[Suspect]) -> None:
        """Keep the order of the suspects within a row."""
        by_row: dict[int, list[int]] = {}
        for number, one in enumerate(suspects):
            by_row.setdefault(one.row, []).append(number)
        cuts = [(row, start) for row in by_row.values() for start in range(0, len(row), LISTED)]
        self.numbers = [row[start : start + LISTED] for row, start in cuts]
        self.asked = np.zeros(len(self.numbers), dtype=int)
        self._flat = np.array([number for one in self.numbers for number in one], dtype=int)
        self._starts = np.cumsum([0, *map(len, self.numbers)])[:-1]

    def undecided(self, distances: np.ndarray, variants: int, most: int) -> list[int]:
        """Return the lists that are asked next: those with a suspect closest to the decision, in any form left."""
        nearest = np.minimum.reduceat(distances[self._flat], self._starts)
        order = np.argsort(nearest, kind="stable")
        count = min(most, max(ASKED_AT_ONCE, len(order) // 50))
        return [int(one) for one in order if self.asked[one] < variants][:count]


async def by_teacher(
    rows: Sequence[ContrastiveExample], suspects: Sequence[Suspect], teacher: Teacher, calls: float, steps: Steps
) -> tuple[list[Finding], int]:
    """Find false negatives by questions about all negatives of a row; return findings and the number of questions.

    The lists are RLHN's (arXiv 2505.16967). A teacher that errs once in ten would lose a tenth of the true negatives to
    a single one, and miss a tenth of the false ones, so each question, ``calls`` at most, goes where it may change what
    becomes of a suspect: to a row that was not asked about, or in another form to one that was. Questions without an
    answer are no votes.
    """
    if not suspects:
        return [], 0
    lists, beliefs = Lists(suspects), Beliefs([one.excess for one in suspects], teacher.error_rate)
    said: list[list[Verdict]] = [[] for _ in suspects]
    while chosen := lists.undecided(beliefs.distances(steps), teacher.variants, int(calls) - int(lists.asked.sum())):
        questions = ([suspects[i] for i in lists.numbers[one]] for one in chosen)
        forms = lists.asked[chosen].tolist()
        asked = (_ask(rows, *question, teacher) for question in zip(questions, forms, strict=True))
        for one, verdicts in zip(chosen, await asyncio.gather(*asked), strict=True):
            for number, verdict in zip(lists.numbers[one], verdicts, strict=True):
                beliefs.hear(number, verdict)
                said[number].append(verdict)
        lists.asked[chosen] += 1
        beliefs.learn()
    return beliefs.findings(suspects, said, steps), int(lists.asked.sum())


async def _ask(
    rows: Sequence[ContrastiveExample], listed: Sequence[Suspect], variant: int, teacher: Teacher
) -> list[Verdict]:
    row = rows[listed[0].row]
    return await teacher.relevant(row.query, row.pos[0], [one.passage for one in listed], variant)


def corrected(rows: Sequence[ContrastiveExample], findings: Iterable[Finding]) -> list[ContrastiveExample]:
    """Return the rows with the false negatives relabelled or dropped, and with scores if they had them."""
    decisions: dict[int, dict[str, Finding]] = {}
    for one in findings:
        if one.decision != KEPT:
            decisions.setdefault(one.suspect.row, {})[one.suspect.passage] = one
    return [_corrected(row, decisions[number]) if number in decisions else row for number, row in enumerate(rows)]


def _corrected(row: ContrastiveExample, wrong: Mapping[str, Finding]) -> ContrastiveExample:
    moved = [one.suspect for one in wrong.values() if one.decision == RELABELLED]
    kept = without(row, wrong.__contains__)
    scores, grades = row.pos_scores, row.pos_grades
    return kept._replace(
        pos=[*kept.pos, *(one.passage for one in moved)],
        pos_scores=scores and [*scores, *(one.score for one in moved)],
        pos_grades=grades and [*grades, *(min(grades) for _ in moved)],
    )


def provenance(
    rows: Sequence[ContrastiveExample], mined: Iterable[Mined], findings: Iterable[Finding]
) -> Iterator[dict[str, Any]]:
    """Yield what is known of each negative that was mined or found out about, for lines of JSON."""
    known: dict[tuple[int, str], dict[str, Any]] = {}
    for one in mined:
        facts = {"id": one.document.id, "rank": one.rank, "score": one.score, "label": KEPT, "verdicts": []}
        known[one.row, one.document.text] = facts
    for suspect, decision, probability, verdicts in findings:
        said = [{"outcome": verdict.outcome.value, "reason": verdict.reason} for verdict in verdicts]
        found = {"score": suspect.score, "positive_score": suspect.positive_score, "label": decision, "verdicts": said}
        found |= {} if probability is None else {"probability": round(probability, 4)}
        known.setdefault((suspect.row, suspect.passage), {}).update(found)
    for (row, passage), facts in sorted(known.items(), key=lambda item: item[0][0]):
        yield {"row": row + 1, "query": rows[row].query, "passage": passage} | facts
