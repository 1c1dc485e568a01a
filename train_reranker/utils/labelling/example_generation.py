"""Generating contrastive examples: judged sources to a journal, the journal to example files and a summary."""

from __future__ import annotations

import hashlib
import itertools
import math
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

from utils.corpus.documents import Corpus
from utils.data.rows import consistent
from utils.data.split import Labelled, split_examples, split_files, too_few
from utils.errors import InputError, RunError
from utils.files import replacing, write_json, write_jsonl
from utils.labelling.journal import Journal, open_journal
from utils.labelling.judging import Goal, Stop, judge_sources
from utils.labelling.outputs import Outputs
from utils.labelling.record import ARM, JudgedSource
from utils.labelling.scheduler import Pipeline, Scheduler, StoppingRule, enough_of_each
from utils.labelling.setup import Setup
from utils.progress import log
from utils.teachers.base import Teacher
from utils.teachers.context_window import count_windows
from utils.teachers.language_model import MAX_ATTEMPTS
from utils.teachers.ledger import Ledger, summed
from utils.teachers.registry import OFFLINE, configured_endpoints

# Share of sources that give an example, and candidates judged per source: the offline teacher's on the demo corpus.
ACCEPTED, JUDGED = 0.5, 3

# What helps if most sources ended like this.
REMEDIES = {
    "no entity": "try another entity_extractor_model, or longer sources (--min_length)",
    "no positive": "try more candidates (--max_doc_candidates), or another question_generator_model",
    "no negative": "does the judge accept everything? Try more candidates (--max_doc_candidates), or another "
    "question_generator_model",
    "error": "fix what they say, then use --retry_errors",
    "example": "candidates repeat each other's text: remove duplicates from the corpus",
}

SHOWN, SHOWN_LETTERS = 3, 110  # examples that are shown as they come, and letters of each passage
FORECAST_AFTER = 10  # examples
EMPTY: Mapping[str, Any] = MappingProxyType({})


class Target(NamedTuple):
    """How many examples to make, of at most so many sources, and when judging of a source stops."""

    examples: int
    positives: int = 1
    negatives: int = 1
    max_attempts: int | None = None  # sources to try
    max_judged: int | None = None  # candidates of a source

    @property
    def rule(self) -> StoppingRule:
        """When judging of a source stops."""
        return enough_of_each(self.positives, self.negatives, self.max_judged)


async def generate(pipeline: Pipeline, target: Target, journal: Journal) -> str:
    """Judge source after source into the journal until there are enough examples, and return why it stopped.

    RunError as :func:`judge_sources` raises it, or if the teacher answered for no source.
    """
    most, is_example = target.max_attempts, lambda row: row.outcome == "example"
    scheduler = Scheduler(pipeline._replace(again=True), [ARM], target.rule)
    show = showing(pipeline.retriever.corpus, target.examples, pipeline.teacher)
    await judge_sources(scheduler, Goal("example", target.examples, is_example, explain_none, most, show), journal)
    if journal.held:
        complaint = journal.held[-1].complaint
        raise RunError(f"no usable reply for any source ({complaint}); fix the endpoint, then run the same command")
    if sum(map(is_example, journal.rows)) >= target.examples:
        return "all examples were made"
    return "no source is left" if most is None or len(journal.rows) < most else f"{most} sources were tried"


