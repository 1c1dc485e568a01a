"""Sources through a teacher and a retriever: many in flight, results in source order, the same at any concurrency."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from utils.schema import BridgeEntity, Candidate, Document
from utils.teachers.base import Teacher, TeacherError

# Queries are encoded and searched in blocks of so many consecutive sources. The blocks are fixed by the order of the
# sources alone: a vector depends in its last bits on what else is in the batch, and a result must not depend on how
# many sources happened to be in flight.
BLOCK = 16

R = TypeVar("R")


class Prepared(NamedTuple):
    """A source that is ready to be judged: its entity, if it has one, and what each arm retrieved for it."""

    source: Document
    entity: BridgeEntity | None
    candidates: dict[str, list[Candidate]]
    error: str | None = None  # why the teacher could not say whether there is an entity


class PrioritySemaphore:
    """A semaphore that goes to the earliest source first, so that what is begun is finished before more is begun."""

    def __init__(self, free: int) -> None:
        """Allow ``free`` holders at a time."""
        self._free = free
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._asked = 0

    @asynccontextmanager
    async def taken(self, position: int) -> AsyncIterator[None]:
        """Hold a slot; of those who wait, the lowest position comes first."""
        if self._free:
            self._free -= 1
        else:
            turn = asyncio.get_running_loop().create_future()
            self._asked += 1
            heapq.heappush(self._waiting, (position, self._asked, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._hand_on()
                raise
        try:
            yield
        finally:
            self._hand_on()

    def _hand_on(self) -> None:
        while self._waiting:
            turn = heapq.heappop(self._waiting)[-1]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


async def work_through(
    sources: Iterable[Document],
    teacher: Teacher,
    retrieve: Callable[[list[str], list[Document]], list[dict[str, list[Candidate]]]],
    judge: Callable[[Prepared], Awaitable[R]],
    concurrency: int = 1,
    keep: Callable[[BridgeEntity], bool] = lambda _: True,
) -> AsyncGenerator[R]:
    """Yield ``judge``'s result for every source, in the order of the sources.

    Each source goes through extraction, retrieval (blocks of ``BLOCK`` queries at once, in a thread) and judgement,
    ``concurrency`` sources at a time. What is still in flight when the caller stops is cancelled.

    Args:
        sources: where the order of the results comes from; read as far as needed.
        teacher: extracts the bridge entities.
        retrieve: candidates by arm for queries and their source documents.
        judge: makes a result of a prepared source; exceptions reach the caller when the source's turn comes.
        concurrency: sources that the teacher works on at a time, at least 1.
        keep: tells whether to go on with an entity; without it, its source has none.
    """
    slots = PrioritySemaphore(concurrency)
    one_at_a_time = asyncio.Lock()
    # While a block's queries are searched its slots are free: enough blocks are begun to keep them busy.
    enough = concurrency + BLOCK if concurrency > 1 else 1
    pending: deque[asyncio.Task[R]] = deque()
    blocks = _batched(enumerate(sources), BLOCK)

    async def extract(position: int, source: Document) -> Prepared:
        async with slots.taken(position):
            try:
                entity = await teacher.extract(source)
                return Prepared(source, entity if entity and keep(entity) else None, {})
            except TeacherError as error:
                return Prepared(source, None, {}, str(error))

    async def prepare(block: list[tuple[int, Document]]) -> list[Prepared]:
        prepared = await asyncio.gather(*(extract(position, source) for position, source in block))
        found = [(i, one.entity) for i, one in enumerate(prepared) if one.entity]
        if found:
            async with one_at_a_time:
                queries = [entity.query for _, entity in found]
                candidates = await asyncio.to_thread(retrieve, queries, [prepared[i].source for i, _ in found])
            for (i, _), arms in zip(found, candidates, strict=True):
                prepared[i] = prepared[i]._replace(candidates=arms)
        return prepared

    async def finish(preparing: asyncio.Task[list[Prepared]], i: int, position: int) -> R:
        prepared = (await asyncio.shield(preparing))[i]
        async with slots.taken(position):
            return await judge(prepared)

    preparations: set[asyncio.Task[Any]] = set()
    try:
        while True:
            while sum(not task.done() for task in pending) < enough and (block := next(blocks, None)):
                preparing = asyncio.create_task(prepare(block))
                preparations.add(preparing)
                preparing.add_done_callback(preparations.discard)
                pending += [
                    asyncio.create_task(finish(preparing, i, position)) for i, (position, _) in enumerate(block)
                ]
            if not pending:
                return
            await asyncio.wait(
                [task for task in pending if not task.done()] or [pending[0]],
                return_when=asyncio.FIRST_COMPLETED,
            )
            while pending and pending[0].done():
                yield pending.popleft().result()
    finally:
        unfinished = [*pending, *preparations]
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)


def _batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
