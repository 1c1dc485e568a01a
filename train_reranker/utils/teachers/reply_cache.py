"""Every reply that was paid for, on disk, so that no question is paid for twice."""

import asyncio
import hashlib
import json
import os
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
# Parameters that limit a reply's length, name who is billed and the like, but do not change what a whole reply says.
_NOT_IN_KEY = {
    "max_tokens", "max_completion_tokens", "metadata", "service_tier", "store", "stream", "stream_options", "user",
}  # fmt: skip


class Reply(NamedTuple):
    """A model's reply, verbatim, with its token counts."""

    content: str
    finish_reason: str
    tokens_in: int
    tokens_out: int


class CacheKeys(NamedTuple):
    """The keys under which a question's reply is looked up, in this order."""

    whole: str
    truncated: str  # with the token limit, so that a higher one asks again
    request: str  # of earlier versions; "" for a model with a revision, which they did not know


def answer_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the generation parameters that change what a whole reply says."""
    return {name: value for name, value in params.items() if name not in _NOT_IN_KEY}


def request_key(base_url: str, model: str, question: Question, params: Mapping[str, Any]) -> str:
    """Return the hash of a request to one endpoint; earlier versions filed all replies under it."""
    return _digest([base_url.rstrip("/"), model, question.messages, question.schema, dict(params)])


def reply_keys(
    base_url: str, model: str, revision: str | None, question: Question, params: Mapping[str, Any]
) -> CacheKeys:
    """Return the keys of a question's reply: hashes of all that decides what it says, but not of ``base_url``."""
    name = model if revision is None else f"{model} {revision}"
    whole = _digest([name, question.messages, question.schema, answer_params(params)])
    limit = params.get("max_completion_tokens", params.get("max_tokens"))
    request = request_key(base_url, model, question, params) if revision is None else ""
    return CacheKeys(whole, f"{whole} {limit}", request)


def _digest(request: list[Any]) -> str:
    canonical = json.dumps(request, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


class ReplyCache:
    """One SQLite file of replies, which several processes may share.

    Invalid ones are kept, too, so a resumed run goes through the same attempts for free. Those to questions that stayed
    unanswered are marked as failed. A killed process loses none that :meth:`once` returned; a power cut may lose a few.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file; raise InputError if it is not a reply cache of this version."""
        self.path = path
        self._in_flight: dict[str, asyncio.Task[Reply]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o600))  # replies are for their owner alone
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None)
            self._db.text_factory = lambda raw: raw.decode("utf-8", "replace")  # another program may have written it
            self._db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            foreign = version == 0 and self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if foreign or version not in (0, _VERSION):
                raise InputError(f"{path} is not a reply cache, or one of another version: move it away")
            self._db.execute(_TABLE)
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
        except (sqlite3.Error, OSError) as error:
            hint = "stop the process that holds it, or move it away"
            raise InputError(f"{path} cannot be used as a reply cache ({error}): {hint}") from None

    def get(self, *keys: str) -> Reply | None:
        """Return the reply under the first of ``keys`` that has one, or None."""
        columns = "key, content, finish_reason, tokens_in, tokens_out"
        rows = self._run(f"SELECT {columns} FROM replies WHERE key IN ({','.join('?' * len(keys))})", keys)
        found = {key: Reply(*row) for key, *row in rows}
        return next((found[key] for key in keys if key in found), None)

    def put(self, key: str, model: str, reply: Reply) -> None:
        """File a reply, unless the key has one."""
        columns = "key, model, content, finish_reason, tokens_in, tokens_out"
        self._run(f"INSERT OR IGNORE INTO replies ({columns}) VALUES (?, ?, ?, ?, ?, ?)", (key, model, *reply))

    async def once(self, keys: CacheKeys, model: str, fetch: Callable[[], Awaitable[Reply]]) -> tuple[Reply, bool]:
        """Return the reply, and whether it was free: in the cache, or already on its way to another caller.

        A cancelled caller leaves its request running: the reply is paid for, and is filed when it arrives.
        """
        if reply := self.get(*keys):
            return reply, True
        if request := self._in_flight.get(keys.whole):
            return await asyncio.shield(request), True
        request = self._in_flight[keys.whole] = asyncio.create_task(self._fetch(keys, model, fetch))
        # Retrieves the exception, so that asyncio does not warn if all callers are gone.
        request.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(request), False

    async def _fetch(self, keys: CacheKeys, model: str, fetch: Callable[[], Awaitable[Reply]]) -> Reply:
        try:
            reply = Reply(*encodable([*await fetch()]))
            self.put(keys.truncated if reply.finish_reason == "length" else keys.whole, model, reply)
            return reply
        finally:
            del self._in_flight[keys.whole]

    def mark_failed(self, keys: Iterable[str]) -> None:
        """Mark the replies to a question that stayed unanswered."""
        for key in keys:
            self._run("UPDATE replies SET failed = 1 WHERE key = ?", (key,))

    def forget_failed(self, models: Iterable[str]) -> int:
        """Drop these models' replies to unanswered questions, which are replayed until then; return their number."""
        drop = "DELETE FROM replies WHERE failed = 1 AND model = ? RETURNING key"
        return sum(len(self._run(drop, (model,))) for model in set(models))

    async def aclose(self, forget: Iterable[CacheKeys] = ()) -> None:
        """Wait for the requests in flight, which are paid for; then drop the replies in ``forget`` and close."""
        await asyncio.gather(*self._in_flight.values(), return_exceptions=True)
        for keys in forget:
            self._run("DELETE FROM replies WHERE key IN (?, ?, ?)", keys)
        self._db.close()

    def _run(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise RunError(f"the reply cache {self.path} failed ({error}); fix that and run again") from None
