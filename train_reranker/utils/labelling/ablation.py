"""The paired ablation: for the same sources and entities, how far down each arm's list the first usable one is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from utils.config import Config
from utils.errors import InputError, RunError
from utils.files import check_output, find
from utils.labelling.excluded import NOTHING, Excluded
from utils.labelling.journal import Journal, differences, read_settings
from utils.labelling.judging import Goal, Pipeline, first_usable, judge_sources
from utils.labelling.record import JudgedSource
from utils.labelling.setup import Setup
from utils.labelling.summary import REMEDIES
from utils.labelling.sweep import Setting, Sweep, sweep
from utils.models.folders import weights_fingerprint
from utils.progress import log
from utils.retrieval.arms import ARMS, BASE, FINE_TUNED
from utils.scoring import Reranker, open_reranker, reranker_options
from utils.teachers.prompts import JUDGEMENT

COMPLETE = "sources complete"  # the note after the last source's row, with what is measured until then
RESULTS = Path("./ablation_results")


class ArmSet(NamedTuple):
    """The arms that are compared, their rerankers, and the arms that had to be left out, with the reason."""

    arms: list[str]
    rerankers: dict[str, Reranker]
    left_out: dict[str, str]

    @classmethod
    def open(cls, config: Config, single: str | None, fine_tuned: str) -> ArmSet:
        """Load the rerankers of one arm, or of all; among all, the fine-tuned one may be missing.

        Raises:
            InputError: a reranker that is needed is not found or cannot be loaded.
        """
        arms = [single] if single else list(ARMS)
        left_out = {}
        if single is None and find(fine_tuned) is None:
            reason = f"{fine_tuned} not found; train one, or name it with --ft_model"
            left_out = {arm: reason for arm in arms if ARMS[arm].reranker == FINE_TUNED}
            arms = [arm for arm in arms if arm not in left_out]
        paths = {BASE: config.reranker_path, FINE_TUNED: fine_tuned}
        needed = dict.fromkeys(ARMS[arm].reranker for arm in arms)
        rerankers = {name: open_reranker(paths[name], reranker_options(config)) for name in needed if name}
        return cls(arms, rerankers, left_out)


def is_compared(row: JudgedSource) -> bool:
    """Return whether a source counts: its arms were tried, or an error leaves that open."""
    return bool(row.trials) or row.error is not None


def is_excluded(row: JudgedSource) -> bool:
    """Return whether a source was passed over for its query."""
    return row.entity is not None and not row.trials


async def compare_arms(
    pipeline: Pipeline, arms: Sequence[str], num: int, journal: Journal, excluded: Excluded = NOTHING
) -> None:
    """Try all arms on the first ``num`` sources that have a bridge entity, or that an error leaves undecided.

    Raises:
        RunError: see :func:`judge_sources`.
    """
    sources = pipeline.sources
    pipeline = replace(pipeline, sources=lambda: excluded.filter(sources()))
    goal = Goal("source", num, is_compared, lambda row: row.entity is None and row.error is None, explain_none)
    await judge_sources(pipeline, arms, first_usable, goal, journal, excluded.keeps)
    rows = journal.sources
    without, met = sum(map(goal.in_vain, rows)), any(map(is_excluded, rows))
    if without and sum(map(is_compared, rows)) < num:
        log.info("%d of %d sources have no entity", without, len(rows))
    if excluded.queries and not met:
        log.warning(
            "no source has a query of the data to exclude: was it made by this teacher and model? "
            "Exclude the generator's provenance file, which names its sources"
        )


def explain_none(rows: Sequence[JudgedSource]) -> str:
    """Return why there is no source to compare on, and what helps."""
    met = sum(map(is_excluded, rows))
    known = f" that is not excluded by its query ({met} are)" if met else ""
    helps = REMEDIES["no entity"] if rows else "lower --min_length, or exclude less"
    return f"none of {len(rows)} sources has an entity{known}; {helps}"


class Observed(NamedTuple):
    """What a run has observed so far."""

    sources: list[JudgedSource]  # compared, or in error
    sweep: Sweep
    latency_ms: dict[str, dict[str, float]]  # by arm and stage; empty if this process retrieved nothing
    cost_per_call: float | None  # of a judgement
    finished: bool  # whether all sources and all settings of the sweep are here

    def decided(self, arms: Sequence[str]) -> bool:
        """Return whether any arm completed on any source."""
        return any(source.decided(arm) for source in self.sources for arm in arms)


@dataclass(frozen=True)
class AblationRun:
    """One run of the ablation, from its flags to what it observed."""

    setup: Setup
    arm_set: ArmSet
    num: int  # sources to compare on
    baseline: str  # the arm that the others are compared with
    excluded: Excluded = NOTHING
    sweep: Sequence[Setting] = ()

    @cached_property
    def pipeline(self) -> Pipeline:
        """Sources, teacher and retriever."""
        return self.setup.open_pipeline(self.arm_set.rerankers)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that the rows depend on."""
        options = asdict(reranker_options(self.setup.config)) | {"device": None}
        return {
            **self.setup.settings,
            "arms": self.arm_set.arms,
            "num": self.num,
            "candidates": self.setup.candidates,
            "exclude_data": list(self.excluded.files),
            "excluded": self.excluded.fingerprint,
            "sweep": [setting.name for setting in self.sweep],
            "rerankers": {
                name: {"path": str(reranker.path), "weights": weights_fingerprint(reranker.path), **options}
                for name, reranker in self.arm_set.rerankers.items()
            },
            **self.pipeline.retriever.settings,
            **self.pipeline.teacher.settings,
        }

    async def observe(self, journal: Journal) -> str:
        """Try all arms, then the sweep's settings on the same sources, close the teacher, and return why it stopped.

        Raises:
            RunError: the run cannot continue.
        """
        async with aclosing(self.pipeline.teacher) as teacher:
            if COMPLETE not in journal.notes:
                await compare_arms(self.pipeline, self.arm_set.arms, self.num, journal, self.excluded)
            if self.observed(journal).decided(self.arm_set.arms):
                if COMPLETE not in journal.notes:
                    journal.note(COMPLETE, self._measured)
                await sweep(self.sweep, self.pipeline, journal)
            else:
                teacher.forget_failures()  # otherwise the next run would find them in the cache
        return "all sources were compared"

    @property
    def _measured(self) -> dict[str, Any]:
        retriever = self.pipeline.retriever
        latency = retriever.latency(self.arm_set.arms, self.setup.candidates) if retriever.clock.units else {}
        return {"latency_ms": latency, "cost_per_call": self.setup.ledger.mean_cost(JUDGEMENT)}

    def observed(self, journal: Journal) -> Observed:
        """Return what the journal holds, and what was measured."""
        measured = journal.notes.get(COMPLETE) or self._measured
        swept = Sweep.read(self.sweep, journal)
        finished = COMPLETE in journal.notes and len(swept.asked) == len(self.sweep)
        return Observed(list(filter(is_compared, journal.sources)), swept, finished=finished, **measured)

    def failure(self, journal: Journal) -> RunError | None:
        """Return the error of a run that stopped without any result."""
        observed = self.observed(journal)
        if not observed.sources:
            return RunError(explain_none(journal.sources))
        if observed.decided(self.arm_set.arms):
            return None
        complaint = next(source.complaint for source in reversed(observed.sources) if source.complaint)
        return RunError(f"no arm completed on any of {len(observed.sources)} sources (last error: {complaint})")


def journal_of(output: Path) -> Path:
    """Return where the journal of a result file is until the run is finished."""
    return output.with_name(f"{output.stem}.journal.jsonl")


def choose_output(settings: dict[str, Any]) -> Path:
    """Name a result file: that of the latest unfinished run with these settings, else a new one.

    Raises:
        InputError: the folder cannot be written.
    """
    for journal in sorted(RESULTS.glob("ablation_*.journal.jsonl"), reverse=True):
        with suppress(InputError):
            if not differences(read_settings(journal), settings):
                log.info("resuming the unfinished run of %s", journal)
                return journal.with_name(f"{journal.name.removesuffix('.journal.jsonl')}.json")
    return check_output(RESULTS / f"ablation_{datetime.now():%Y%m%d_%H%M%S}.json")
