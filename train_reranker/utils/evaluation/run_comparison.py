"""Runs side by side: the sources that two or more result files share, with an arm for each run's each arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import InputError
from utils.evaluation.arm_results import arm_comparisons, arm_figures, summary
from utils.evaluation.results import AblationResult
from utils.files import find_input, loads
from utils.labelling.journal import EARLIER


class Run(NamedTuple):
    """One ablation and its file."""

    path: Path
    result: AblationResult

    @classmethod
    def read(cls, file: str) -> Run:
        """Read a file that ``rerank_ablation_test.py`` wrote, of any version; InputError if it is no such file."""
        path = find_input(file, "ablation", "name a JSON file that rerank_ablation_test.py wrote")
        try:
            return cls(path, AblationResult.from_json(loads(path.read_bytes())))
        except (OSError, ValueError) as error:
            message = f"{path} is not a result of rerank_ablation_test.py ({error}); name its JSON file"
            raise InputError(message) from None


def compare_runs(runs: Sequence[Run], arms: Sequence[str] | None = None) -> AblationResult:
    """Compare every arm of the later runs with the same arm of the first, over the sources that all runs have.

    Names of ``arms`` choose among those that are shared. InputError if no arm or no source is.
    """
    names = name_runs(runs)
    by_id = [{source.source: source for source in run.result.sources} for run in runs]
    shared = [source for source in runs[0].result.sources if all(source.source in others for others in by_id)]
    if not shared:
        raise InputError(f"{', '.join(names)} share no source: run them with the same --seed or --doc_ids")
    has = [list(dict.fromkeys(arm for source in run.result.sources for arm in source.trials)) for run in runs]
    chosen = [arm for arm in has[0] if arms is None or arm in arms]
    later = zip(names[1:], has[1:], strict=True)
    versus = [(f"{name}: {arm}", f"{names[0]}: {arm}") for name, its in later for arm in chosen if arm in its]
    if not versus:
        raise InputError(f"{', '.join(names)} share no arm{' of ' + ', '.join(arms) if arms else ''}: name others")
    compared = list(dict.fromkeys(arm for pair in versus for arm in reversed(pair)))
    # A source without a usable candidate counts as many attempts as it had candidates: all runs get equally many.
    lists = [[trial.retrieved for source in run.result.sources for trial in source.trials.values()] for run in runs]
    budget = min(max(map(len, found), default=0) for found in lists)
    sources, other_queries = [], 0
    for source in shared:
        its = {name: others[source.source] for name, others in zip(names, by_id, strict=True)}
        trials = {f"{name}: {arm}": trial for name, one in its.items() for arm, trial in one.trials.items()}
        sources.append(source._replace(trials={arm: trials[arm].within(budget) for arm in compared if arm in trials}))
        other_queries += len({one.query for one in its.values()}) > 1
    figures, comparisons = arm_figures(sources, compared), arm_comparisons(sources, versus)
    return AblationResult(
        title=f"{' and '.join(names)}, side by side", finished=all(run.result.finished for run in runs),
        settings={"runs": [str(run.path) for run in runs], "differing": differing(runs, names)},
        summary=summary(figures, comparisons), table=figures, comparisons=comparisons, sources=sources,
        extraction_errors=sum(source.error is not None for source in sources), other_queries=other_queries,
        documents={key: title for run in runs for key, title in run.result.documents.items()},
    )  # fmt: skip


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
    had = [(name, EARLIER | run.result.settings) for name, run in zip(names, runs, strict=True)]
    values = {key: {name: settings.get(key) for name, settings in had} for key in keys}
    return {key: by_run for key, by_run in values.items() if any(v != by_run[names[0]] for v in by_run.values())}
