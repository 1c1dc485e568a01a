"""What can be read of a cache that was cut, or has lost a page, is recovered; the rest is requested again."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from utils.teachers.cache_salvage import MAGIC
from utils.teachers.reply_cache import Reply, ReplyCache, _digest

COUNT = 400
KEYS = [_digest([number]) for number in range(COUNT)]


def reply(number: int) -> Reply:
    return Reply(f"reply {number} " * 40, "stop", number, 1)


@pytest.fixture
def full(cache: Path) -> Path:
    """A cache of 400 replies on some hundred pages, closed."""
    store = ReplyCache(cache)
    for number, key in enumerate(KEYS):
        store.put(key, "m", reply(number))
    close(store)
    return cache


def close(store: ReplyCache) -> None:
    store._db.close()


def found(cache: Path) -> int:
    """Return how many replies the cache has, all of which are right."""
    store = ReplyCache(cache)
    replies = [store.get(key) for key in KEYS]
    close(store)
    assert all(one in (None, reply(number)) for number, one in enumerate(replies))
    return COUNT - replies.count(None)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.3])
def test_a_cut_file_keeps_what_is_left_of_it(full: Path, caplog: pytest.LogCaptureFixture, share: float) -> None:
    content = full.read_bytes()
    full.write_bytes(content[: int(share * len(content))])
    assert found(full) > 0.7 * share * COUNT - 40
    assert "was damaged" in caplog.text
    assert full.with_name("replies.sqlite.damaged").exists()
    assert {path.stat().st_mode & 0o777 for path in full.parent.glob("*replies*")} == {0o600}
    caplog.clear()
    assert found(full) > 0
    assert not caplog.text


def test_a_file_that_is_cut_in_its_first_page_is_replaced(full: Path) -> None:
    for kept in (20, 60, 4095):
        full.write_bytes(full.read_bytes()[:kept])
        assert found(full) == 0
        store = ReplyCache(full)
        store.put(KEYS[0], "m", reply(0))
        close(store)
        assert found(full) == 1


@pytest.mark.parametrize("junk", [b"\0", b"\xff", b"\x0a"])
def test_a_lost_page_costs_its_replies_only(full: Path, caplog: pytest.LogCaptureFixture, junk: bytes) -> None:
    with full.open("r+b") as file:
        file.seek(60 * 4096)  # in the middle: the first are the header and the root
        file.write(junk * 4096)
    assert COUNT - 30 < found(full) < COUNT
    assert "was damaged" in caplog.text


def test_a_page_that_is_lost_while_a_run_goes_on_is_no_end(full: Path) -> None:
    store = ReplyCache(full)
    with full.open("r+b") as file:
        file.seek(60 * 4096)
        file.write(b"\0" * 4096)
    missing = [number for number, key in enumerate(KEYS) if store.get(key) is None]
    assert 0 < len(missing) < 30
    for number in missing:
        store.put(KEYS[number], "m", reply(number))
    close(store)
    assert found(full) == COUNT


def test_replies_that_are_still_in_the_log_are_saved_too(full: Path) -> None:
    store = ReplyCache(full)
    store.put("ff", "m", reply(0))
    content, log = full.read_bytes(), full.with_name("replies.sqlite-wal").read_bytes()
    close(store)
    full.write_bytes(content[: len(content) // 2])
    full.with_name("replies.sqlite-wal").write_bytes(log)
    store = ReplyCache(full)
    assert store.get("ff") == reply(0)
    close(store)


def test_a_damaged_reply_is_told_and_not_used(full: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(sqlite3.connect(full)) as database, database:
        database.execute("UPDATE replies SET content = 'another' WHERE key = ?", (KEYS[3],))
        database.execute("UPDATE replies SET tokens_in = 9 WHERE key = ?", (KEYS[4],))
    with caplog.at_level(logging.WARNING):
        assert found(full) == COUNT - 2
    assert caplog.text.count("is damaged and will be requested again") == 2


def test_only_sqlite_files_are_touched(cache: Path) -> None:
    assert MAGIC.startswith(b"SQLite")
    cache.write_text("notes of mine")
    with pytest.raises(Exception, match="move it away"):
        ReplyCache(cache)
    assert cache.read_text() == "notes of mine"
