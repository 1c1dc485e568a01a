"""The paired ablation: for the same sources and entities, how far down each arm's list the first usable one stands."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from math import inf
from typing import NamedTuple

from utils.config import Config
from utils.data.rows import parse_example
from utils.errors import RunError
from utils.files import find, find_input, read_jsonl
from utils.labelling.generation import REMEDIES
from utils.labelling.record import JudgedSource, Trial
from utils.labelling.scheduler import Prepared, work_through
from utils.progress import log, progress_bar
from utils.retrieval.arms import ARMS, BASE, FINE_TUNED
from utils.retrieval.retriever import Retriever
from utils.schema import BridgeEntity, Candidate, Document, Outcome, Verdict
from utils.scoring import Reranker, open_reranker, reranker_options
from utils.teachers.base import Teacher


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
            for number, row in read_jsonl(path):
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


class ArmSet(NamedTuple):
    """What is compared: the arms, the rerankers that they need, and which arms had to be left out, with the reason."""

    arms: list[str]
    rerankers: dict[str, Reranker]
    left_out: dict[str, str]

    @classmethod
    def open(cls, config: Config, single: str | None, fine_tuned: str) -> ArmSet:
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
        rerankers = {name: open_reranker(paths[name], reranker_options(config)) for name in needed if name}
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
    give_up_after: int | None = None,
) -> list[JudgedSource]:
    """Try all arms on the first ``num`` sources that have a bridge entity, or that an error leaves undecided.

    Args:
        arms: names in ``ARMS``.
        sources: documents in a fixed order.
        teacher: extracts and judges; a pair of entity and candidate is judged once, whichever arms retrieve it. The
            caller closes it.
        retriever: with the rerankers that the arms ask for.
        num: how many sources to compare on.
        candidates: how many an arm retrieves, and at most are judged.
        concurrency: sources in flight at a time; the result is the same at any.
        excluded: sources whose query it knows are passed over.
        give_up_after: sources without a single entity after which the run ends; None goes on to the last.

    Raises:
        RunError: the teacher will never answer, or no source has an entity.
    """

    def retrieve(queries: list[str], documents: list[Document]) -> list[dict[str, list[Candidate]]]:
        return retriever.retrieve(arms, queries, documents, candidates)

    met: list[str] = []  # questions of the data to exclude

    def is_new(entity: BridgeEntity) -> bool:
        if entity.query in excluded.queries:
            met.append(entity.query)
        return entity.query not in excluded.queries

    async def judge(prepared: Prepared) -> JudgedSource:
        return await try_arms(prepared, teacher)

    results: list[JudgedSource] = []
    tried = 0
    with progress_bar(desc="ablation", total=num, unit="source") as bar:
        work = work_through(excluded.filter(sources), teacher, retrieve, judge, concurrency, is_new)
        async with aclosing(work) as trials:
            while len(results) < num and (result := await anext(trials, None)):
                tried += 1
                if result.entity is not None or result.error is not None:
                    results.append(result)
                    bar.update()
                    bar.set_postfix(teacher.doing, refresh=False)
                elif not results and not met and tried >= (give_up_after or inf):
                    break
            if not any(result.decided(arm) for result in results for arm in arms):
                teacher.forget_failures()  # or they would only come out of the cache again
    if not results:
        known = f" that is not excluded by its query ({len(met)} are)" if met else ""
        helps = REMEDIES["no entity"] if tried else "lower --min_length, or exclude less"
        raise RunError(f"none of {tried} sources has an entity{known}; {helps}")
    without = tried - len(results) - len(met)
    if without and len(results) < num:
        log.info("%d of %d sources have no entity", without, tried)
    if excluded.queries and not met:
        log.warning(
            "no source was known by a question of the data to exclude: were they asked by this teacher and model? "
            "The generator's provenance file names its sources"
        )
    return results


async def try_arms(prepared: Prepared, teacher: Teacher) -> JudgedSource:
    """Judge every arm's candidates in order until one is usable, each different candidate once."""
    if prepared.entity is None:
        return JudgedSource(prepared.source.id, None, {}, prepared.error)
    trials = await try_lists(prepared.entity, prepared.candidates, teacher)
    return JudgedSource(prepared.source.id, prepared.entity, trials, prepared.error)


async def try_lists(
    entity: BridgeEntity,
    lists: Mapping[str, Sequence[Candidate]],
    teacher: Teacher,
    known: Mapping[str, Verdict] | None = None,
) -> dict[str, Trial]:
    """Judge lists of candidates for one entity, in order until one is usable or in error, all lists at once.

    Args:
        entity: what the candidates are judged for.
        lists: candidates by the list's name, best first.
        teacher: judges each different candidate once.
        known: verdicts by document id, which the teacher is not asked for again.
    """
    asked: dict[str, asyncio.Task[Verdict]] = {}

    async def verdict(document: Document) -> Verdict:
        if known and document.id in known:
            return known[document.id]
        if document.id not in asked:
            asked[document.id] = asyncio.create_task(teacher.judge(entity, document))
        return await asked[document.id]

    async def attempt(candidates: Sequence[Candidate]) -> Trial:
        verdicts: list[Verdict] = []
        for candidate in candidates:
            verdicts.append(await verdict(candidate.document))
            if verdicts[-1].outcome is not Outcome.UNUSABLE:
                break
        return Trial([candidate.document.id for candidate in candidates], verdicts)

    trials = await asyncio.gather(*map(attempt, lists.values()))
    return dict(zip(lists, trials, strict=True))
