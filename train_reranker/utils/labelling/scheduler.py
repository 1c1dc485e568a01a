"""Sources through teacher and retriever: many in flight, results in source order, the same at any concurrency."""

import asyncio
import heapq
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count, islice
from types import MappingProxyType
from typing import NamedTuple

from utils.labelling.record import JudgedSource, Trial
from utils.retrieval.retriever import Retriever
from utils.schema import BridgeEntity, Candidate, Document, Outcome, Verdict
from utils.teachers.base import Teacher, TeacherError

# Consecutive sources whose queries are encoded and searched together. A vector depends in its last bits on its batch,
# so blocks follow from the order of the sources alone, not from how many happen to be in flight.
BLOCK = 16

# Whether a list needs no further verdict.
StoppingRule = Callable[[Sequence[Verdict]], bool]


def first_usable(verdicts: Sequence[Verdict]) -> bool:
    """Stop at the first usable candidate, or at an error, which leaves open whether that one is usable."""
    return bool(verdicts) and verdicts[-1].outcome is not Outcome.UNUSABLE


def enough_of_each(positives: int, negatives: int, most: int | None = None) -> StoppingRule:
    """Stop with this many usable and this many unusable candidates, or once ``most`` are judged."""

    def rule(verdicts: Sequence[Verdict]) -> bool:
        found = Counter(verdict.outcome for verdict in verdicts)
        enough = found[Outcome.USABLE] >= positives and found[Outcome.UNUSABLE] >= negatives
        return enough or len(verdicts) == most

    return rule


class Pipeline(NamedTuple):
    """What a run works with; ``sources`` returns the same documents each time, and the caller closes ``teacher``."""

    sources: Callable[[], Iterable[Document]]
    teacher: Teacher
    retriever: Retriever  # with the rerankers that the arms ask for
    candidates: int  # retrieved per arm
    concurrency: int = 1  # sources in flight; the rows are the same at any
    give_up_after: int | None = None  # sources without any result
    again: bool = False  # once all sources were asked, ask those with further entities, turn after turn

    def asked(self) -> Iterator[tuple[Document, int]]:
        """Yield each source with the turn in which it is asked for an entity, from 0."""
        for turn in count():
            left = False
            for source in self.sources():
                if turn == 0 or self.teacher.turns(source) > turn:
                    yield source, turn
                    left = self.again
            if not left:
                return


async def judge_lists(
    entity: BridgeEntity,
    lists: Mapping[str, Sequence[Candidate]],
    teacher: Teacher,
    rule: StoppingRule,
    known: Mapping[str, Verdict] | None = None,
) -> dict[str, Trial]:
    """Judge lists of candidates for one entity, all lists at once, each in order until the rule stops it.

    The teacher judges each candidate once, even if several lists have it, and none of those that are ``known`` by id
    and still have the text that was judged.
    """
    asked: dict[str, asyncio.Task[Verdict]] = {}

    async def verdict_on(document: Document) -> Verdict:
        earlier = known and known.get(document.id)
        if earlier and earlier.text_hash in ("", document.text_hash):
            return earlier
        if document.id not in asked:
            asked[document.id] = asyncio.create_task(teacher.judge(entity, document))
        return (await asked[document.id])._replace(text_hash=document.text_hash)

    async def judge(candidates: Sequence[Candidate]) -> Trial:
        verdicts: list[Verdict] = []
        for candidate in candidates:
            if rule(verdicts):
                break
            verdicts.append(await verdict_on(candidate.document))
        return Trial([candidate.document.id for candidate in candidates], verdicts)

    trials = await asyncio.gather(*map(judge, lists.values()))
    return dict(zip(lists, trials, strict=True))


class PrioritySemaphore:
    """A semaphore that serves the earliest source first, so that sources are finished before new ones are started."""

    def __init__(self, free: int) -> None:
        """Allow ``free`` holders at a time."""
        self._free = free
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = count()

    @asynccontextmanager
    async def taken(self, position: int) -> AsyncIterator[None]:
        """Hold a slot; the lowest waiting position is served first."""
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (position, next(self._order), turn))
        self._hand_out()
        try:
            await turn
            yield
        finally:
            if not turn.cancelled():
                self._free += 1
                self._hand_out()

    def _hand_out(self) -> None:
        while self._free and self._waiting:
            turn = heapq.heappop(self._waiting)[-1]
            if not turn.done():  # it is if its source has been cancelled
                turn.set_result(None)
                self._free -= 1