def showing(corpus: Corpus, wanted: int, teacher: Teacher) -> Callable[[JudgedSource], None]:
    """Return what logs the first examples in short, as they come: bad ones are seen before many are paid for.

    After ``FORECAST_AFTER`` examples it tells how many calls all of those that are ``wanted`` would take.
    """
    shown = itertools.count(1)

    def show(row: JudgedSource) -> None:
        number = next(shown)
        if number == FORECAST_AFTER < wanted and (calls := teacher.doing.get("calls")):
            log.info("%d examples took %d calls: %d may take about %d", number, calls, wanted, calls * wanted // number)
        if number <= SHOWN and (one := row.example(corpus)):
            pos, neg = (textwrap.shorten(texts[0], SHOWN_LETTERS, placeholder=" …") for texts in (one.pos, one.neg))
            log.info("example %d: %s\n  pos: %s\n  neg: %s", number, one.query, pos, neg)

    return show


def labelled_examples(rows: Sequence[JudgedSource], corpus: Corpus) -> list[Labelled]:
    """Return the rows' examples, in order, with their source's text and their entity's name.

    What answers a query according to one source is no negative of the same query for another. InputError if a text is
    not the one that was judged.
    """
    made = [(row, row.entity, one) for row in rows if row.entity and (one := row.example(corpus))]
    examples = consistent([one for *_, one in made])
    return [
        Labelled(row.text(row.source, corpus), entity.name, one)
        for (row, entity, _), one in zip(made, examples, strict=True)
        if one.neg
    ]


def count_calls(target: Target, candidates: int, sources: int, windows: int, most: int | None) -> tuple[int, int]:
    """Return the expected calls of a language model, and the most.

    Expected are an extraction per source, and some judgements until there is one of each kind; at worst, every question
    is asked to the limit, of each of the ``windows`` in which the longest document is read. ``most`` bounds both.
    """
    attempts = min(sources, target.max_attempts or sources)
    candidates = min(candidates, target.max_judged or candidates)
    largest = attempts * (1 + candidates) * windows * MAX_ATTEMPTS
    largest = largest if most is None else min(largest, most)
    tried = min(attempts, round(target.examples / ACCEPTED))
    return min(tried * (1 + min(candidates, max(JUDGED, target.positives + target.negatives))), largest), largest


def explain_none(rows: Sequence[JudgedSource]) -> str:
    """Return why sources gave no example, with the teacher's last words and what helps."""
    if not rows:
        return (
            "no example was made: the corpus has no source document to try; lower --min_length, or use more documents"
        )
    ((most, _), *_) = outcomes = Counter(row.outcome for row in rows).most_common()
    counts = ", ".join(f"{outcome} {count}" for outcome, count in outcomes)
    words = (
        row.error or "{0.outcome} ({0.reason})".format(row.all_verdicts[-1])
        for row in reversed(rows)
        if row.error or row.all_verdicts
    )
    last = list(dict.fromkeys(words))[:3]
    said = f"; last replies: {', '.join(last)}" if last else ""
    helps = f"; {REMEDIES[most]}" if most in REMEDIES else ""
    return f"no example was made of {len(rows)} sources ({counts}){said}{helps}"


def summarize(
    rows: Sequence[JudgedSource], stop: Stop, seconds: float, ledger: Ledger, earlier: Mapping[str, Any] = EMPTY
) -> dict[str, Any]:
    """Return the run's figures: why it stopped, sources and verdicts by outcome, time, and what the teacher took.

    ``earlier`` is the summary before the run was resumed: what the teacher took counts on from there.
    """
    sources = Counter(row.outcome for row in rows)
    verdicts = Counter(verdict.outcome.value for row in rows for verdict in row.all_verdicts)
    spent = ledger.summary() if ledger.calls or ledger.cache_hits or "calls" in earlier else {}
    spent = summed({name: value for name, value in earlier.items() if name in spent}, spent)
    if spent and spent["cost"] is not None and sources["example"]:
        spent["cost_per_example"] = spent["cost"] / sources["example"]
    return {
        "stopped because": stop.reason,
        "finished": stop.failure is None,
        "sources tried": len({row.source for row in rows}),
        "examples": sources["example"],
        "sources by outcome": dict(sorted(sources.items())),
        "verdicts": dict(sorted(verdicts.items())),
        "seconds": round(summed(earlier.get("seconds"), seconds), 1),
        **spent,
    }


@contextmanager
def reporting_only() -> Iterator[None]:
    """Log an InputError that would stop a run, in place of raising it."""
    try:
        yield
    except InputError as error:
        log.warning("without --dry_run, this would stop here: %s", error)


def plan(setup: Setup, target: Target, test_fraction: float = 0.0) -> str:
    """Return in one line how many calls to expect; InputError if there is no source.

    The log warns of a missing key or price, and of a test that could show little.
    """
    config, corpus, sources = setup.config, setup.corpus, setup.available
    if not sources:
        raise InputError(f"{corpus.path}: no document has --min_length {setup.min_length} characters: lower it")
    if config.generator_model != OFFLINE:
        with reporting_only():
            for endpoint in configured_endpoints(config):
                setup.ledger.check_price(endpoint.model, endpoint.price)
    if test_fraction and (warning := too_few(math.ceil(target.examples * test_fraction))):
        log.warning("%s", warning)
    windows = count_windows(corpus.longest, config.max_document_tokens, config.max_document_windows)
    calls = count_calls(target, setup.candidates, sources, windows, setup.ledger.max_calls)
    wanted = f"{target.examples} examples from up to {min(sources, target.max_attempts or sources)} sources"
    rate = "expected at the rate of the demo's offline teacher: others may need several times as many"
    return f"{wanted}: about {calls[0]} calls expected, {calls[1]} at most ({rate})"


@dataclass(frozen=True)
class GenerationRun:
    """One run of the generator, from its flags to its files."""

    setup: Setup
    target: Target
    outputs: Outputs
    test_fraction: float = 0.0  # of the examples, held out
    _started: float = field(default_factory=time.monotonic)

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
            "max_judged": self.target.max_judged,
            "test_fraction": self.test_fraction,
            **self.pipeline.retriever.settings,
            **self.pipeline.teacher.settings,
        }

    @contextmanager
    def open_journal(self, overwrite: bool = False, retry: bool = False) -> Iterator[Journal]:
        """Open the provenance file, as :func:`open_journal`."""
        with open_journal(self.outputs.provenance, self.settings, overwrite=overwrite, retry=retry) as journal:
            if overwrite:
                # The summary says that the run has finished, and the split is not this run's once it is resumed.
                for path in (self.outputs.summary, *(self.outputs.split if self.test_fraction else ())):
                    path.unlink(missing_ok=True)
            if self.setup.config.generator_model != OFFLINE:
                log.info("%s", plan(self.setup, self.target, self.test_fraction))
            yield journal

    async def judge(self, journal: Journal) -> str:
        """Judge sources until there are enough examples, close the teacher, and return why it stopped.

        RunError if the run cannot continue, or made no example.
        """
        async with aclosing(self.pipeline.teacher):
            reason = await generate(self.pipeline, self.target, journal)
        if not labelled_examples(journal.rows, self.setup.corpus):
            raise RunError(f"{explain_none(journal.rows)} ({reason})")
        return reason

    def write(self, journal: Journal, stop: Stop) -> dict[str, Any]:
        """Write examples, split and summary of what is judged, and return the summary."""
        labelled = labelled_examples(journal.rows, self.setup.corpus)
        write_jsonl(self.outputs.examples, (one.example.row() for one in labelled))
        seconds, earlier = time.monotonic() - self._started, self.outputs.noted.get("summary", {})
        summary = summarize(journal.rows, stop, seconds, self.setup.ledger, earlier)
        own = self.outputs.split_hashes
        if self.test_fraction and stop.failure is None:
            split = split_examples(labelled, self.test_fraction, self.setup.config.seed)
            if split.shortfall:
                log.warning(
                    "%d of %d test examples: more would cost too many training examples, which share sources, "
                    "entities or passages with them; generate more examples, or name other test data (--eval_data "
                    "of train_reranker.py)", len(split.test), split.wanted,
                )  # fmt: skip
            texts = split_files(split)
            own = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
            self._summarize(summary | {"finished": False}, own)  # or a kill would leave files that are nobody's
            for path, text in zip(self.outputs.split, texts.values(), strict=True):
                with replacing(path) as out:
                    out.write(text)
            summary |= split.counts
        self._summarize(summary, own)
        return summary

    def _summarize(self, summary: dict[str, Any], split: dict[str, str]) -> None:
        hashes = {"split": split} if split else {}
        write_json(self.outputs.summary, {"settings": self.settings, "summary": summary, **hashes})
