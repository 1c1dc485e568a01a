"""The paired ablation: for the same sources and entities, how far down each arm's list the first usable one stands."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

from utils import jsonl
from utils.cli import RunError, find, find_input, progress_bar
from utils.config import Config
from utils.examples import parse_example
from utils.pipeline import Prepared, work_through
from utils.reranker import Reranker, open_reranker, reranker_options
from utils.retrieval import ARMS, BASE, FINE_TUNED, Retriever
from utils.schema import BridgeEntity, Candidate, Document, Outcome, Verdict
from utils.teacher import Teacher


class Trial(NamedTuple):
    """One arm on one source: what it retrieved, and the verdicts in order up to the first that is usable."""

    retrieved: list[str]
    verdicts: list[Verdict]

    @property
    def failed(self) -> bool:
        """Whether an ERROR leaves open how the trial would have ended: it is no evidence for or against the arm."""
        return any(verdict.outcome is Outcome.ERROR for verdict in self.verdicts)

    @property
    def success(self) -> bool:
        """Whether some candidate is usable."""
        return bool(self.verdicts) and self.verdicts[-1].outcome is Outcome.USABLE

    @property
    def attempts(self) -> int:
        """How many candidates were judged: until the first usable one, or all of them."""
        return len(self.verdicts)


class SourceTrials(NamedTuple):
    """One source with its entity, and each arm's trial on it."""

    source: str
    entity: BridgeEntity | None
    trials: dict[str, Trial]
    error: str | None = None

    @property
    def complaint(self) -> str:
        """The last reason that the teacher gave for not answering."""
        errors = (v.reason for t in self.trials.values() for v in t.verdicts if v.outcome is Outcome.ERROR)
        return self.error or next(errors, "it has no candidates")

    @property
    def paired(self) -> bool:
        """Whether every arm's trial came to an end, so that the arms can be compared on this source."""
        return bool(self.trials) and not any(trial.failed for trial in self.trials.values())


class ArmResult(NamedTuple):
    """One arm over the sources that all arms came to an end on."""

    arm: str
    sources: int
    successes: int
    judged: int  # candidates, over all sources
    attempts: int  # candidates, over the sources with a usable one
    errors: int  # sources that this arm's own trial failed on

    @property
    def success_rate(self) -> float | None:
        """Share of sources with a usable candidate; None without a source."""
        return self.successes / self.sources if self.sources else None

    @property
    def mean_attempts(self) -> float | None:
        """Candidates judged until the first usable one, over the sources that have one; None where none has."""
        return self.attempts / self.successes if self.successes else None

    @property
    def mean_judged(self) -> float | None:
        """Candidates judged a source, those of sources without a usable one included; None without a source."""
        return self.judged / self.sources if self.sources else None


class Excluded(NamedTuple):
    """Sources that a training file used: by id or text, or, once the teacher has spoken, by their query."""

    ids: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()
    queries: frozenset[str] = frozenset()

    @classmethod
    def read(cls, files: Iterable[str]) -> Excluded:
        """Read data files (``query``, ``pos``, ``neg``) and provenance files (``source``) of the generator.

        A data file does not name its sources. They are known by their queries, which the same teacher asks again, and
        the documents among its passages are left out, too.

        Raises:
            InputError: a file is not there, or a row is neither of the two.
        """
        ids, texts, queries = set[str](), set[str](), set[str]()
        for file in files:
            path = find_input(file, "data to exclude", "name a training or provenance file of the generator")
            for number, row in jsonl.read(path):
                if "settings" in row:  # the provenance file's first line
                    continue
                if "source" in row:
                    ids.add(str(row["source"]))
                else:
                    example = parse_example(row, f"{path}, line {number}")
                    queries.add(example.query)
                    texts.update(example.pos, example.neg)
        return cls(frozenset(ids), frozenset(texts), frozenset(queries))

    def filter(self, sources: Iterable[Document]) -> Iterator[Document]:
        """Yield the sources that are not known to be used by id or text."""
        return (source for source in sources if source.id not in self.ids and source.text not in self.texts)


NOTHING = Excluded()


class Contest(NamedTuple):
    """What is compared: the arms, the rerankers that they need, and which arms had to be left out, with the reason."""

    arms: list[str]
    rerankers: dict[str, Reranker]
    left_out: dict[str, str]

    @classmethod
    def open(cls, config: Config, single: str | None, fine_tuned: str) -> Contest:
        """Load the rerankers of one arm, or of all; among all, the fine-tuned one may be missing.

        Raises:
            InputError: a reranker that is needed is not there or cannot be loaded.
        """
        arms = [single] if single else list(ARMS)
        left_out = {}
        if single is None and find(fine_tuned) is None:
            reason = f"{fine_tuned} is not there; train one, or name it with --ft_model"
            left_out = {arm: reason for arm in arms if ARMS[arm].reranker == FINE_TUNED}
            arms = [arm for arm in arms if arm not in left_out]
        paths = {BASE: config.reranker_path, FINE_TUNED: fine_tuned}
        needed = dict.fromkeys(ARMS[arm].reranker for arm in arms)
        rerankers = {name: open_reranker(paths[name], **reranker_options(config)) for name in needed if name}
        return cls(arms, rerankers, left_out)


