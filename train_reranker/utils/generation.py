"""Generating contrastive examples: sources to a journal of verdicts, the journal to example files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from contextlib import aclosing
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from utils import jsonl
from utils.cli import InputError, log, progress_bar
from utils.corpus import Corpus
from utils.examples import SPLIT_FILES, Labelled
from utils.pipeline import BLOCK, Prepared, work_through
from utils.retrieval import Retriever
from utils.schema import (
    BridgeEntity,
    Candidate,
    ContrastiveExample,
    Document,
    Outcome,
    SubQuestion,
    Verdict,
)
from utils.teacher import Teacher

ARM = "diverse"


class Wanted(NamedTuple):
    """What makes an example, and how many are wanted."""

    examples: int
    candidates: int
    positives: int = 1
    negatives: int = 1


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
        return ContrastiveExample(self.entity.query, pos, [text for text in neg if text not in pos])


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
        unfinished = [
            provenance
            for provenance in sorted(into.glob("contrastive_examples_*.provenance.jsonl"))
            if not provenance.with_name(provenance.name.replace(".provenance.jsonl", ".summary.json")).exists()
        ]
        if examples is None and unfinished and summary is None:
            examples = unfinished[-1].name.replace(".provenance", "")
            log.info("going on with the unfinished run of %s", into / examples)
        examples = examples or f"contrastive_examples_{datetime.now():%Y%m%d_%H%M%S}.jsonl"
        stem = examples.removesuffix(".jsonl")
        outputs = cls(into / examples, into / f"{stem}.provenance.jsonl", into / (summary or f"{stem}.summary.json"))
        finished = [outputs.summary, *(into / name for name in SPLIT_FILES if split)]
        in_the_way = [path for path in finished if path.exists()]
        if overwrite:
            outputs.provenance.unlink(missing_ok=True)
            outputs.summary.unlink(missing_ok=True)
        elif in_the_way:
            raise InputError(f"{in_the_way[0]} is there already: name another --output_dir, or give --overwrite")
        return outputs


class Journal:
    """The provenance file: a line of settings, then one line for each source in order, the truth of a run.

    Everything else that a run writes is made from it, so that a run killed at any moment can go on.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Open the journal of a run with these settings, new or to be continued.

        Raises:
            InputError: it belongs to a run with other settings; the differences are named.
        """
        settings = json.loads(jsonl.dumps(settings))  # as they will be read again
        self.path, self.settings, self.rows = path, settings, list[Judged]()
        if path.exists() and path.stat().st_size:
            earlier, self.rows = _read_journal(path)
            different = sorted(k for k in {*settings, *earlier} if settings.get(k) != earlier.get(k))
            if different:
                changes = "; ".join(f"{k}: {earlier.get(k)!r} then, {settings.get(k)!r} now" for k in different)
                raise InputError(
                    f"{path} is of a run with other settings ({changes}): use those, another --output_file, "
                    "or --overwrite"
                )
        # Whole blocks only: a block's queries must be encoded together again to give the same vectors.
        self.rows = self.rows[: len(self.rows) // BLOCK * BLOCK]

        jsonl.write(path, [{"settings": settings}, *map(_to_row, self.rows)])
        self._out = path.open("a", encoding="utf-8")

    def append(self, row: Judged) -> None:
        """Add a source's row; it is on disk when this returns."""
        jsonl.append(self._out, _to_row(row))
        self.rows.append(row)

    def labelled(self, corpus: Corpus) -> list[Labelled]:
        """Return the examples of the run, in source order, with what they came from."""
        made = [(row, row.example(corpus)) for row in self.rows]
        return [
            Labelled(corpus.get(row.source).text, row.entity.name, example)
            for row, example in made
            if example and row.entity
        ]


async def generate(
    sources: Iterable[Document],
    teacher: Teacher,
    retriever: Retriever,
    wanted: Wanted,
    journal: Journal,
    *,
    max_attempts: int | None = None,
    concurrency: int = 1,
) -> str:
    """Judge source after source into the journal until there are enough examples; returns why it stopped.

    Args:
        sources: documents in a fixed order; those that the journal has already are passed over.
        teacher: extracts and judges.
        retriever: finds the candidates, by the ``diverse`` arm.
        wanted: how many examples, of how many candidates, positives and negatives.
        journal: where the rows go.
        max_attempts: sources to try at most, those of the journal included.
        concurrency: sources in flight at a time; the rows are the same at any.
    """

    def retrieve(queries: list[str], documents: list[Document]) -> list[dict[str, list[Candidate]]]:
        return retriever.retrieve([ARM], queries, documents, wanted.candidates)

    async def judge(prepared: Prepared) -> Judged:
        return await judge_source(prepared, teacher, wanted)

    outcomes = Counter(row.outcome for row in journal.rows)
    with progress_bar(desc="examples", total=wanted.examples, initial=outcomes["example"], unit="ex") as bar:
        left = islice(sources, len(journal.rows), max_attempts)
        async with aclosing(work_through(left, teacher, retrieve, judge, concurrency)) as rows:
            while outcomes["example"] < wanted.examples:
                row = await anext(rows, None)
                if row is None:
                    used_up = max_attempts is None or len(journal.rows) < max_attempts
                    return "all sources are used up" if used_up else f"{max_attempts} sources were tried"
                journal.append(row)
                outcomes[row.outcome] += 1
                bar.update(row.outcome == "example")
                bar.set_postfix(sources=len(journal.rows), refresh=False)
    return "all examples are there"


async def judge_source(prepared: Prepared, teacher: Teacher, wanted: Wanted) -> Judged:
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


def summarize(journal: Journal, stopped: str, seconds: float) -> dict[str, Any]:
    """Return the run's figures: sources by outcome, verdicts by outcome, why it stopped, and how long it took."""
    sources = Counter(row.outcome for row in journal.rows)
    verdicts = Counter(verdict.outcome.value for row in journal.rows for verdict in row.verdicts)
    return {
        "stopped because": stopped,
        "sources tried": len(journal.rows),
        "examples": sources["example"],
        "sources by outcome": dict(sorted(sources.items())),
        "verdicts": dict(sorted(verdicts.items())),
        "seconds": round(seconds, 1),
    }


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
    header, *rows = [jsonl.parse(line, path, number) for number, line in enumerate(lines, 1)]
    try:
        return header["settings"], [_from_row(row) for row in rows]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path} is no provenance file of this version; use another --output_file") from None
