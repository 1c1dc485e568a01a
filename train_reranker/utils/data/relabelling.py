"""False negatives: found by a teacher that is asked several times, or by a margin, then relabelled or dropped."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from utils.data.mining import Margin, Mined
from utils.data.rows import without
from utils.schema import ContrastiveExample, Outcome, Verdict
from utils.teachers.base import Teacher

CALLS_PER_ROW = 1.3
ASKED_AT_ONCE = 32  # passages; how the next ones are asked about depends on what these were
RARE = 0.2  # share of false negatives among them, below which the next are kept at a single no

# What becomes of a negative. RELABELLED is an undisputed false negative, DROPPED one by majority or by the margin.
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
    """What was found out about a negative."""

    suspect: Suspect
    decision: str = KEPT
    verdicts: tuple[Verdict, ...] = ()

    @property
    def votes(self) -> tuple[int, int]:
        """How many answers are that it is relevant, and how many that it is not."""
        outcomes = [verdict.outcome for verdict in self.verdicts]
        return outcomes.count(Outcome.USABLE), outcomes.count(Outcome.UNUSABLE)


class Steps(NamedTuple):
    """What is done about false negatives."""

    relabel: bool = True  # undisputed ones become positives
    drop: bool = True  # other ones are removed, and those too if they are not relabelled

    def decision(self, yes: int, no: int) -> str:
        """Return what becomes of a passage with so many votes for being relevant, and against."""
        if yes <= no:
            return KEPT
        if self.relabel and not no:
            return RELABELLED
        return DROPPED if self.drop else KEPT


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


async def by_teacher(
    rows: Sequence[ContrastiveExample], suspects: Sequence[Suspect], teacher: Teacher, calls: float, steps: Steps
) -> list[Finding]:
    """Find false negatives among the most suspicious negatives, as many as the calls allow.

    A judge that errs once in ten would lose a tenth of the true negatives that it sees. So the reranker's scores decide
    which ones it sees, and the question is put in another form until two answers agree: where its errors are
    independent, that takes 2.2 calls and errs once in 36. Once false negatives have become rare, the first no ends it,
    which saves calls for more passages, and true negatives. Questions without an answer are no votes.
    """
    findings: list[Finding] = []
    spent, rare = 0, False
    while count := min(ASKED_AT_ONCE, int(calls - spent) // teacher.variants, len(suspects)):
        asked, suspects = suspects[:count], suspects[count:]
        found = await asyncio.gather(*(_ask(rows[one.row], one, teacher, steps, rare) for one in asked))
        spent += sum(len(one.verdicts) for one in found)
        rare = sum(one.votes[0] > one.votes[1] for one in found) < RARE * count
        findings += found
    return findings


async def _ask(row: ContrastiveExample, suspect: Suspect, teacher: Teacher, steps: Steps, rare: bool) -> Finding:
    """Ask in one form after the other until most agree; where false negatives are rare, until the first no."""
    finding = Finding(suspect)
    for variant in range(teacher.variants):
        verdict = await teacher.relevant(row.query, row.pos[0], suspect.passage, variant)
        finding = finding._replace(verdicts=(*finding.verdicts, verdict))
        yes, no = finding.votes
        if max(yes, no) > teacher.variants // 2 or (rare and no):
            break
    return finding._replace(decision=steps.decision(*finding.votes))


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
    for suspect, decision, verdicts in findings:
        said = [{"outcome": verdict.outcome.value, "reason": verdict.reason} for verdict in verdicts]
        found = {"score": suspect.score, "positive_score": suspect.positive_score, "label": decision, "verdicts": said}
        known.setdefault((suspect.row, suspect.passage), {}).update(found)
    for (row, passage), facts in sorted(known.items(), key=lambda item: item[0][0]):
        yield {"row": row + 1, "query": rows[row].query, "passage": passage} | facts
