"""The replies that were paid for, on disk: what was asked once is never paid for again."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import InputError, RunError
from utils.files import encodable
from utils.teachers.prompts import Question

_VERSION = 1
_TABLE = """
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, content TEXT NOT NULL, finish_reason TEXT NOT NULL,
    tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, failed INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID
"""


class Reply(NamedTuple):
    """What a model said, as it said it, and what it took."""

    content: str
    finish_reason: str
    tokens_in: int
    tokens_out: int


# Parameters that change how long a reply may get, who is billed and the like, but not what a whole reply says.
_NO_MATTER = frozenset(
    ["max_tokens", "max_completion_tokens", "metadata", "service_tier", "store", "stream", "stream_options", "user"]
)


def answer_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the generation parameters that change what a whole reply says."""
    return {name: value for name, value in params.items() if name not in _NO_MATTER}


def reply_key(model: str, question: Question, params: Mapping[str, Any]) -> str:
    """Return the hash that a whole reply is filed under: all that decides what it says, wherever the model is served.

    Args:
        model: its name, with its revision where the configuration tells models of one name apart.
        question: what it is asked.
        params: of the generation; see :func:`answer_params`.
    """
    return _digest([model, question.messages, question.schema, answer_params(params)])


def request_key(base_url: str, model: str, question: Question, params: Mapping[str, Any]) -> str:
    """Return the hash of a request to one endpoint, to the letter; earlier versions filed all replies under it."""
    return _digest([base_url.rstrip("/"), model, question.messages, question.schema, dict(params)])


def reply_keys(
    base_url: str, model: str, revision: str | None, question: Question, params: Mapping[str, Any]
) -> CacheKeys:
    """Return what the replies to a question may be filed under."""
    whole = reply_key(model if revision is None else f"{model} {revision}", question, params)
    limit = params.get("max_completion_tokens", params.get("max_tokens"))
    return CacheKeys(
        whole, f"{whole} {limit}", request_key(base_url, model, question, params) if revision is None else ""
    )


class CacheKeys(NamedTuple):
    """What a question's reply is looked up under, in this order.

    A reply that the limit on its length has cut is filed by that limit, so that a higher one is worth asking again.
    """

    whole: str
    cut: str
    request: str  # of earlier versions; "" where they could not tell the model's revision


def _digest(asked: list[Any]) -> str:
    canonical = json.dumps(asked, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


class ReplyCache:
    """One sqlite file of replies, which several processes may use at once.

    Every reply that came in whole is kept, a useless one, too: the note of the next attempt makes that a request of its
    own, so that a resumed run goes through the same attempts without paying. Replies of a question that stayed without
    an answer are marked, and :meth:`forget_failed` drops them, for when the endpoint has been mended.

    A reply is handed to the operating system before :meth:`once` returns it, so that a killed process loses none; a
    power cut may cost the last few.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or start it.

        Raises:
            InputError: ``path`` is no such cache, or one of another version.
        """
        self.path = path
        self._flights: dict[str, asyncio.Task[Reply]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except (sqlite3.Error, OSError) as error:
            raise InputError(
                f"{path} cannot be used as a cache of replies ({error}): end what holds it, or move it away"
            ) from None

    def _open(self) -> None:
        self._db = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        self._db.text_factory = lambda raw: raw.decode("utf-8", "replace")  # whatever another program has written
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        foreign = version == 0 and self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if foreign or version not in (0, _VERSION):
            raise InputError(f"{self.path} is no cache of replies, or one of another version: move it away")
        self._db.execute(_TABLE)
        self._db.execute(f"PRAGMA user_version = {_VERSION}")

    def __len__(self) -> int:
        """Return the number of replies that are kept."""
        count: int = self._run("SELECT count(*) FROM replies")[0][0]
        return count

    def get(self, *keys: str) -> Reply | None:
        """Return the reply filed under the first of ``keys`` that has one, or None."""
        columns = "key, content, finish_reason, tokens_in, tokens_out"
        rows = self._run(f"SELECT {columns} FROM replies WHERE key IN ({','.join('?' * len(keys))})", keys)
        found = {key: Reply(*row) for key, *row in rows}
        return next((found[key] for key in keys if key in found), None)

    def put(self, key: str, model: str, reply: Reply) -> None:
        """File a reply; once this returns, a kill of the process does not lose it.

        Raises:
            RunError: the file cannot be written.
        """
        self._run(
            "INSERT OR IGNORE INTO replies (key, model, content, finish_reason, tokens_in, tokens_out)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (key, model, *reply),
        )

    async def once(self, keys: CacheKeys, model: str, fetch: Callable[[], Awaitable[Reply]]) -> tuple[Reply, bool]:
        """Return the reply for ``keys`` and whether it cost nothing: filed before, or on its way for somebody else.

        A caller that is cancelled leaves the request running: its reply is paid for, and is filed when it comes.

        Raises:
            whatever ``fetch`` raises.
        """
        reply = self.get(*keys)
        if reply is not None:
            return reply, True
        flight = self._flights.get(keys.whole)
        shared = flight is not None
        if flight is None:
            flight = asyncio.create_task(self._fetch(keys, model, fetch))
            self._flights[keys.whole] = flight
            flight.add_done_callback(lambda done: self._land(keys.whole, done))
        return await asyncio.shield(flight), shared

    async def _fetch(self, keys: CacheKeys, model: str, fetch: Callable[[], Awaitable[Reply]]) -> Reply:
        reply = Reply(*encodable([*await fetch()]))
        self.put(keys.cut if reply.finish_reason == "length" else keys.whole, model, reply)
        return reply

    def _land(self, key: str, flight: asyncio.Task[Reply]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # looked at, so that asyncio does not complain where every caller has gone

    def mark_failed(self, keys: Iterable[str]) -> None:
        """Mark the replies of a question that stayed without an answer."""
        for key in keys:
            self._run("UPDATE replies SET failed = 1 WHERE key = ?", (key,))

    def forget_failed(self, models: Iterable[str]) -> int:
        """Drop these models' replies to questions that stayed without an answer, and return how many that were.

        For when what made them useless was mended: until then they are replayed, and ERROR stays ERROR.
        """
        return sum(
            len(self._run("DELETE FROM replies WHERE failed = 1 AND model = ? RETURNING key", (model,)))
            for model in set(models)
        )

    async def aclose(self, forget: Iterable[CacheKeys] = ()) -> None:
        """Wait for what is on its way, which is paid for; then drop what is to be forgotten, and close the file."""
        await asyncio.gather(*self._flights.values(), return_exceptions=True)
        for keys in forget:
            self._run("DELETE FROM replies WHERE key IN (?, ?, ?)", keys)
        self._db.close()

    def _run(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise RunError(f"the cache of replies {self.path} failed ({error}); fix that and run again") from None
