"""The paired ablation: for the same sources and entities, how far down each arm's list the first usable one is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from utils.config import Config
from utils.data.rows import parse_example
from utils.errors import InputError, RunError
from utils.files import check_output, dumps, find, find_input, read_jsonl
from utils.labelling.example_generation import REMEDIES
from utils.labelling.journal import Journal, describe, differences, read_journal
from utils.labelling.judging import Goal, judge_sources
from utils.labelling.outputs import named_run
from utils.labelling.record import JudgedSource
from utils.labelling.scheduler import Pipeline, Scheduler, first_usable
from utils.labelling.setup import Setup
from utils.labelling.sweep import Setting, sweep
from utils.models.folders import weights_fingerprint
from utils.progress import log
from utils.retrieval.arms import ARMS, BASE, FINE_TUNED
from utils.schema import BridgeEntity, Document
from utils.scoring import Reranker, open_reranker, reranker_options
from utils.teachers.prompts import JUDGEMENT

COMPLETE = "sources complete"  # the note after the last source's row, with what is measured until then
RESULTS = Path("./ablation_results")
JOURNAL = ".journal.jsonl"  # in place of a result's .json, until the run is finished


class Excluded(NamedTuple):
    """Sources that training data used: by id, by text, or, once the teacher has extracted an entity, by its query."""

    ids: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()
    queries: frozenset[str] = frozenset()
    files: tuple[str, ...] = ()  # that they were read from

    @classmethod
    def read(cls, files: Sequence[str]) -> Excluded:
        """Read data files (``query``, ``pos``, ``neg``) and provenance files (``source``) of the generator.

        A data file does not name its sources. They are known by their queries, which the same teacher asks again;
        documents among its passages are excluded, too. InputError if a file is not found or damaged, or a row is
        neither.
        """
        ids, texts, queries = set[str](), set[str](), set[str]()
        for file in files:
            path = find_input(file, "data to exclude", "name a training or provenance file of the generator")
            for number, row in read_jsonl(path):
                if "source" in row:
                    ids.add(str(row["source"]))
                elif "settings" in row:  # the header of a provenance file, of which no row may be missing
                    if problems := read_journal(path).problems:
                        remedy = "repair it: run the command that made it with --retry_errors"
                        raise InputError(f"{describe(path, problems)}; {remedy}")
                else:
                    example = parse_example(row, f"{path}, line {number}")
                    queries.add(example.query)
                    texts.update(example.passages)
        return cls(frozenset(ids), frozenset(texts), frozenset(queries), tuple(files))

    @property
    def fingerprint(self) -> str | None:
        """The SHA-256 of what is excluded; None if nothing is."""
        sets = [sorted(self.ids), sorted(self.texts), sorted(self.queries)]
        return hashlib.sha256(dumps(sets).encode()).hexdigest() if any(sets) else None


NOTHING = Excluded()


class ArmSet(NamedTuple):
    """The arms that are compared, their rerankers, and the arms that had to be left out, with the reason."""

    arms: list[str]
    rerankers: dict[str, Reranker]
    left_out: dict[str, str]

    @classmethod
    def open(cls, config: Config, single: str | None, fine_tuned: str) -> ArmSet:
        """Load the rerankers of one arm, or of all; among all, the fine-tuned one may be missing.

        InputError if a reranker that is needed is not found or cannot be loaded.
        """
        arms, left_out = [single] if single else list(ARMS), {}
        if single is None and find(fine_tuned) is None:
            reason = f"{fine_tuned} not found; train one, or name it with --ft_model"
            left_out = {arm: reason for arm in arms if ARMS[arm].reranker == FINE_TUNED}
            arms = [arm for arm in arms if arm not in left_out]
        paths = {BASE: config.reranker_path, FINE_TUNED: fine_tuned}
        needed = dict.fromkeys(ARMS[arm].reranker for arm in arms)
        rerankers = {name: open_reranker(paths[name], reranker_options(config)) for name in needed if name}
        return cls(arms, rerankers, left_out)


def compared(rows: Iterable[JudgedSource]) -> list[JudgedSource]:
    """Return the sources that count: their arms were tried, or an error leaves that open."""
    return [row for row in rows if row.trials or row.error is not None]


async def compare_arms(
    pipeline: Pipeline, arms: Sequence[str], num: int, journal: Journal, excluded: Excluded = NOTHING
) -> None:
    """Try all arms on the first ``num`` sources that have a bridge entity, or that an error leaves undecided.

    RunError as :func:`judge_sources` raises it.
    """

    left_out: set[str] = set()

    def sources() -> Iterable[Document]:
        for one in pipeline.sources():
            if one.id in excluded.ids or one.text in excluded.texts:
                left_out.add(one.id)
            else:
                yield one

    def keep(entity: BridgeEntity) -> bool:
        return entity.query not in excluded.queries

    scheduler = Scheduler(pipeline._replace(sources=sources), arms, first_usable, keep)
    await judge_sources(scheduler, Goal("source", num, lambda row: bool(compared([row])), explain_none), journal)
    rows = journal.sources
    count, met = len(compared(rows)), sum(row.passed_over for row in rows)
    if excluded.files:
        log.info("%d sources were left out, because the data to exclude has them", len(left_out) + met)
    if count < min(num, len(rows) - met):
        log.info("%d of %d sources have no entity", len(rows) - met - count, len(rows))
    if rows and excluded.queries and not met:
        log.warning(
            "no source has a query of the data to exclude: was it made by this teacher and model? "
            "Exclude the generator's provenance file, which names its sources"
        )


def explain_none(rows: Sequence[JudgedSource]) -> str:
    """Return why there is no source to compare on, and what helps."""
    met = sum(row.passed_over for row in rows)
    known = f" that is not excluded by its query ({met} are)" if met else ""
    helps = REMEDIES["no entity"] if rows else "lower --min_length, or exclude less"
    return f"none of {len(rows)} sources has an entity{known}; {helps}"


def any_decided(rows: Iterable[JudgedSource], arms: Sequence[str]) -> bool:
    """Return whether any arm completed on any source."""
    return any(row.decided(arm) for row in rows for arm in arms)


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

        RunError if the run cannot continue.
        """
        arms = self.arm_set.arms
        async with aclosing(self.pipeline.teacher) as teacher:
            if COMPLETE not in journal.notes:
                await compare_arms(self.pipeline, arms, self.num, journal, self.excluded)
            if any_decided(journal.sources, arms):
                if COMPLETE not in journal.notes:
                    journal.note(COMPLETE, self.measured(journal))
                await sweep(self.sweep, self.pipeline, journal)
            else:
                teacher.forget_failures()  # otherwise the next run would find them in the cache
        return "all sources were compared"

    def measured(self, journal: Journal) -> dict[str, Any]:
        """Return latencies by arm and stage, {} if this process retrieved nothing, and the cost of a judgement."""
        if COMPLETE in journal.notes:
            noted: dict[str, Any] = journal.notes[COMPLETE]
            return noted
        retriever = self.pipeline.retriever
        latency = retriever.latency(self.arm_set.arms, self.setup.candidates) if retriever.clock.units else {}
        return {"latency_ms": latency, "cost_per_call": self.setup.ledger.mean_cost(JUDGEMENT)}

    def is_finished(self, journal: Journal) -> bool:
        """Return whether all sources and all settings of the sweep are in the journal."""
        return {COMPLETE, *(setting.name for setting in self.sweep)} <= journal.notes.keys()

    def failure(self, journal: Journal) -> RunError | None:
        """Return the error of a run that stopped without any result."""
        if not (sources := compared(journal.sources)):
            return RunError(explain_none(journal.sources))
        if any_decided(sources, self.arm_set.arms):
            return None
        complaint = next(source.complaint for source in reversed(sources) if source.complaint)
        return RunError(f"no arm completed on any of {len(sources)} sources (last error: {complaint})")


def journal_of(output: Path) -> Path:
    """Return where the journal of a result file is."""
    return output.with_name(f"{output.stem}{JOURNAL}")


@contextmanager
def choose_output(settings: dict[str, Any]) -> Iterator[Path]:
    """Name a result file and keep other runs off it: the latest unfinished run's with these settings, else a new one.

    InputError if it cannot be written.
    """

    def resumable(stem: str) -> bool:
        try:
            earlier = read_journal(RESULTS / f"{stem}{JOURNAL}", settings).settings
        except InputError:
            return False
        return bool(earlier) and not differences(earlier, settings)

    check_output(RESULTS / "ablation.json")
    with named_run(RESULTS, "ablation", ".json", JOURNAL, resumable) as name:
        yield RESULTS / f"{name}.json"
