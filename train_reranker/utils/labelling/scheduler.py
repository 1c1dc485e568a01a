"""Sources through teacher and retriever: many in flight, results in source order, the same at any concurrency."""

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

# Consecutive sources whose queries are encoded and searched together. A vector depends in its last bits on its batch,
# so blocks follow from the order of the sources alone, not from how many happen to be in flight.
BLOCK = 16

R = TypeVar("R")


class Prepared(NamedTuple):
    """A source that is ready to be judged: its entity, if it has one, and what each arm retrieved."""

    source: Document
    entity: BridgeEntity | None
    candidates: dict[str, list[Candidate]]
    error: str | None = None  # why the extraction failed


class PrioritySemaphore:
    """A semaphore that serves the earliest source first, so that sources are finished before new ones are started."""

    def __init__(self, free: int) -> None:
        """Allow ``free`` holders at a time."""
        self._free = free
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._asked = 0

    @asynccontextmanager
    async def taken(self, position: int) -> AsyncIterator[None]:
        """Hold a slot; the lowest waiting position is served first."""
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

    Each source goes through extraction, retrieval (a block at a time, in a thread) and judging, ``concurrency`` sources
    at a time. What is in flight when the caller stops is cancelled.

    Args:
        sources: read only as far as needed.
        teacher: extracts the bridge entities.
        retrieve: returns candidates by arm for queries and their source documents.
        judge: returns a prepared source's result; exceptions reach the caller in the source's turn.
        concurrency: sources that the teacher works on at a time, at least 1.
        keep: whether to retrieve for an entity.
    """
    slots = PrioritySemaphore(concurrency)
    one_at_a_time = asyncio.Lock()
    # While a block is searched its slots are free: start enough blocks to keep them busy.
    enough = concurrency + BLOCK if concurrency > 1 else 1
    pending: deque[asyncio.Task[R]] = deque()
    blocks = _batched(enumerate(sources), BLOCK)

    async def extract(position: int, source: Document) -> Prepared:
        async with slots.taken(position):
            try:
                return Prepared(source, await teacher.extract(source), {})
            except TeacherError as error:
                return Prepared(source, None, {}, str(error))

    async def prepare(block: list[tuple[int, Document]]) -> list[Prepared]:
        prepared = await asyncio.gather(*(extract(position, source) for position, source in block))
        found = [(i, one.entity) for i, one in enumerate(prepared) if one.entity and keep(one.entity)]
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
                pending += [asyncio.create_task(finish(preparing, i, n)) for i, (n, _) in enumerate(block)]
            if not pending:
                return
            unfinished = [task for task in pending if not task.done()]
            await asyncio.wait(unfinished or [pending[0]], return_when=asyncio.FIRST_COMPLETED)
            while pending and pending[0].done():
                yield pending.popleft().result()
    finally:
        for task in (left := [*pending, *preparations]):
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
