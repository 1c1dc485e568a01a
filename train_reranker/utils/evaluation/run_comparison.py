"""Runs side by side: the sources that two or more result files share, with an arm for each run's each arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from utils.errors import InputError
from utils.evaluation.runs import Run
from utils.labelling.record import JudgedSource


class Merged(NamedTuple):
    """What runs have in common, and how far they differ."""

    names: list[str]  # of the runs, in order; the first is what the others are compared with
    arms: list[str]  # "<run>: <arm>"
    versus: list[tuple[str, str]]  # an arm of a later run, and the same arm of the first
    sources: list[JudgedSource]  # those that all runs have, with the first run's entities
    other_queries: int  # of these: sources that some run asked another query for
    settings: dict[str, Any]  # each that differs, by run


def merge(runs: Sequence[Run], arms: Sequence[str] | None = None) -> Merged:
    """Put runs side by side over the sources that all of them have.

    Args:
        runs: two or more.
        arms: names of those to compare; None takes all that a later run shares with the first.

    Raises:
        InputError: there is no arm or no source that a later run shares with the first.
    """
    names = name_runs(runs)
    of = [{source.source: source for source in run.sources} for run in runs]
    shared = [source for source in runs[0].sources if all(source.source in others for others in of)]
    if not shared:
        raise InputError(f"{', '.join(names)} share no source: run them with the same --seed or --doc_ids")
    has = [list(dict.fromkeys(arm for source in run.sources for arm in source.trials)) for run in runs]
    versus = [
        (f"{name}: {arm}", f"{names[0]}: {arm}")
        for name, its in zip(names[1:], has[1:], strict=True)
        for arm in has[0]
        if arm in its and (arms is None or arm in arms)
    ]
    if not versus:
        raise InputError(f"{', '.join(names)} share no arm{' of ' + ', '.join(arms) if arms else ''}: name others")
    # A source without a usable candidate counts for as many attempts as it had candidates: all get as many.
    lists = [[trial.retrieved for source in run.sources for trial in source.trials.values()] for run in runs]
    budget = min(max(map(len, found), default=0) for found in lists)
    compared = list(dict.fromkeys(arm for pair in versus for arm in reversed(pair)))
    sources = []
    for source in shared:
        trials = {
            f"{name}: {arm}": trial.within(budget)
            for name, its in zip(names, of, strict=True)
            for arm, trial in its[source.source].trials.items()
        }
        sources.append(source._replace(trials={arm: trials[arm] for arm in compared if arm in trials}))
    asked = [{its[source.source].query for its in of} for source in shared]
    return Merged(names, compared, versus, sources, sum(len(queries) > 1 for queries in asked), differing(runs, names))


def name_runs(runs: Sequence[Run]) -> list[str]:
    """Return short names that differ: the files' stems, with their folder where stems are the same."""
    stems = [run.path.stem for run in runs]
    if len(set(stems)) == len(stems):
        return stems
    longer = [f"{run.path.parent.name}/{run.path.stem}" for run in runs]
    if len(set(longer)) == len(longer):
        return longer
    return [f"{i} {stem}" for i, stem in enumerate(stems, 1)]


def differing(runs: Sequence[Run], names: Sequence[str]) -> dict[str, Any]:
    """Return the settings that are not the same in all runs, each with every run's value."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    values = {key: {name: run.settings.get(key) for name, run in zip(names, runs, strict=True)} for key in keys}
    return {key: by_run for key, by_run in values.items() if any(v != by_run[names[0]] for v in by_run.values())}
