"""What a page lists one by one: the sources of an ablation or the queries of a test, and how each went."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from utils.data.first_stage import FIRST
from utils.evaluation.results import AblationResult, RerankerTestResult
from utils.evaluation.verdict import advised_order
from utils.evaluation.wins_and_losses import RankedQuery
from utils.labelling.record import JudgedSource, Trial
from utils.schema import Outcome, Verdict

# How a source or a query went against a baseline, or a source for one arm by itself; the first are listed first.
KINDS = {"win": "better", "loss": "worse", "tie": "the same", "open": "undecided"}
SINGLE_KINDS = {"none": "none found", "found": "found", "open": "undecided"}
MARKS = {Outcome.USABLE: "✓ usable", Outcome.UNUSABLE: "✗ unusable", Outcome.ERROR: "! error"}


def source_choices(result: AblationResult) -> list[tuple[str, str | None]]:
    """Return what the list of sources can be shown for: comparisons, the best first, else single arms."""
    if not result.comparisons:
        return [(figures.arm, None) for figures in result.table]
    return [(one.arm, one.baseline) for one in sorted(result.comparisons, key=lambda one: one.judged_difference or 0)]


class State(NamedTuple):
    """How a source went for one choice; sources are listed by ``order``."""

    kind: str
    text: str
    order: int


class Case(NamedTuple):
    """A source or a query as the page lists it, with a state for each choice."""

    source: JudgedSource | RankedQuery
    states: list[State]

    @property
    def data(self) -> str:
        """The states for the page's script."""
        return json.dumps([state._asdict() for state in self.states])


def verdicts(source: JudgedSource) -> dict[tuple[str, str], Verdict]:
    """Return all verdicts by run and document: arms of one run share theirs, those of several ("run: arm") may not."""
    return {
        (arm.rpartition(": ")[0], document_id): verdict
        for arm, trial in source.trials.items()
        for document_id, verdict in trial.judged
    }


def source_cases(result: AblationResult, choices: Sequence[tuple[str, str | None]]) -> list[Case]:
    """Return the sources as the page lists them, in the order of the first choice: wins and losses first."""
    listed = [Case(source, [state(source, *choice) for choice in choices]) for source in result.sources]
    return sorted(listed, key=lambda case: case.states[0].order)


def query_choices(result: RerankerTestResult) -> list[tuple[str, str]]:
    """Return the comparisons that the queries can be shown for: those with a difference, and what is advised, first."""
    orders = set(result.examples[0].values) if result.examples else set()
    pairs = [(one.order, one.baseline) for one in result.comparisons if one.metric == result.main_metric]
    shown = [pair for pair in pairs if orders.issuperset(pair)]
    advised = advised_order(result)

    def place(pair: tuple[str, str]) -> tuple[bool, bool, bool]:
        same = all(query.values[pair[0]] == query.values[pair[1]] for query in result.examples)
        return same, pair[1] != FIRST, pair[0] != advised

    return sorted(shown, key=place)


def query_cases(result: RerankerTestResult, choices: Sequence[tuple[str, str]]) -> list[Case]:
    """Return the queries as the page lists them, as :func:`source_cases` does."""
    listed = [Case(query, [_gain(query, *choice) for choice in choices]) for query in result.examples]
    return sorted(listed, key=lambda case: case.states[0].order)


def _gain(query: RankedQuery, order: str, baseline: str) -> State:
    gain = query.values[order] - query.values[baseline]
    kind = "tie" if not gain else "win" if gain > 0 else "loss"
    return _state(kind, f"{gain:+.2f}" if gain else "the same", round(abs(gain) * 10**4))


def state(source: JudgedSource, arm: str, baseline: str | None) -> State:
    """Return how a source went for an arm, against a baseline or by itself."""
    ours, theirs = source.decided(arm), source.decided(baseline or arm)
    if ours is None or theirs is None:
        return _state("open", "undecided", 0)
    if baseline is None:
        found = f"found at {ours.attempts}" if ours.success else "none found"
        return _state("found" if ours.success else "none", found, ours.attempts)
    fewer = theirs.attempts - ours.attempts
    if fewer == 0:
        gained = ours.success - theirs.success
        return _state(("tie", "win", "loss")[gained], ("the same", "found", "lost")[gained], 1)
    return _state("win" if fewer > 0 else "loss", f"{abs(fewer)} {'fewer' if fewer > 0 else 'more'}", abs(fewer))


def _state(kind: str, text: str, size: int) -> State:
    places = list(KINDS if kind in KINDS else SINGLE_KINDS)
    return State(kind, text, places.index(kind) * 10**6 - size)


def conclusion(trial: Trial) -> str:
    """Return how an arm's trial on a source ended."""
    if trial.failed:
        return "undecided: an error"
    return f"usable at {trial.attempts}" if trial.success else f"none of {trial.attempts} usable"