async def compare_arms(
    arms: Sequence[str],
    sources: Iterable[Document],
    teacher: Teacher,
    retriever: Retriever,
    *,
    num: int,
    candidates: int,
    concurrency: int = 1,
    excluded: Excluded = NOTHING,
) -> list[SourceTrials]:
    """Try all arms on the first ``num`` sources that have a bridge entity, or that an error leaves undecided.

    Args:
        arms: names in ``ARMS``.
        sources: documents in a fixed order.
        teacher: extracts and judges; a pair of entity and candidate is judged once, whichever arms retrieve it.
        retriever: with the rerankers that the arms ask for.
        num: how many sources to compare on.
        candidates: how many an arm retrieves, and at most are judged.
        concurrency: sources in flight at a time; the result is the same at any.
        excluded: sources whose query it knows are passed over.

    Raises:
        RunError: the teacher will never answer, or there is no source on which all arms came to an end.
    """

    def retrieve(queries: list[str], documents: list[Document]) -> list[dict[str, list[Candidate]]]:
        return retriever.retrieve(arms, queries, documents, candidates)

    async def judge(prepared: Prepared) -> SourceTrials:
        if prepared.entity and prepared.entity.query in excluded.queries:
            return SourceTrials(prepared.source.id, None, {})
        return await try_arms(prepared, teacher)

    results: list[SourceTrials] = []
    with progress_bar(desc="ablation", total=num, unit="source") as bar:
        work = work_through(excluded.filter(sources), teacher, retrieve, judge, concurrency)
        async with aclosing(teacher), aclosing(work) as trials:
            while len(results) < num and (result := await anext(trials, None)):
                if result.entity is not None or result.error is not None:
                    results.append(result)
                    bar.update()
                    bar.set_postfix(teacher.doing, refresh=False)
            if results and not any(result.paired for result in results):
                teacher.forget_failures()  # or they would only come out of the cache again
                complaint = results[-1].complaint
                raise RunError(
                    f"no source on which every arm came to an end, of {len(results)} (the last: {complaint})"
                )
    return results


async def try_arms(prepared: Prepared, teacher: Teacher) -> SourceTrials:
    """Judge every arm's candidates in order until one is usable, each different candidate once."""
    asked: dict[str, asyncio.Task[Verdict]] = {}

    async def verdict(document: Document) -> Verdict:
        if document.id not in asked:
            assert prepared.entity is not None  # there are no candidates without an entity
            asked[document.id] = asyncio.create_task(teacher.judge(prepared.entity, document))
        return await asked[document.id]

    async def attempt(candidates: list[Candidate]) -> Trial:
        verdicts: list[Verdict] = []
        for candidate in candidates:
            verdicts.append(await verdict(candidate.document))
            if verdicts[-1].outcome is not Outcome.UNUSABLE:
                break
        return Trial([candidate.document.id for candidate in candidates], verdicts)

    trials = await asyncio.gather(*(attempt(candidates) for candidates in prepared.candidates.values()))
    by_arm = dict(zip(prepared.candidates, trials, strict=True))
    return SourceTrials(prepared.source.id, prepared.entity, by_arm, prepared.error)


def summarize(results: Sequence[SourceTrials], arms: Sequence[str]) -> list[ArmResult]:
    """Return each arm's figures over the sources on which all arms came to an end."""
    paired = [result for result in results if result.paired]
    summary = []
    for arm in arms:
        trials = [result.trials[arm] for result in paired]
        summary.append(
            ArmResult(
                arm,
                sources=len(trials),
                successes=sum(trial.success for trial in trials),
                judged=sum(trial.attempts for trial in trials),
                attempts=sum(trial.attempts for trial in trials if trial.success),
                errors=sum(result.trials[arm].failed for result in results if arm in result.trials),
            )
        )
    return summary


def to_json(
    settings: Mapping[str, Any],
    summary: Sequence[ArmResult],
    left_out: Mapping[str, str],
    results: Sequence[SourceTrials],
) -> dict[str, Any]:
    """Return the ablation's file: settings, a table, and for each source and arm ids, verdicts and attempts."""
    return {
        "settings": dict(settings),
        "table": [
            row._asdict()
            | {
                "label": ARMS[row.arm].label,
                "success_rate": row.success_rate,
                "mean_attempts": row.mean_attempts,
                "mean_judged": row.mean_judged,
            }
            for row in summary
        ],
        "left_out": dict(left_out),
        "sources": [
            {
                "source": result.source,
                "entity": result.entity and result.entity.name,
                "query": result.entity and result.entity.query,
                "error": result.error,
                "arms": {
                    arm: {
                        "retrieved": trial.retrieved,
                        "verdicts": [{"outcome": v.outcome, "reason": v.reason} for v in trial.verdicts],
                        "success": None if trial.failed else trial.success,
                        "attempts": None if trial.failed else trial.attempts,
                    }
                    for arm, trial in result.trials.items()
                },
            }
            for result in results
        ],
    }
