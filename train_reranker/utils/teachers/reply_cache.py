"""Every reply that was paid for, on disk, so that no question is paid for twice."""

import asyncio
import errno
import fcntl
import hashlib
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import InputError, RunError
from utils.files import encodable
from utils.progress import log
from utils.teachers.cache_salvage import is_damage, salvage
from utils.teachers.prompts import Question

_VERSION = 2  # 1 had no checksums
_CHECKSUM = "checksum TEXT NOT NULL DEFAULT ''"
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, content TEXT NOT NULL, finish_reason TEXT NOT NULL,
    tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, failed INTEGER NOT NULL DEFAULT 0, {_CHECKSUM}
) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
"""
_OPENING = 1 << 62  # the byte of the lock file that is locked while the file is opened; keys lock lower ones
_LOCK_EVERY = 0.05  # seconds between looks at a question that another process asks
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
    truncated: str  # with the token limit, so that a higher one makes a new request
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


def _checksum(key: str, model: str, reply: Reply) -> str:
    return hashlib.blake2b(json.dumps([key, model, *reply]).encode(), digest_size=8).hexdigest()


def _connect(path: Path) -> sqlite3.Connection:
    """Open or create a cache, and bring one of an earlier version up to date; InputError if it is none."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o600))  # which SQLite's own files follow
    db = sqlite3.connect(path, timeout=60, isolation_level=None)
    db.text_factory = lambda raw: raw.decode("utf-8", "replace")  # another program may have written it
    db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    foreign = version == 0 and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if foreign or version > _VERSION:
        raise InputError(f"{path} is not a reply cache, or one of another version: move it away")
    if version == 1:
        db.execute(f"ALTER TABLE replies ADD COLUMN {_CHECKSUM}")
    db.executescript(_SCHEMA)
    return db


