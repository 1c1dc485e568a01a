"""Generating contrastive examples: sources to a journal of verdicts, the journal to example files."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from datetime import datetime
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from utils.corpus.documents import Corpus
from utils.data.split import SPLIT_FILES, Labelled
from utils.errors import InputError, RunError
from utils.files import append_jsonl, dumps, parse_line, write_jsonl
from utils.labelling.scheduler import BLOCK, Prepared, work_through
from utils.progress import log, progress_bar
from utils.retrieval.retriever import Retriever
from utils.schema import BridgeEntity, Candidate, ContrastiveExample, Document, Outcome, SubQuestion, Verdict
from utils.teachers.base import Teacher
from utils.teachers.language_model import MAX_ATTEMPTS
from utils.teachers.ledger import BudgetSpent, Ledger
from utils.teachers.reply_cache import answer_params

ARM = "diverse"

# So many sources in a row without a usable reply are a fault that lasts. The run then waits, twice, and gives up.
MAX_UNANSWERED = 20
PAUSES = (15.0, 60.0)  # seconds

# What helps where most sources ended so.
REMEDIES = {
    "no entity": "try another entity_extractor_model, or longer sources (--min_length)",
    "no positive": "try more candidates (--max_doc_candidates), or another question_generator_model",
    "no negative": "is the judge saying yes to everything? Try more candidates (--max_doc_candidates), or another "
    "question_generator_model",
    "example": "candidates repeat one another's text: leave duplicates out of the corpus",
}

# Share of sources that give an example, and candidates judged a source: of the offline teacher on the demo's corpus.
# They serve the first estimate; the progress bar shows what holds for another teacher and corpus.
ACCEPTED, JUDGED = 0.5, 3


class Target(NamedTuple):
    """What makes an example, and how many are wanted."""

    examples: int
    candidates: int
    positives: int = 1
    negatives: int = 1


class Plan(NamedTuple):
    """How many calls of a language model a run is going to make."""

    wanted: Target
    sources: int
    max_attempts: int | None = None
    max_calls: int | None = None
    windows: int = 1  # in which the longest document is read

    @property
    def attempts(self) -> int:
        """Sources that are tried at most."""
        return min(self.sources, self.max_attempts or self.sources)

    @property
    def expected(self) -> int:
        """Calls to expect: one extraction a source, and some judgements until there is one of each kind."""
        tried = min(self.attempts, round(self.wanted.examples / ACCEPTED))
        return min(tried * (1 + min(self.wanted.candidates, JUDGED)), self.largest)

    @property
    def largest(self) -> int:
        """Calls at most: every window of every source and candidate, and every question asked as often as it may be."""
        most = self.attempts * (1 + self.wanted.candidates) * self.windows * MAX_ATTEMPTS
        return most if self.max_calls is None else min(most, self.max_calls)

    def __str__(self) -> str:
        """Say it in a line."""
        return (
            f"{self.wanted.examples} examples wanted, {self.attempts} sources to try: "
            f"about {self.expected} calls expected, {self.largest} at the most"
        )


class Judged(NamedTuple):
    """One source document's row in the journal: what was extracted, retrieved and judged, in order."""

    source: str
    entity: BridgeEntity | None
    retrieved: list[str]
    verdicts: list[Verdict]  # of the first of the retrieved; judging stops once there is enough
    error: str | None = None

    @property
    def outcome(self) -> str:
        """What became of the source: an example, or why not."""
        outcomes = {verdict.outcome for verdict in self.verdicts}
        if {Outcome.USABLE, Outcome.UNUSABLE} <= outcomes:
            return "example"
        if self.error or Outcome.ERROR in outcomes:
            return "error"
        if self.entity is None:
            return "no entity"
        return "no negative" if Outcome.USABLE in outcomes else "no positive"

    @property
    def fruitless(self) -> bool:
        """Whether the teacher gave no usable answer at all for this source."""
        return self.error is not None or (
            bool(self.verdicts) and all(verdict.outcome is Outcome.ERROR for verdict in self.verdicts)
        )

    @property
    def complaint(self) -> str:
        """The last reason that the teacher gave for not answering."""
        return self.error or next((v.reason for v in reversed(self.verdicts) if v.outcome is Outcome.ERROR), "")

    def ids(self, outcome: Outcome) -> list[str]:
        """Return the ids of the candidates of an outcome, in order."""
        # Judging stops early: there may be more retrieved than judged.
        pairs = zip(self.retrieved, self.verdicts, strict=False)
        return [document_id for document_id, verdict in pairs if verdict.outcome is outcome]

    def example(self, corpus: Corpus) -> ContrastiveExample | None:
        """Return the source's example, or None where it has no positive or no negative."""
        if self.entity is None or self.outcome != "example":
            return None
        # A corpus may hold a text twice: what answers the query is no negative, whatever was said of its twin.
        pos = list(dict.fromkeys(corpus.get(i).text for i in self.ids(Outcome.USABLE)))
        neg = list(dict.fromkeys(corpus.get(i).text for i in self.ids(Outcome.UNUSABLE)))
        neg = [text for text in neg if text not in pos]
        return ContrastiveExample(self.entity.query, pos, neg) if neg else None


