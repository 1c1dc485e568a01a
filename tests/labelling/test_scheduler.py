"""Sources in flight: the same rows at any concurrency, the earliest source first."""

from __future__ import annotations

import asyncio
from pathlib import Path

from labelling_support import SlowTeacher, run
from utils.labelling.scheduler import PrioritySemaphore
from utils.retrieval.retriever import Retriever


def test_rows_are_the_same_at_any_concurrency(retriever: Retriever, tmp_path: Path) -> None:
    written = set()
    for concurrency in (1, 3, 40):
        teacher = SlowTeacher(retriever.corpus, seed=concurrency)
        path = tmp_path / f"{concurrency}.jsonl"
        run(retriever, teacher, path, concurrency=concurrency)
        written.add(path.read_bytes())
        assert teacher.most_in_flight <= concurrency
        assert concurrency == 1 or teacher.most_in_flight > 1
    assert len(written) == 1


def test_a_free_slot_goes_to_the_earliest_source() -> None:
    served = []

    async def work(slots: PrioritySemaphore, position: int) -> None:
        async with slots.taken(position):
            served.append(position)
            await asyncio.sleep(0)

    async def all_at_once() -> None:
        slots = PrioritySemaphore(1)
        await asyncio.gather(*(work(slots, position) for position in (5, 3, 4, 1, 2)))

    asyncio.run(all_at_once())
    assert served == [5, 1, 2, 3, 4]