class ReplyCache:
    """One SQLite file of replies, which several processes may share: they ask the same question once.

    Invalid ones are kept, too, so a resumed run goes through the same attempts for free. Those to questions that stayed
    unanswered are marked as failed. A killed process loses none that :meth:`once` returned; a power cut may lose those
    of the last half minute. A damaged reply is requested again, and what can be read of a damaged file is kept.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file; raise InputError if it is not a reply cache of this version."""
        self.path = path
        self.failure: RunError | None = None  # what a reply could not be filed for: nothing more may be asked
        self._in_flight: dict[str, asyncio.Task[tuple[Reply, bool]]] = {}
        self._closing = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._locks = os.open(path.with_name(f".{path.name}.locks"), os.O_RDWR | os.O_CREAT, 0o600)
            self._db = self._open()
        except (sqlite3.Error, OSError) as error:
            hint = "stop the process that holds it, or move it away"
            raise InputError(f"{path} cannot be used as a reply cache ({error}): {hint}") from None

    def _open(self) -> sqlite3.Connection:
        fcntl.lockf(self._locks, fcntl.LOCK_EX, 1, _OPENING)
        try:
            return _connect(self.path)
        except sqlite3.Error as error:
            if not is_damage(self.path, error):
                raise
            salvage(self.path, _SCHEMA)
            return _connect(self.path)
        finally:
            fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, _OPENING)

    def get(self, *keys: str) -> Reply | None:
        """Return the reply under the first of ``keys`` that has one, or None; a damaged one is removed."""
        columns = "key, model, checksum, content, finish_reason, tokens_in, tokens_out"
        rows = self._run(f"SELECT {columns} FROM replies WHERE key IN ({','.join('?' * len(keys))})", keys)
        found = {}
        for key, model, checksum, *row in rows:
            if checksum in ("", _checksum(key, model, reply := Reply(*row))):
                found[key] = reply
            else:
                log.warning("%s: reply %s… is damaged and will be requested again", self.path, key[:12])
                self._run("DELETE FROM replies WHERE key = ?", (key,))
        return next((found[key] for key in keys if key in found), None)

    def put(self, key: str, model: str, reply: Reply) -> None:
        """File a reply, unless the key has one."""
        columns = "key, model, checksum, content, finish_reason, tokens_in, tokens_out"
        values = (key, model, _checksum(key, model, reply), *reply)
        try:
            self._run(f"INSERT OR IGNORE INTO replies ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        except RunError as error:
            self.failure = error
            raise

    async def once(self, keys: CacheKeys, model: str, fetch: Callable[[], Awaitable[Reply]]) -> tuple[Reply, bool]:
        """Return the reply, and whether it was free: in the cache, or already on its way to another caller or process.

        A cancelled caller leaves its request running: the reply is paid for, and is filed when it arrives.
        """
        if reply := self.get(*keys):
            return reply, True
        if request := self._in_flight.get(keys.whole):
            return (await asyncio.shield(request))[0], True
        request = self._in_flight[keys.whole] = asyncio.create_task(self._fetch(keys, model, fetch))
        # Retrieves the exception, so that asyncio does not warn if all callers are gone.
        request.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(request)

    async def _fetch(self, keys: CacheKeys, model: str, fetch: Callable[[], Awaitable[Reply]]) -> tuple[Reply, bool]:
        try:
            async with self._locked(keys.whole):
                if reply := self.get(*keys):  # another process has asked meanwhile
                    return reply, True
                if self.failure:
                    raise self.failure
                reply = Reply(*encodable([*await fetch()]))
                self.put(keys.truncated if reply.finish_reason == "length" else keys.whole, model, reply)
                return reply, False
        finally:
            del self._in_flight[keys.whole]

    @asynccontextmanager
    async def _locked(self, key: str) -> AsyncIterator[None]:
        """Claim a question, which no other process then pays for; the claim of a killed one is gone."""
        byte = int(key[:15], 16)
        while not self._try_lock(byte):
            if self._closing:
                raise asyncio.CancelledError
            await asyncio.sleep(_LOCK_EVERY)
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, byte)

    def _try_lock(self, byte: int) -> bool:
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError as error:
            return error.errno not in (errno.EAGAIN, errno.EACCES)  # others: this file system has no locks
        return True

    def mark_failed(self, keys: Iterable[str]) -> None:
        """Mark the replies to a question that stayed unanswered."""
        for key in keys:
            self._run("UPDATE replies SET failed = 1 WHERE key = ?", (key,))

    def forget_failed(self, models: Iterable[str]) -> int:
        """Drop these models' replies to unanswered questions, which are replayed until then; return their number."""
        drop = "DELETE FROM replies WHERE failed = 1 AND model = ? RETURNING key"
        return sum(len(self._run(drop, (model,))) for model in set(models))

    async def aclose(self, forget: Iterable[CacheKeys] = ()) -> None:
        """Wait for the requests in flight, which are paid for, even if cancelled; drop ``forget``, and close."""
        self._closing, cancelled = True, False
        requests = asyncio.gather(*self._in_flight.values(), return_exceptions=True)
        while not requests.done():
            try:
                await asyncio.shield(requests)
            except asyncio.CancelledError:
                cancelled = True
        for keys in forget:
            self._run("DELETE FROM replies WHERE key IN (?, ?, ?)", keys)
        with suppress(sqlite3.Error):  # a full disk, which loses nothing that is filed
            self._db.execute("PRAGMA wal_checkpoint")  # synced, also if another process goes on
        self._db.close()
        os.close(self._locks)
        if cancelled:
            raise asyncio.CancelledError

    def _run(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        for is_repaired in (False, True):
            try:
                return self._db.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                if is_repaired or not is_damage(self.path, error):
                    raise RunError(f"the reply cache {self.path} failed ({error}); fix that and run again") from None
            self._repair()
        raise AssertionError("unreachable")

    def _repair(self) -> None:
        """Open the file again, without what is damaged, if another process has not done so already."""
        fcntl.lockf(self._locks, fcntl.LOCK_EX, 1, _OPENING)
        try:
            self._db.close()
            salvage(self.path, _SCHEMA)
            self._db = _connect(self.path)
        except (sqlite3.Error, OSError) as error:
            raise RunError(f"the reply cache {self.path} failed ({error}); fix that and run again") from None
        finally:
            fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, _OPENING)