class Outputs(NamedTuple):
    """The files of one run."""

    examples: Path
    provenance: Path
    summary: Path

    @property
    def folder(self) -> Path:
        """Where they all are."""
        return self.examples.parent

    @classmethod
    def choose(cls, folder: str, examples: str | None, summary: str | None, split: bool, overwrite: bool) -> Outputs:
        """Name the files of a run; without a name, an unfinished run of the folder is gone on with.

        A run is finished when its summary is there.

        Raises:
            InputError: a finished run's file, or one of the split's, would be overwritten.
        """
        into = Path(folder)

        def named(examples: str) -> Outputs:
            stem = examples.removesuffix(".jsonl")
            return cls(into / examples, into / f"{stem}.provenance.jsonl", into / (summary or f"{stem}.summary.json"))

        if examples is None:
            begun = (path.name for path in sorted(into.glob("contrastive_examples_*.provenance.jsonl")))
            unfinished = [run for run in (named(name.replace(".provenance", "")) for name in begun) if not run.finished]
            if unfinished and not overwrite:
                log.info("going on with the unfinished run of %s", unfinished[-1].examples)
                return unfinished[-1]
        outputs = named(examples or f"contrastive_examples_{datetime.now():%Y%m%d_%H%M%S}.jsonl")
        # An unfinished run has made sure of its files when it began: what is there of them is its own.
        unfinished_run = outputs.provenance.exists() and not outputs.finished
        results = [outputs.examples, *(outputs.folder / name for name in SPLIT_FILES if split)]
        results = [] if unfinished_run else [*results, *([outputs.summary] if summary else [])]
        in_the_way = [path for path in results if path.exists()]
        if in_the_way and not overwrite:
            raise InputError(f"{in_the_way[0]} is there already: name another --output_dir, or give --overwrite")
        return outputs

    @property
    def finished(self) -> bool:
        """Whether there is a run of these files that has nothing left to go on with."""
        try:
            return bool(json.loads(self.summary.read_text(encoding="utf-8"))["summary"]["finished"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs off these files.

        Raises:
            InputError: another run has them.
        """
        from filelock import FileLock, Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / f".{self.examples.name}.lock", timeout=0)
        try:
            with lock:
                yield
        except Timeout:
            raise InputError(
                f"another run is writing {self.examples}: wait for it, or name another --output_file"
            ) from None


class Journal:
    """The provenance file: a line of settings, then one line for each source in order, the truth of a run.

    Everything else that a run writes is made from it, so that a run killed at any moment can go on.
    """

    def __init__(self, path: Path, settings: dict[str, Any], overwrite: bool = False) -> None:
        """Open the journal of a run with these settings, new or to be continued; ``overwrite`` begins it anew.

        Raises:
            InputError: it belongs to a run with other settings; the differences are named.
        """
        settings = json.loads(dumps(settings))  # as they will be read again
        self.path, self.settings, self.rows = path, settings, list[Judged]()
        if not overwrite and path.exists() and path.stat().st_size:
            earlier, self.rows = _read_journal(path)
            # What an earlier version did not know of was as it is now by default.
            different = sorted(k for k in earlier if _deciding(settings.get(k)) != _deciding(earlier[k]))
            if different and self.rows:  # a run that got no further than its settings may be mended
                changes = "; ".join(f"{k}: {earlier.get(k)!r} then, {settings.get(k)!r} now" for k in different)
                raise InputError(
                    f"{path} is of a run with other settings ({changes}): use those, another --output_file, "
                    "or --overwrite"
                )
        # Whole blocks only: a block's queries must be encoded together again to give the same vectors.
        self.rows = self.rows[: len(self.rows) // BLOCK * BLOCK]

        write_jsonl(path, [{"settings": settings}, *map(_to_row, self.rows)])
        self._out = path.open("a", encoding="utf-8")

    def extend(self, rows: Iterable[Judged]) -> None:
        """Add sources' rows; they are out of this process's hands when this returns."""
        for row in rows:
            append_jsonl(self._out, _to_row(row))
            self.rows.append(row)

    def labelled(self, corpus: Corpus) -> list[Labelled]:
        """Return the examples of the run, in source order, with what they came from."""
        made = [(row, row.example(corpus)) for row in self.rows]
        return [
            Labelled(corpus.get(row.source).text, row.entity.name, example)
            for row, example in made
            if example and row.entity
        ]


class Stop(NamedTuple):
    """Why a run ended, and whether there is nothing left to go on with."""

    reason: str
    finished: bool


async def generate(
    sources: Callable[[], Iterable[Document]],
    teacher: Teacher,
    retriever: Retriever,
    wanted: Target,
    journal: Journal,
    *,
    max_attempts: int | None = None,
    concurrency: int = 1,
    give_up_after: int | None = None,
) -> Stop:
    """Judge source after source into the journal until there are enough examples.

    Args:
        sources: gives documents in a fixed order; those that the journal has already are passed over.
        teacher: extracts and judges; is closed at the end.
        retriever: finds the candidates, by the ``diverse`` arm.
        wanted: how many examples, of how many candidates, positives and negatives.
        journal: where the rows go.
        max_attempts: sources to try at most, those of the journal included.
        concurrency: sources in flight at a time; the rows are the same at any.
        give_up_after: sources without a single example after which the run ends; None goes on to the last.

    Raises:
        RunError: the teacher will never answer, or has not for ``MAX_UNANSWERED`` sources in a row, also after
            pauses; or ``give_up_after`` sources made no example.
    """
    async with aclosing(teacher):
        for pause in (*PAUSES, None):
            try:
                return await _generate(
                    sources(), teacher, retriever, wanted, journal, max_attempts, concurrency, give_up_after
                )
            except _Unanswered as fault:
                # What came back is nonsense, and would only come out of the cache again.
                teacher.forget_failures()
                if pause is None:
                    raise RunError(
                        f"no usable reply for {MAX_UNANSWERED} sources in a row, also after pauses (last: {fault}); "
                        "fix the endpoint and run the same command again to go on"
                    ) from None
                log.warning("no usable reply for %d sources in a row: waiting %g s (%s)", MAX_UNANSWERED, pause, fault)
                await asyncio.sleep(pause)
            except BudgetSpent as limit:
                return Stop(str(limit), finished=False)
    raise AssertionError("the last pause is None")


class _Unanswered(Exception):
    """The teacher has not answered for ``MAX_UNANSWERED`` sources in a row; their rows were not written."""


async def _generate(
    sources: Iterable[Document],
    teacher: Teacher,
    retriever: Retriever,
    wanted: Target,
    journal: Journal,
    max_attempts: int | None,
    concurrency: int,
    give_up_after: int | None,
) -> Stop:
    def retrieve(queries: list[str], documents: list[Document]) -> list[dict[str, list[Candidate]]]:
        return retriever.retrieve([ARM], queries, documents, wanted.candidates)

    async def judge(prepared: Prepared) -> Judged:
        return await judge_source(prepared, teacher, wanted)

    held: list[Judged] = []  # rows without an answer: written once an answer comes, so that a lasting fault is no row
    made = sum(row.outcome == "example" for row in journal.rows)
    with progress_bar(desc="examples", total=wanted.examples, initial=made, unit="ex") as bar:
        # After a pause, the block that it fell into is gone through again from its beginning, for the same vectors.
        known = len(journal.rows) % BLOCK
        left = islice(sources, len(journal.rows) - known, max_attempts)
        async with aclosing(work_through(left, teacher, retrieve, judge, concurrency)) as rows:
            while made < wanted.examples and (row := await anext(rows, None)):
                if not made and len(journal.rows) >= (give_up_after or inf):
                    raise RunError(f"{explain_none(journal.rows)}. To go on all the same, raise --give_up_after")
                if known:
                    known -= 1
                    continue
                held.append(row)
                if row.fruitless:
                    if len(held) >= MAX_UNANSWERED:
                        raise _Unanswered(row.complaint)
                    continue
                journal.extend(held)
                held.clear()
                made += row.outcome == "example"
                bar.update(row.outcome == "example")
                accepted = f"{made / len(journal.rows):.0%}"
                bar.set_postfix({"sources": len(journal.rows), "accepted": accepted, **teacher.doing}, refresh=False)
    if made >= wanted.examples:
        return Stop("all examples are there", finished=True)
    if held and not journal.rows:
        teacher.forget_failures()
        raise RunError(f"no usable reply for any source ({held[-1].complaint}); mend the endpoint and run again")
    journal.extend(held)
    used_up = max_attempts is None or len(journal.rows) < max_attempts
    return Stop("all sources are used up" if used_up else f"{max_attempts} sources were tried", finished=True)


async def judge_source(prepared: Prepared, teacher: Teacher, wanted: Target) -> Judged:
    """Judge a source's candidates in order until there are enough positives and negatives."""
    candidates = prepared.candidates.get(ARM, [])
    verdicts: list[Verdict] = []
    count: Counter[Outcome] = Counter()
    for candidate in candidates:
        if count[Outcome.USABLE] >= wanted.positives and count[Outcome.UNUSABLE] >= wanted.negatives:
            break
        assert prepared.entity is not None  # there are no candidates without an entity
        verdicts.append(await teacher.judge(prepared.entity, candidate.document))
        count[verdicts[-1].outcome] += 1
    retrieved = [candidate.document.id for candidate in candidates]
    return Judged(prepared.source.id, prepared.entity, retrieved, verdicts, prepared.error)


def explain_none(rows: Sequence[Judged]) -> str:
    """Say what became of sources of which none gave an example, what was said last, and what helps."""
    outcomes = Counter(row.outcome for row in rows).most_common()
    counts = ", ".join(f"{outcome} {count}" for outcome, count in outcomes)
    last = [
        row.error or f"{row.verdicts[-1].outcome} ({row.verdicts[-1].reason})"
        for row in rows
        if row.error or row.verdicts
    ]
    told = f"; said last: {', '.join(list(dict.fromkeys(reversed(last)))[:3])}" if last else ""
    helps = f"; {REMEDIES[outcomes[0][0]]}" if outcomes and outcomes[0][0] in REMEDIES else ""
    return f"no example was made of {len(rows)} sources ({counts or 'none was tried'}){told}{helps}"


def summarize(journal: Journal, stop: Stop, seconds: float, ledger: Ledger) -> dict[str, Any]:
    """Return the run's figures: why it stopped, sources and verdicts by outcome, time, and what the teacher took."""
    sources = Counter(row.outcome for row in journal.rows)
    verdicts = Counter(verdict.outcome.value for row in journal.rows for verdict in row.verdicts)
    made = sources["example"]
    spent = ledger.summary() if ledger.calls or ledger.cache_hits else {}
    if spent and spent["cost"] is not None and made:
        spent["cost_per_example"] = spent["cost"] / made
    return {
        "stopped because": stop.reason,
        "finished": stop.finished,
        "sources tried": len(journal.rows),
        "examples": sources["example"],
        "sources by outcome": dict(sorted(sources.items())),
        "verdicts": dict(sorted(verdicts.items())),
        "seconds": round(seconds, 1),
        **spent,
    }


def _deciding(setting: Any) -> Any:
    """Return what answers depend on of a setting: earlier versions kept a model's address, and all parameters."""
    if not isinstance(setting, dict) or "params" not in setting:
        return setting
    return {**setting, "base_url": None, "params": answer_params(setting["params"])}


def _to_row(row: Judged) -> dict[str, Any]:
    return {
        "source": row.source,
        "outcome": row.outcome,
        "entity": row.entity and row.entity._asdict(),
        "retrieved": row.retrieved,
        "verdicts": [
            verdict._asdict() | {"sub_questions": [hop._asdict() for hop in verdict.sub_questions]}
            for verdict in row.verdicts
        ],
        "error": row.error,
    }


def _from_row(row: dict[str, Any]) -> Judged:
    verdicts = [
        Verdict(Outcome(v["outcome"]), v["reason"], tuple(SubQuestion(**hop) for hop in v["sub_questions"]))
        for v in row["verdicts"]
    ]
    entity = row["entity"] and BridgeEntity(**row["entity"])
    return Judged(row["source"], entity, row["retrieved"], verdicts, row["error"])


def _read_journal(path: Path) -> tuple[dict[str, Any], list[Judged]]:
    """Return settings and rows; a last line that a kill has cut short is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # the last is empty, or was cut
    header, *rows = [parse_line(line, path, number) for number, line in enumerate(lines, 1)]
    try:
        return header["settings"], [_from_row(row) for row in rows]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path} is no provenance file of this version; use another --output_file") from None