# What a block's sources are before they are judged: a row without trials, and what each arm retrieved; or, with None, a
# row that is settled.
Prepared = list[tuple[JudgedSource, dict[str, list[Candidate]] | None]]


class Scheduler:
    """Takes sources through extraction, retrieval (a block at a time, in a thread) and judging, many at a time."""

    def __init__(
        self,
        pipeline: Pipeline,
        arms: Sequence[str],
        rule: StoppingRule,
        keep: Callable[[BridgeEntity], bool] = lambda _: True,
    ) -> None:
        """Retrieve with ``arms`` for the entities that ``keep`` returns true for; ``rule`` stops each arm's list."""
        self.pipeline, self.arms, self.rule, self.keep = pipeline, arms, rule, keep
        self._slots = PrioritySemaphore(pipeline.concurrency)
        self._one_at_a_time = asyncio.Lock()

    async def rows(
        self, sources: Iterable[tuple[Document, int]], settled: Mapping[int, JudgedSource] = MappingProxyType({})
    ) -> AsyncGenerator[JudgedSource]:
        """Yield every source's row, in the order of the sources and their turns, which are read only as far as needed.

        A source's row in ``settled``, by its place in that order, is yielded as it is, unless the corpus has other
        texts now. Blocks behind the last of them are begun once the caller asks for more: it may have enough. A
        candidate is judged once per source, whichever arms retrieve it. What is in flight when the caller stops is
        cancelled; exceptions reach the caller in the source's turn.
        """
        numbered, begun, known = enumerate(sources), 0, 1 + max(settled, default=-1)
        # While a block is searched its slots are free: start enough blocks to keep them busy.
        enough = self.pipeline.concurrency + BLOCK if self.pipeline.concurrency > 1 else 1
        pending: deque[asyncio.Task[JudgedSource]] = deque()
        try:
            while True:
                if not pending and begun >= known:
                    known = 0
                while (
                    (begun < known or not known)
                    and sum(not task.done() for task in pending) < enough
                    and (block := list(islice(numbered, BLOCK)))
                ):
                    begun += len(block)
                    preparing = asyncio.create_task(self._prepare(block, settled))
                    pending += [asyncio.create_task(self._judge(preparing, i, n)) for i, (n, _) in enumerate(block)]
                if not pending:
                    return
                unfinished = [task for task in pending if not task.done()]
                await asyncio.wait(unfinished or [pending[0]], return_when=asyncio.FIRST_COMPLETED)
                while pending and pending[0].done():
                    yield pending.popleft().result()
        finally:
            for task in pending:  # which cancels the preparation that it waits for
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _extract(self, position: int, source: Document, turn: int) -> JudgedSource:
        async with self._slots.taken(position):
            try:
                entity, error = await self.pipeline.teacher.extract(source, turn), None
            except TeacherError as fault:
                entity, error = None, str(fault)
            return JudgedSource(source.id, entity, {}, error, source.text_hash)

    async def _prepare(
        self, block: list[tuple[int, tuple[Document, int]]], settled: Mapping[int, JudgedSource]
    ) -> Prepared:
        corpus = self.pipeline.retriever.corpus
        kept = {
            i: settled[place]
            for i, (place, (source, _)) in enumerate(block)
            if place in settled and settled[place].is_about(source, corpus)
        }
        asking = [self._extract(place, *asked) for i, (place, asked) in enumerate(block) if i not in kept]
        new = iter(await asyncio.gather(*asking))
        rows = [kept[i] if i in kept else next(new) for i in range(len(block))]
        queries = {i: row.entity.query for i, row in enumerate(rows) if row.entity and self.keep(row.entity)}
        lists: list[dict[str, list[Candidate]] | None] = [None if i in kept else {} for i in range(len(block))]
        if not kept.keys() >= queries.keys():  # together with those that are settled, for the same vectors
            asked, sources = list(queries.values()), [block[i][1][0] for i in queries]
            retrieve, most = self.pipeline.retriever.retrieve, self.pipeline.candidates
            async with self._one_at_a_time:
                found = await asyncio.to_thread(retrieve, self.arms, asked, sources, most)
            for i, by_arm in zip(queries, found, strict=True):
                lists[i] = None if i in kept else by_arm
        return list(zip(rows, lists, strict=True))

    async def _judge(self, preparing: asyncio.Task[Prepared], i: int, position: int) -> JudgedSource:
        row, lists = (await preparing)[i]
        if lists is None:
            return row
        async with self._slots.taken(position):
            trials = await judge_lists(row.entity, lists, self.pipeline.teacher, self.rule) if row.entity else {}
        return row._replace(trials=trials)
