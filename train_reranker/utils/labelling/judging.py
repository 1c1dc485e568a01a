"""The loop of every run: judge source after source into the journal until enough of them count."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from itertools import islice
from math import inf
from typing import NamedTuple

from utils.errors import BudgetSpent, RunError
from utils.labelling.journal import Journal
from utils.labelling.record import JudgedSource
from utils.labelling.scheduler import Scheduler
from utils.progress import log, progress_bar
from utils.teachers.base import Teacher

# This many sources in a row without an answer are a lasting failure. The run then waits, twice, and gives up.
MAX_UNANSWERED = 20
PAUSES = (15.0, 60.0)  # seconds


class Goal(NamedTuple):
    """When a run is done: once ``wanted`` sources count, or ``most`` were tried."""

    unit: str  # what is counted, for the progress bar
    wanted: int
    counts: Callable[[JudgedSource], bool]
    explain: Callable[[Sequence[JudgedSource]], str]  # why none counts, and what helps
    most: int | None = None
    show: Callable[[JudgedSource], None] | None = None  # called with each newly judged source that counts


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


def report_errors(rows: Sequence[JudgedSource], command: str) -> int:
    """Report how many sources of a finished run have errors, and the command that retries them; return their number."""
    errors = [row.complaint for row in rows if row.complaint]
    if errors:
        share = f"{len(errors)} of {len(rows)} sources have errors (last: {errors[-1]})"
        log.warning("%s. To retry these alone: %s", share, command)
    return len(errors)


class Unanswered(Exception):
    """The teacher has not answered for ``MAX_UNANSWERED`` sources in a row."""


async def with_pauses(teacher: Teacher, attempt: Callable[[], Awaitable[None]]) -> None:
    """Await ``attempt``; after :class:`Unanswered`, drop cached failures, wait and try again.

    RunError if the teacher does not answer after the last pause either.
    """
    pauses = iter(PAUSES)
    while True:
        try:
            return await attempt()
        except Unanswered as fault:
            teacher.forget_failures()
            problem = f"no usable reply for {MAX_UNANSWERED} sources in a row"
            if (pause := next(pauses, None)) is None:
                remedy = "fix the endpoint, then run the same command to resume"
                raise RunError(f"{problem}, even after pauses (last: {fault}); {remedy}") from None
            log.warning("%s: waiting %g s (%s)", problem, pause, fault)
            await asyncio.sleep(pause)


async def judge_sources(scheduler: Scheduler, goal: Goal, journal: Journal) -> None:
    """Judge source after source that the journal does not have, until enough of them count or none is left.

    If the teacher has not answered at all, the rows stay held back. RunError if it will never answer, or has not for
    ``MAX_UNANSWERED`` sources in a row, even after pauses; or if ``give_up_after`` sources had no result.
    """
    teacher = scheduler.pipeline.teacher
    if journal.asks_again:
        teacher.forget_failures()  # an error is not replayed from the cache
    await with_pauses(teacher, partial(_continue, scheduler, goal, journal))


async def _continue(scheduler: Scheduler, goal: Goal, journal: Journal) -> None:
    pipeline, settled = scheduler.pipeline, dict(journal.settled)
    journal.drop_held()
    counted = tried = in_vain = changed = 0
    initial = sum(map(goal.counts, settled.values()))
    bar = progress_bar(desc=f"{goal.unit}s", total=goal.wanted, initial=initial, unit=goal.unit)
    async with aclosing(scheduler.rows(islice(pipeline.asked(), goal.most), settled)) as rows:
        with bar:
            while counted < goal.wanted and (row := await anext(rows, None)):
                if not counted and in_vain >= (pipeline.give_up_after or inf):
                    raise RunError(f"{goal.explain(journal.rows)}. To try more sources, raise --give_up_after")
                journal.add(tried, row)
                if len(journal.held) >= MAX_UNANSWERED:
                    raise Unanswered(row.complaint)
                counted += goal.counts(row)
                in_vain += not row.passed_over
                if settled.get(tried) is not row:
                    changed += tried in settled
                    bar.update(goal.counts(row))
                    if goal.show and goal.counts(row):
                        goal.show(row)
                tried += 1
                figures = {"sources": tried, "yield": f"{counted / tried:.0%}", **pipeline.teacher.doing}
                bar.set_postfix(figures, refresh=False)
    if changed:
        log.warning("%s: texts of %d sources were other ones; they are judged again", journal.path, changed)
    if journal.rows:
        journal.write_held()
        journal.complete(tried)
    elif journal.held:
        pipeline.teacher.forget_failures()
