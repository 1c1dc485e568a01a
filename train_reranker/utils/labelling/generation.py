"""Generating contrastive examples: judged sources to a journal, the journal to example files."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from utils.corpus.documents import Corpus
from utils.data.split import Labelled, split_examples, write_split
from utils.errors import RunError
from utils.files import write_json, write_jsonl
from utils.labelling.journal import Journal, open_journal
from utils.labelling.judging import Goal, Pipeline, Stop, enough_of_each, judge_sources
from utils.labelling.outputs import Outputs
from utils.labelling.plan import Plan
from utils.labelling.record import ARM, JudgedSource
from utils.labelling.setup import Setup
from utils.labelling.summary import explain_none, summarize
from utils.progress import log
from utils.teachers.context_window import count_windows
from utils.teachers.registry import OFFLINE


class Target(NamedTuple):
    """How many examples to make, and with how many positives and negatives judging of a source stops."""

    examples: int
    positives: int = 1
    negatives: int = 1


async def generate(pipeline: Pipeline, target: Target, journal: Journal, max_attempts: int | None = None) -> str:
    """Judge source after source into the journal until there are enough examples, and return why it stopped.

    Raises:
        RunError: see :func:`judge_sources`; or the teacher answered for no source.
    """

    def is_example(row: JudgedSource) -> bool:
        return row.outcome == "example"

    goal = Goal("example", target.examples, is_example, lambda row: not is_example(row), explain_none, max_attempts)
    await judge_sources(pipeline, [ARM], enough_of_each(target.positives, target.negatives), goal, journal)
    if journal.held:
        complaint = journal.held[-1].complaint
        raise RunError(f"no usable reply for any source ({complaint}); fix the endpoint, then run the same command")
    if sum(map(is_example, journal.rows)) >= target.examples:
        return "all examples were made"
    if max_attempts is None or len(journal.rows) < max_attempts:
        return "no source is left"
    return f"{max_attempts} sources were tried"


def labelled_examples(rows: Sequence[JudgedSource], corpus: Corpus) -> list[Labelled]:
    """Return the rows' examples, in order, with their source's text and their entity's name."""
    made = [(row, row.example(corpus)) for row in rows]
    return [
        Labelled(corpus.get(row.source).text, row.entity.name, example)
        for row, example in made
        if example and row.entity
    ]


@dataclass(frozen=True)
class GenerationRun:
    """One run of the generator, from its flags to its files."""

    setup: Setup
    target: Target
    outputs: Outputs
    max_attempts: int | None = None  # sources to try
    test_fraction: float = 0.0  # of the examples, held out
    _started: float = field(default_factory=time.monotonic)

    @property
    def plan(self) -> Plan:
        """How many calls to expect."""
        config, corpus = self.setup.config, self.setup.corpus
        windows = count_windows(corpus.longest, config.max_document_tokens, config.max_document_windows)
        most = self.setup.max_calls
        return Plan(self.target.examples, self.setup.candidates, self.setup.available, self.max_attempts, most, windows)

    @cached_property
    def pipeline(self) -> Pipeline:
        """Sources, teacher and retriever."""
        return self.setup.open_pipeline()

    @property
    def settings(self) -> dict[str, Any]:
        """All that the rows depend on."""
        return {
            **self.setup.settings,
            "max_doc_candidates": self.setup.candidates,
            "num_pos": self.target.positives,
            "num_neg": self.target.negatives,
            "test_fraction": self.test_fraction,
            **self.pipeline.retriever.settings,
            **self.pipeline.teacher.settings,
        }

    @contextmanager
    def open_journal(self, overwrite: bool = False) -> Iterator[Journal]:
        """Open the provenance file; ``overwrite`` starts from scratch.

        Raises:
            InputError: it belongs to a run with other settings, or another run is writing it.
        """
        with open_journal(self.outputs.provenance, self.settings, overwrite=overwrite) as journal:
            if overwrite:
                self.outputs.summary.unlink(missing_ok=True)  # it says that the run has finished
            if self.setup.config.generator_model != OFFLINE:
                log.info("%s", self.plan)
            yield journal

    async def judge(self, journal: Journal) -> str:
        """Judge sources until there are enough examples, close the teacher, and return why it stopped.

        Raises:
            RunError: the run cannot continue, or made no example.
        """
        async with aclosing(self.pipeline.teacher):
            reason = await generate(self.pipeline, self.target, journal, self.max_attempts)
        if not labelled_examples(journal.rows, self.setup.corpus):
            raise RunError(f"{explain_none(journal.rows)} ({reason})")
        return reason

    def write(self, journal: Journal, stop: Stop) -> dict[str, Any]:
        """Write examples, split and summary of what is judged, and return the summary."""
        labelled = labelled_examples(journal.rows, self.setup.corpus)
        write_jsonl(self.outputs.examples, (one.example.row() for one in labelled))
        summary = summarize(journal.rows, stop, time.monotonic() - self._started, self.setup.ledger)
        if self.test_fraction and stop.failure is None:
            split = split_examples(labelled, self.test_fraction, random.Random(self.setup.config.seed))
            if len(split.test) < 0.9 * split.wanted:
                log.warning(
                    "%d of %d test examples: more would cost too many training examples, which share sources, "
                    "entities or passages with them; generate more examples, or name other test data (--eval_data "
                    "of train_reranker.py)", len(split.test), split.wanted,
                )  # fmt: skip
            summary |= write_split(self.outputs.folder, split)
        write_json(self.outputs.summary, {"settings": self.settings, "summary": summary})
        return summary
