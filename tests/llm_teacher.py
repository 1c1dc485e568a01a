"""Runs the language model teacher against an endpoint, on texts that can be checked by eye."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from endpoint import ScriptedEndpoint
from utils.schema import BridgeEntity, Document
from utils.teachers.endpoint import EndpointSettings
from utils.teachers.language_model import LLMTeacher
from utils.teachers.ledger import Ledger
from utils.teachers.rate_limit import RetryPolicy

KEY = "sk-proj-Zq8vNw3XyLr7TbKc"
QUICK = RetryPolicy(tries=6, first_wait=0.01, longest_wait=0.05, connect_tries=2)
KEYS = (KEY, "sk-proj-Hd5mUa9PfGs2JeQo")
TOLD = (
    "The first long road of Italy led from Rome to Capua, was named the Via Appia, and was paved by the censor Claudius"
)
ROMANS = Document("1", "Roman roads", TOLD)
ROAD = BridgeEntity("Claudius", "person", "He paved the Via Appia in 312 BC.", "What else did Claudius build?")
USABLE = Document("2", "Aqueducts", "The first aqueduct of Rome was begun in the same year by Claudius")
UNUSABLE = Document("3", "Emperors", "The first emperor of Rome was Augustus")
GOOD = {"entity": "Via Appia", "type": "road", "segment": TOLD, "query": "where does the Via Appia end"}
ANSWER = json.dumps(GOOD)


def settings_for(url: str, **changes: Any) -> EndpointSettings:
    given = {"provider": "openai", "base_url": url, "model": "small", "api_keys": (KEY,), "timeout": 60.0}
    return EndpointSettings(**(given | changes))


def documents(count: int) -> list[Document]:
    told = (
        "What stands in this text, one of many that say hardly anything but their number, {0}, is all about Entity{0}"
    )
    return [Document(str(n), f"Title {n}", told.format(n)) for n in range(count)]


def use(
    url: str | ScriptedEndpoint,
    cache: Path,
    work: Callable[[LLMTeacher], Awaitable[Any]],
    ledger: Ledger | None = None,
    *,
    retry: RetryPolicy = QUICK,
    **settings: Any,
) -> Any:
    """Run ``work`` with a teacher for both roles."""
    role = settings_for(url if isinstance(url, str) else url.url, **settings)

    async def run() -> Any:
        async with aclosing(LLMTeacher(role, role, cache, ledger or Ledger(), retry=retry)) as teacher:
            return await work(teacher)

    return asyncio.run(run())


def extract_all(docs: Sequence[Document]) -> Callable[[LLMTeacher], Awaitable[list[Any]]]:
    """Return work that extracts from all documents at once; what is raised is among the results."""

    async def work(teacher: LLMTeacher) -> list[Any]:
        return await asyncio.gather(*map(teacher.extract, docs), return_exceptions=True)

    return work


def traceback_of(error: BaseException) -> str:
    """Return all that a traceback would show of an exception."""
    return "".join(traceback.format_exception(error))


def completion_of(**message: Any) -> bytes:
    """Return the body of a completion with this message."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": None} | message}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}).encode()
