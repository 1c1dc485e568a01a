"""The sweep: what other settings of retrieval would have given on the sources that are already judged."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

from utils.errors import InputError
from utils.labelling import judging
from utils.labelling.journal import Journal
from utils.labelling.judging import Unanswered, with_pauses
from utils.labelling.record import JudgedSource, Trial
from utils.labelling.scheduler import BLOCK, Pipeline, first_usable, judge_lists
from utils.progress import progress_bar
from utils.retrieval.arms import ARMS
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import Reranking, Retriever
from utils.schema import Candidate, Verdict
from utils.scoring import CachedScorer

# Shares of λ2 and λ3 in the grid that is tried when none is named; λ1 is the rest.
SHARES = (0.0, 0.05, 0.1, 0.2)
GRID = [(1 - source - chosen, source, chosen) for source, chosen in product(SHARES, SHARES)]
RERANK_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # tried when none is named


class Setting(NamedTuple):
    """One arm with MMR's weights and a way of reranking to try."""

    arm: str
    weights: Lambdas
    pool_factor: int = 1
    rerank_weight: float = 1.0

    @property
    def name(self) -> str:
        """What its trials are filed under."""
        weights = " ".join(f"{weight:.6g}" for weight in self.weights)
        fused = "" if self.rerank_weight == 1 else f" w {self.rerank_weight:.6g}"
        return f"{self.arm} λ {weights} ×{self.pool_factor}{fused}"


class Sweep(NamedTuple):
    """What a sweep has observed so far."""

    asked: dict[Setting, int]  # the settings that are done, with the verdicts that each had to ask for
    sources: list[JudgedSource]  # with a trial for each setting, under its name

    @classmethod
    def read(cls, settings: Sequence[Setting], journal: Journal) -> Sweep:
        """Return the settings that a journal has notes of."""
        notes = {setting: journal.notes[setting.name] for setting in settings if setting.name in journal.notes}

        def trials_of(source: str) -> dict[str, Trial]:
            return {setting.name: Trial.from_json(note["trials"][source]) for setting, note in notes.items()}

        sources = [row._replace(trials=row.trials | trials_of(row.source)) for row in _judged(journal.sources)]
        return cls({setting: note["asked"] for setting, note in notes.items()}, sources)


def settings_to_try(
    arms: Sequence[str],
    own: tuple[Lambdas, int, float],
    lambdas: Sequence[tuple[float, float, float]] | None = None,
    pool_factors: Sequence[int] | None = None,
    rerank_weights: Sequence[float] | None = None,
) -> list[Setting]:
    """Return the grid for each arm that it can change: MMR's weights if the arm is diverse, the rest if it reranks.

    ``lambdas`` are scaled to sum 1. Empty, they stand for ``GRID``, and ``rerank_weights`` for ``RERANK_WEIGHTS``; what
    is None is the run's ``own``. Where all are, there is nothing to try. InputError if the grid changes none of the
    arms.
    """
    if lambdas is None and pool_factors is None and rerank_weights is None:
        return []
    scaled = None if lambdas is None else [Lambdas.scaled(*one) for one in lambdas or GRID]
    fused = None if rerank_weights is None else rerank_weights or RERANK_WEIGHTS
    tried = []
    for arm in arms:
        reranks = ARMS[arm].reranker is not None
        varied = (scaled if ARMS[arm].diverse else None, pool_factors if reranks else None, fused if reranks else None)
        if any(varied):
            axes: list[Any] = [values or [one] for values, one in zip(varied, own, strict=True)]
            tried += [Setting(arm, *one) for one in product(*axes)]
    if not tried:
        raise InputError(
            f"the sweep changes none of {', '.join(arms)}: λ need a diverse arm, the rest needs a reranker"
        )
    return list(dict.fromkeys(tried))


async def sweep(settings: Sequence[Setting], pipeline: Pipeline, journal: Journal) -> None:
    """Try settings on the journal's sources; the teacher is asked only for pairs that are not judged yet.

    Each setting's trials become a note of the journal; a setting that has one is not judged again. RunError if the
    teacher will never answer, or no longer does, even after pauses.
    """
    sources = _judged(journal.sources)
    known = {row.source: row.verdicts for row in sources}
    own = pipeline.retriever
    rerankers = {name: CachedScorer(scorer) for name, scorer in own.rerankers.items()}

    with progress_bar(desc="sweep", total=len(settings), unit="setting") as bar:
        for setting in settings:
            # Also for settings that are done: a score depends in its last bits on what was scored with it.
            reranking = Reranking(setting.pool_factor, setting.rerank_weight)
            retriever = Retriever(own.corpus, own.encoder, own.index, setting.weights, rerankers, reranking)
            lists = await asyncio.to_thread(retrieve_all, retriever, setting.arm, journal.sources, pipeline.candidates)
            if setting.name not in journal.notes:
                await with_pauses(
                    pipeline.teacher, partial(_judge, setting.name, sources, lists, known, pipeline, journal)
                )
            for source, trial in journal.notes[setting.name]["trials"].items():
                known[source].update(Trial.from_json(trial).judged)
            bar.update()


def _judged(rows: Sequence[JudgedSource]) -> list[JudgedSource]:
    return [row for row in rows if row.entity and row.trials]


def retrieve_all(
    retriever: Retriever, arm: str, rows: Sequence[JudgedSource], candidates: int
) -> list[list[Candidate]]:
    """Return one arm's candidates for each judged source among all of a run's rows.

    Queries are encoded in the blocks of the run itself: others would change the last bits of their vectors, and with
    them candidates.
    """
    found: list[list[Candidate]] = []
    for start in range(0, len(rows), BLOCK):
        if block := _judged(rows[start : start + BLOCK]):
            queries = [source.entity.query for source in block if source.entity]
            documents = [retriever.corpus.get(source.source) for source in block]
            found += [lists[arm] for lists in retriever.retrieve([arm], queries, documents, candidates)]
    return found


async def _judge(
    name: str,
    sources: Sequence[JudgedSource],
    lists: Sequence[list[Candidate]],
    known: Mapping[str, Mapping[str, Verdict]],
    pipeline: Pipeline,
    journal: Journal,
) -> None:
    """Judge each source's list until a candidate is usable, and note the trials by source.

    Raises :class:`Unanswered` if too many sources in a row had no answer to a new question.
    """
    slots = asyncio.Semaphore(pipeline.concurrency)

    async def one(row: JudgedSource, candidates: list[Candidate]) -> Trial:
        assert row.entity
        async with slots:
            only = {name: candidates}
            return (await judge_lists(row.entity, only, pipeline.teacher, first_usable, known[row.source]))[name]

    trials = await asyncio.gather(*map(one, sources, lists))
    asked = unanswered = 0
    for row, trial in zip(sources, trials, strict=True):
        if new := sum(document_id not in known[row.source] for document_id, _ in trial.judged):
            asked += new
            unanswered = unanswered + 1 if trial.failed else 0
        if unanswered >= judging.MAX_UNANSWERED:
            raise Unanswered(trial.verdicts[-1].reason)
    rows = {row.source: trial.to_json() for row, trial in zip(sources, trials, strict=True)}
    journal.note(name, {"asked": asked, "trials": rows})
