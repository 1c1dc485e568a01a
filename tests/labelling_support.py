"""What the tests of labelling share: a teacher with delays, and runs of the loop in one call."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from utils.labelling.example_generation import Target, generate
from utils.labelling.journal import Journal, open_journal
from utils.labelling.record import JudgedSource
from utils.labelling.retrieval_ablation import compare_arms, compared
from utils.labelling.scheduler import Pipeline
from utils.retrieval.arms import ARMS
from utils.retrieval.retriever import Retriever
from utils.schema import BridgeEntity, Document, Verdict
from utils.teachers.base import TeacherError
from utils.teachers.endpoint import EndpointSettings
from utils.teachers.language_model import LLMTeacher
from utils.teachers.ledger import Ledger
from utils.teachers.offline import OfflineTeacher

T = TypeVar("T")


class SlowTeacher:
    """The offline teacher behind delays that differ from call to call, counting the calls and the sources in flight."""

    def __init__(self, corpus: Any, seed: int = 0) -> None:
        self.inner, self.rng = OfflineTeacher(corpus), random.Random(seed)
        self.judged: list[tuple[str, str]] = []
        self.in_flight = self.most_in_flight = 0
        self.broken: set[str] = set()  # ids of documents whose extraction fails

    settings, doing = {"teacher": "slow"}, dict[str, Any]()
    forgotten = 0

    def forget_failures(self) -> None:
        self.forgotten += 1

    async def aclose(self) -> None:
        """Nothing to close."""

    async def pause(self) -> None:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(self.rng.random() / 200)
        self.in_flight -= 1

    def turns(self, document: Document) -> int:
        return self.inner.turns(document)

    async def extract(self, document: Document, turn: int = 0) -> BridgeEntity | None:
        await self.pause()
        if document.id in self.broken:
            raise TeacherError("no answer")
        return await self.inner.extract(document, turn)

    async def judge(self, entity: BridgeEntity, candidate: Document) -> Verdict:
        await self.pause()
        self.judged.append((entity.query, candidate.id))
        return await self.inner.judge(entity, candidate)


def pipeline_of(retriever: Retriever, teacher: Any, candidates: int = 5, **limits: Any) -> Pipeline:
    """Return a pipeline over all documents of a retriever's corpus, in a fixed order."""
    return Pipeline(lambda: retriever.corpus.sample(random.Random(1)), teacher, retriever, candidates, **limits)


def run(
    retriever: Retriever,
    teacher: Any,
    path: Path,
    num: int = 99,
    max_attempts: int | None = None,
    retry: bool = False,
    **limits: Any,
) -> tuple[str, Journal]:
    """Generate examples into a journal, and return why it stopped, and the journal."""
    with open_journal(path, {"seed": 1}, retry=retry) as journal:
        work = generate(pipeline_of(retriever, teacher, **limits), Target(num, max_attempts=max_attempts), journal)
        return asyncio.run(work), journal


def compare(retriever: Retriever, teacher: Any, **options: Any) -> list[JudgedSource]:
    """Try all arms on 12 sources, into a journal that is thrown away, and return the compared sources."""
    limits = {"candidates": 4, "concurrency": options.pop("concurrency", 1)}
    with TemporaryDirectory() as folder, open_journal(Path(folder, "j.jsonl"), {}) as journal:
        asyncio.run(compare_arms(pipeline_of(retriever, teacher, **limits), list(ARMS), 12, journal, **options))
        return compared(journal.sources)


def asking(url: str, cache: Path, work: Callable[[LLMTeacher], Awaitable[T]], ledger: Ledger | None = None) -> T:
    """Run ``work`` with a teacher behind an endpoint, and close it."""
    role = EndpointSettings(provider="openai", base_url=url, model="small", api_keys=("k",), timeout=30.0)

    async def run() -> T:
        async with aclosing(LLMTeacher(role, role, cache, ledger or Ledger())) as teacher:
            return await work(teacher)

    return asyncio.run(run())
