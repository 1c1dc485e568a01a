"""The loop of every run: judge source after source into the journal until enough of them count."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import NamedTuple, TypeVar

from utils.errors import RunError
from utils.labelling.journal import Journal
from utils.labelling.record import JudgedSource, Trial
from utils.labelling.scheduler import BLOCK, Prepared, work_through
from utils.progress import log, progress_bar
from utils.retrieval.retriever import Retriever
from utils.schema import BridgeEntity, Candidate, Document, Outcome, Verdict
from utils.teachers.base import Teacher
from utils.teachers.ledger import BudgetSpent

# This many sources in a row without an answer are a lasting failure. The run then waits, twice, and gives up.
MAX_UNANSWERED = 20
PAUSES = (15.0, 60.0)  # seconds

T = TypeVar("T")

# Whether a list needs no further verdict.
StoppingRule = Callable[[Sequence[Verdict]], bool]


def first_usable(verdicts: Sequence[Verdict]) -> bool:
    """Stop at the first usable candidate, or at an error, which leaves open whether that one is usable."""
    return bool(verdicts) and verdicts[-1].outcome is not Outcome.UNUSABLE


def enough_of_each(positives: int, negatives: int) -> StoppingRule:
    """Stop with this many usable and this many unusable candidates."""

    def rule(verdicts: Sequence[Verdict]) -> bool:
        count = Counter(verdict.outcome for verdict in verdicts)
        return count[Outcome.USABLE] >= positives and count[Outcome.UNUSABLE] >= negatives

    return rule


@dataclass(frozen=True)
class Pipeline:
    """What a run works with; ``sources`` returns the same documents each time, and the caller closes ``teacher``."""

    sources: Callable[[], Iterable[Document]]
    teacher: Teacher
    retriever: Retriever  # with the rerankers that the arms ask for
    candidates: int  # retrieved per arm
    concurrency: int = 1  # sources in flight; the rows are the same at any
    give_up_after: int | None = None  # sources without any result


@dataclass(frozen=True)
class Goal:
    """When a run is done: once ``wanted`` sources count, or ``most`` were tried."""

    unit: str  # what is counted, for the progress bar
    wanted: int
    counts: Callable[[JudgedSource], bool]
    in_vain: Callable[[JudgedSource], bool]  # whether a source has no result at all
    explain: Callable[[Sequence[JudgedSource]], str]  # why none counts, and what helps
    most: int | None = None


class Stop(NamedTuple):
    """Why a run ended; ``failure`` if it has not finished or produced nothing."""

    reason: str
    failure: RunError | None = None


def run_to_stop(work: Callable[[], str], command: str) -> Stop:
    """Return how ``work`` ended, so that what there is can be written before the failure is raised.

    ``work`` returns why it is done; ``command`` resumes the run, for the line of a budget that was reached.
    """
    try:
        return Stop(work())
    except BudgetSpent as limit:
        return Stop(str(limit), BudgetSpent(f"{limit}. To resume: {command}"))
    except RunError as error:
        return Stop(str(error), error)


class Unanswered(Exception):
    """The teacher has not answered for ``MAX_UNANSWERED`` sources in a row."""


async def with_pauses(teacher: Teacher, attempt: Callable[[], Awaitable[T]]) -> T:
    """Return what ``attempt`` returns; after :class:`Unanswered`, drop cached failures, wait and try again.

    Raises:
        RunError: the teacher does not answer after the last pause either.
    """
    for pause in (*PAUSES, None):
        try:
            return await attempt()
        except Unanswered as fault:
            teacher.forget_failures()
            problem = f"no usable reply for {MAX_UNANSWERED} sources in a row"
            if pause is None:
                remedy = "fix the endpoint, then run the same command to resume"
                raise RunError(f"{problem}, even after pauses (last: {fault}); {remedy}") from None
            log.warning("%s: waiting %g s (%s)", problem, pause, fault)
            await asyncio.sleep(pause)
    raise AssertionError("the last pause is None")


async def judge_sources(
    pipeline: Pipeline,
    arms: Sequence[str],
    rule: StoppingRule,
    goal: Goal,
    journal: Journal,
    keep: Callable[[BridgeEntity], bool] = lambda _: True,
) -> None:
    """Judge source after source into the journal, from where it ends, until enough of them count or none is left.

    A candidate is judged once per source, whichever ``arms`` retrieve it; ``rule`` stops each arm's list, and ``keep``
    says whether to retrieve for an entity. If the teacher has not answered at all, the rows stay held back.

    Raises:
        RunError: the teacher will never answer, or has not for ``MAX_UNANSWERED`` sources in a row, even after pauses;
            or ``give_up_after`` sources had no result.
    """

    def retrieve(queries: list[str], documents: list[Document]) -> list[dict[str, list[Candidate]]]:
        return pipeline.retriever.retrieve(arms, queries, documents, pipeline.candidates)

    async def judge(prepared: Prepared) -> JudgedSource:
        source, entity, lists, error = prepared
        trials = await judge_lists(entity, lists, pipeline.teacher, rule) if entity else {}
        return JudgedSource(source.id, entity, trials, error)

    async def attempt() -> None:
        journal.held = []
        # After a pause, the block that it interrupted is worked through again from its start, for the same vectors.
        known = len(journal.rows) % BLOCK
        left = islice(pipeline.sources(), len(journal.rows) - known, goal.most)
        work = work_through(left, pipeline.teacher, retrieve, judge, pipeline.concurrency, keep)
        async with aclosing(work) as rows:
            await _collect(rows, known, pipeline, goal, journal)

    await with_pauses(pipeline.teacher, attempt)
    if journal.rows:
        journal.write_held()
    elif journal.held:
        pipeline.teacher.forget_failures()


async def _collect(
    rows: AsyncGenerator[JudgedSource], known: int, pipeline: Pipeline, goal: Goal, journal: Journal
) -> None:
    """Add rows to the journal until enough count; the first ``known`` of them are in it already."""
    counted = sum(map(goal.counts, journal.rows))
    with progress_bar(desc=f"{goal.unit}s", total=goal.wanted, initial=counted, unit=goal.unit) as bar:
        while counted < goal.wanted and (row := await anext(rows, None)):
            if known:
                known -= 1
                continue
            if not counted and sum(map(goal.in_vain, journal.rows)) >= (pipeline.give_up_after or inf):
                raise RunError(f"{goal.explain(journal.rows)}. To try more sources, raise --give_up_after")
            journal.add(row)
            if len(journal.held) >= MAX_UNANSWERED:
                raise Unanswered(row.complaint)
            counted += goal.counts(row)
            bar.update(goal.counts(row))
            tried = len(journal.sources)
            bar.set_postfix(
                {"sources": tried, "yield": f"{counted / tried:.0%}", **pipeline.teacher.doing}, refresh=False
            )


async def judge_lists(
    entity: BridgeEntity,
    lists: Mapping[str, Sequence[Candidate]],
    teacher: Teacher,
    rule: StoppingRule,
    known: Mapping[str, Verdict] | None = None,
) -> dict[str, Trial]:
    """Judge lists of candidates for one entity, all lists at once, each in order until the rule stops it.

    The teacher judges each candidate once, even if several lists have it, and none of those that are ``known`` by id.
    """
    asked: dict[str, asyncio.Task[Verdict]] = {}

    async def verdict_on(document: Document) -> Verdict:
        if known and document.id in known:
            return known[document.id]
        if document.id not in asked:
            asked[document.id] = asyncio.create_task(teacher.judge(entity, document))
        return await asked[document.id]

    async def judge(candidates: Sequence[Candidate]) -> Trial:
        verdicts: list[Verdict] = []
        for candidate in candidates:
            if rule(verdicts):
                break
            verdicts.append(await verdict_on(candidate.document))
        return Trial([candidate.document.id for candidate in candidates], verdicts)

    trials = await asyncio.gather(*map(judge, lists.values()))
    return dict(zip(lists, trials, strict=True))
