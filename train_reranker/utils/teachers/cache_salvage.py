"""Saving what can be read of a damaged SQLite file: one that was cut, or of which pages are lost."""

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from utils.files import open_new
from utils.progress import log

MAGIC = b"SQLite format 3\0"
DEEPEST = 4  # digits of a key that are tried one by one around a page that cannot be read


def is_damage(path: Path, error: sqlite3.Error) -> bool:
    """Whether an error means that an SQLite file is damaged; False for a file of another kind."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def salvage(path: Path, schema: str) -> None:
    """Replace a damaged file by one with those replies that can be read; nothing if it is sound.

    The damaged file is kept beside it, with ``.damaged`` at the end of its name. A kill leaves either file. No other
    process may do this at the same time.
    """
    damaged, new = path.with_name(f"{path.name}.damaged"), path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    _restore_size(path)
    try:
        open_new(new, private=True).close()
        with closing(sqlite3.connect(path, timeout=60)) as old, closing(sqlite3.connect(new)) as saved:
            old.text_factory = lambda raw: raw.decode("utf-8", "replace")
            if _is_sound(old):
                return
            saved.executescript(schema)
            count = 0
            for row in _readable(old):
                names = ", ".join(row)
                values = ", ".join("?" * len(row))
                count += saved.execute(
                    f"INSERT OR IGNORE INTO replies ({names}) VALUES ({values})", (*row.values(),)
                ).rowcount
            saved.commit()
        damaged.unlink(missing_ok=True)
        os.link(path, damaged)
        for end in ("-wal", "-shm"):  # they belong to the old file, and would damage the new one
            path.with_name(f"{path.name}{end}").unlink(missing_ok=True)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    log.warning(
        "%s was damaged: %d replies were recovered, others will be requested again; it is kept as %s",
        path,
        count,
        damaged,
    )


def _is_sound(db: sqlite3.Connection) -> bool:
    try:
        return bool(db.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.DatabaseError:
        return False


def _restore_size(path: Path) -> None:
    """Append zeros to a file that was cut: SQLite reads nothing of one that is shorter than its header says."""
    with path.open("r+b") as file:
        header = file.read(32)
        size = int.from_bytes(header[16:18], "big")
        whole = (65536 if size == 1 else size) * int.from_bytes(header[28:32], "big")
        if path.stat().st_size < whole:
            file.truncate(whole)


def _readable(db: sqlite3.Connection, start: str = "") -> Iterator[dict[str, Any]]:
    """Yield the rows whose keys start like this; where a page is lost, those around it."""
    try:
        # Keys are hexadecimal.
        cursor = db.execute("SELECT * FROM replies WHERE key >= ? AND key < ?", (start, f"{start}g"))
        rows = cursor.fetchall()
    except sqlite3.DatabaseError as error:
        is_page = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CORRUPT  # otherwise it is the whole file
        for digit in "0123456789abcdef" if is_page and len(start) < DEEPEST else "":
            yield from _readable(db, start + digit)
        return
    names = [column[0] for column in cursor.description]
    yield from (dict(zip(names, row, strict=True)) for row in rows)
