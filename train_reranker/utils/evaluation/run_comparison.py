"""Runs side by side: the sources that two or more result files share, with an arm for each run's each arm."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import InputError
from utils.evaluation.arm_results import arm_comparisons, arm_figures, summary
from utils.evaluation.results import AblationResult
from utils.files import find_input
from utils.labelling.record import JudgedSource


class Run(NamedTuple):
    """One ablation and its file."""

    path: Path
    result: AblationResult

    @classmethod
    def read(cls, file: str) -> Run:
        """Read a file that ``rerank_ablation_test.py`` wrote, in this or an earlier version.

        Raises:
            InputError: it is not found, or is not such a file.
        """
        path = find_input(file, "ablation", "name a JSON file that rerank_ablation_test.py wrote")
        try:
            return cls(path, AblationResult.from_json(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{path} is not a result of rerank_ablation_test.py ({error!r}); name its JSON file"
            raise InputError(message) from None


class Shared(NamedTuple):
    """What runs have in common, and how far they differ."""

    names: list[str]  # of the runs, in order; the others are compared with the first
    arms: list[str]  # "<run>: <arm>"
    versus: list[tuple[str, str]]  # an arm of a later run, and the same arm of the first
    sources: list[JudgedSource]  # those that all runs have, with the first run's entities
    other_queries: int  # of these: sources that some run asked another query for
    settings: dict[str, dict[str, Any]]  # each that differs, by run


def compare_runs(runs: Sequence[Run], arms: Sequence[str] | None = None) -> AblationResult:
    """Compare every arm of the later runs with the same arm of the first; see :func:`merge`."""
    shared = merge(runs, arms)
    figures, comparisons = arm_figures(shared.sources, shared.arms), arm_comparisons(shared.sources, shared.versus)
    return AblationResult(
        title=f"{' and '.join(shared.names)}, side by side",
        settings={"runs": [str(run.path) for run in runs], "differing": shared.settings},
        summary=summary(figures, comparisons),
        table=figures,
        comparisons=comparisons,
        sources=shared.sources,
        extraction_errors=sum(source.error is not None for source in shared.sources),
        documents={key: title for run in runs for key, title in run.result.documents.items()},
        other_queries=shared.other_queries,
    )


def merge(runs: Sequence[Run], arms: Sequence[str] | None = None) -> Shared:
    """Put runs side by side over the sources that all of them have.

    Args:
        runs: two or more.
        arms: names of those to compare; None takes all that a later run shares with the first.

    Raises:
        InputError: there is no arm or no source that a later run shares with the first.
    """
    names = name_runs(runs)
    by_id = [{source.source: source for source in run.result.sources} for run in runs]
    shared = [source for source in runs[0].result.sources if all(source.source in others for others in by_id)]
    if not shared:
        raise InputError(f"{', '.join(names)} share no source: run them with the same --seed or --doc_ids")
    has = [list(dict.fromkeys(arm for source in run.result.sources for arm in source.trials)) for run in runs]
    versus = [
        (f"{name}: {arm}", f"{names[0]}: {arm}")
        for name, its in zip(names[1:], has[1:], strict=True)
        for arm in has[0]
        if arm in its and (arms is None or arm in arms)
    ]
    if not versus:
        raise InputError(f"{', '.join(names)} share no arm{' of ' + ', '.join(arms) if arms else ''}: name others")
    # A source without a usable candidate counts as many attempts as it had candidates: all runs get equally many.
    lists = [[trial.retrieved for source in run.result.sources for trial in source.trials.values()] for run in runs]
    budget = min(max(map(len, found), default=0) for found in lists)
    compared = list(dict.fromkeys(arm for pair in versus for arm in reversed(pair)))
    sources = []
    for source in shared:
        trials = {
            f"{name}: {arm}": trial.within(budget)
            for name, its in zip(names, by_id, strict=True)
            for arm, trial in its[source.source].trials.items()
        }
        sources.append(source._replace(trials={arm: trials[arm] for arm in compared if arm in trials}))
    asked = [{its[source.source].query for its in by_id} for source in shared]
    return Shared(names, compared, versus, sources, sum(len(queries) > 1 for queries in asked), differing(runs, names))


def name_runs(runs: Sequence[Run]) -> list[str]:
    """Return short names that differ: the files' stems, with their folder where stems are the same."""
    stems = [run.path.stem for run in runs]
    for names in (stems, [f"{run.path.parent.name}/{run.path.stem}" for run in runs]):
        if len(set(names)) == len(names):
            return names
    return [f"{i} {stem}" for i, stem in enumerate(stems, 1)]


def differing(runs: Sequence[Run], names: Sequence[str]) -> dict[str, Any]:
    """Return the settings that are not the same in all runs, each with every run's value."""
    keys = dict.fromkeys(key for run in runs for key in run.result.settings)
    values = {key: {name: run.result.settings.get(key) for name, run in zip(names, runs, strict=True)} for key in keys}
    return {key: by_run for key, by_run in values.items() if any(v != by_run[names[0]] for v in by_run.values())}
