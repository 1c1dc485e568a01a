"""Files: where inputs are found, JSON and JSON Lines, writes that survive a kill, and locks on outputs."""

import codecs
import csv
import errno
import gzip
import hashlib
import io
import json
import os
import re
import secrets
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from utils.errors import InputError

SCRIPTS = Path(__file__).resolve().parents[1]
ROOT = SCRIPTS.parent

Broken = Callable[[InputError], object]  # what is told about a line that cannot be used

DEEPEST = 100  # levels of JSON
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# First bytes of files that are not text in UTF-8, with what the file is and how to convert it.
_FOREIGN = {
    _GZIP: "is compressed: unpack it first (gunzip {name})",
    b"BZh": "is compressed: unpack it first (bunzip2 {name})",
    b"\xfd7zXZ": "is compressed: unpack it first (unxz {name})",
    _ZSTD: "is compressed: unpack it first (unzstd {name})",
    b"PK\x03\x04": "is compressed: unpack it first (unzip {name})",
    b"PAR1": 'is in Parquet: write it as JSON Lines (pandas: to_json(…, orient="records", lines=True))',
    codecs.BOM_UTF16_LE: "is in UTF-16: save it in UTF-8",
    codecs.BOM_UTF16_BE: "is in UTF-16: save it in UTF-8",
    b"version https://git-lfs": "is a Git LFS pointer: fetch the file itself (git lfs pull)",
}

# A lone surrogate in JSON: an escape, or three bytes of invalid UTF-8.
_MAY_HOLD_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")


def find(path: str | Path) -> Path | None:
    """Look up an input from the working directory, then from ``train_reranker/``, then from the repository root.

    Returns None where it is in none of them, or the path is empty. Absolute paths are taken as they are.
    """
    for base in (Path.cwd(), SCRIPTS, ROOT) if path != "" else ():
        candidate = base / path
        if os.path.exists(candidate):  # unlike pathlib, it returns False for a name that is too long
            resolved = candidate.resolve()
            return resolved if resolved.exists() else candidate  # a shell's <(…) has no other name
    return None


def find_input(path: str | Path, what: str, remedy: str) -> Path:
    """Like :func:`find`, but raises an :class:`InputError` with the remedy if nothing is found."""
    found = find(path)
    if found is None:
        raise InputError(f"{what} {path} not found: {remedy}")
    return found


def check_output(path: str | Path) -> Path:
    """Return the path of a JSON result; InputError if it is HTML or cannot be written."""
    path = Path(path)
    if path.suffix == ".html":
        raise InputError(f"output file {path} is for the JSON result, and the page is written beside it: use .json")
    place = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if path.is_dir() or not (place == path.absolute() or place.is_dir()) or not os.access(place, os.W_OK):
        raise InputError(f"output file {path} cannot be written: choose another")
    return path


def file_state(path: Path) -> list[int]:
    """Return what changes whenever a file does: its size, and the times of its contents and its inode."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def encodable(value: Any) -> Any:
    """Replace each lone surrogate (half an emoji) in a JSON value's texts by U+FFFD.

    Python's ``json`` accepts them silently, but every file, socket and tokenizer then fails to encode them.
    """
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [encodable(item) for item in value]
    if isinstance(value, dict):
        return {encodable(key): encodable(item) for key, item in value.items()}
    return value


def loads(text: bytes | str) -> Any:
    """Parse one JSON text into :func:`encodable` values; ValueError if it is not JSON or nested too deeply."""
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if raw.count(b"[") + raw.count(b"{") > DEEPEST and _depth(value) > DEEPEST:  # what reads it may be recursive
        raise ValueError("nested too deeply")
    return encodable(value) if _MAY_HOLD_SURROGATE.search(raw) else value


def _depth(value: Any) -> int:
    """Return how deeply a JSON value is nested, or a number above ``DEEPEST``."""
    level, depth = [value], 0
    while level and depth <= DEEPEST:
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level, depth = [item for items in inner for item in items], depth + 1
    return depth


def hash64(text: str) -> int:
    """Return a 64-bit hash of a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def dumps(value: Any) -> str:
    """Return one line of JSON, the same bytes for the same value."""
    return json.dumps(value, ensure_ascii=False)


def parse_line(line: bytes | str, path: Path, number: int, unit: str = "line") -> dict[str, Any]:
    """Parse the JSON object on line ``number`` (from 1) of ``path``; InputError names the line or the format."""
    remedy = (
        f"fix or remove the {unit}"
        if number > 1 or unit != "line"
        else "the file must hold one JSON object per line, as `jq -c` writes them"
    )
    try:
        row = loads(line)
    except ValueError as error:  # also a UnicodeDecodeError
        for start, problem in _FOREIGN.items():
            if number == 1 and isinstance(line, bytes) and line.startswith(start):
                raise InputError(f"{path} {problem.format(name=path.name)}") from None
        raise InputError(f"{path}, {unit} {number}: not JSON ({error}); {remedy}") from None
    if not isinstance(row, dict):
        raise InputError(f"{path}, {unit} {number}: expected a JSON object, not {type(row).__name__}; {remedy}")
    return row


def read_jsonl(path: Path, broken: Broken | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of each line that is not blank; gzip and Zstandard are unpacked.

    ``broken`` receives the error of each line that is not a JSON object; without it, :func:`parse_line`'s is raised.
    """
    with reading(path), open_data(path) as lines:
        for number, line in enumerate(lines, 1):
            line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                row = parse_line(line, path, number)
            except InputError as error:
                if broken is None:
                    raise
                broken(error)
                continue
            yield number, row


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is read, such as a truncated archive, into an InputError that names it."""
    try:
        yield
    except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise InputError(f"{path} cannot be read: {reason}") from None


def open_data(path: Path, unpack: bool = True) -> IO[bytes]:
    """Open a regular file for reading bytes, unpacked where it is gzip or Zstandard."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a regular file: save the rows to one, because they are read more than once")
    with path.open("rb") as file:
        start = file.read(len(_ZSTD))
    if unpack and start.startswith(_GZIP):
        return cast(IO[bytes], gzip.open(path))
    if unpack and start == _ZSTD:
        from pyarrow import input_stream

        return cast(IO[bytes], io.BufferedReader(input_stream(str(path), compression="zstd")))
    return path.open("rb")


@contextmanager
def replacing(path: Path, mode: str = "w", *, private: bool = False) -> Iterator[IO[Any]]:
    """Open a temporary sibling of ``path`` for writing and rename it to ``path`` once it is complete and synced.

    A run killed in between leaves the old file as it was. A ``private`` file is readable by its owner alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In a folder that others may write to, they must not know the name: a link in its place would lead elsewhere.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open_new(temporary, mode, private) as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def open_new(path: Path, mode: str = "w", private: bool = False) -> IO[Any]:
    """Open a file that must not exist, not even as a link; a ``private`` one is readable by its owner alone."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    # A name on disk may hold bytes that are no UTF-8: Python's escape of such a byte is also JSON's.
    encoding, errors = (None, None) if "b" in mode else ("utf-8", "backslashreplace")
    return open(os.open(path, flags, 0o600 if private else 0o666), mode, encoding=encoding, errors=errors)


def write_jsonl(path: Path, rows: Iterable[Any], *, private: bool = False) -> None:
    """Write one line of JSON per row, atomically; see :func:`replacing`."""
    with replacing(path, private=private) as out:
        out.writelines(dumps(row) + "\n" for row in rows)


def write_json(path: Path, value: Any) -> None:
    """Write one indented JSON value, atomically."""
    with replacing(path) as out:
        out.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def append_jsonl(out: IO[str], row: Any) -> None:
    """Append one row to an open file and flush it, so that a kill cannot lose it."""
    out.write(dumps(row) + "\n")
    out.flush()


# A read-only folder, which no run writes to, and file systems without locks.
_NO_LOCKS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def locked(path: Path, waiting: Callable[[str], object] | None = None) -> Iterator[None]:
    """Keep other runs off an output, a file or a folder, while the block runs; the lock dies with its holder.

    The lock is a file beside ``path``, which need not exist. Where no lock can be had, as in a read-only folder, the
    block runs without.

    Args:
        path: what the block writes.
        waiting: called with one line that names the holder, before this run waits for it.

    Raises:
        InputError: another run holds it, whose process the message names, and ``waiting`` is None.
    """
    from filelock import FileLock, Timeout

    whole = Path(os.path.abspath(path))  # "." has no name
    note = whole.parent / f".{whole.name}.lock"  # of the process that holds it
    lock = FileLock(note)
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            holder = ""
            with suppress(FileNotFoundError):  # it has just ended
                holder = note.read_text()
            message = f"another run (process {holder or 'unknown'}) is writing {path}"
            if waiting is None:
                raise InputError(f"{message}: wait for it, or name another output") from None
            waiting(f"{message}: waiting for it")
            lock.acquire()
        note.write_text(str(os.getpid()))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        if lock.is_locked:
            note.unlink(missing_ok=True)
            lock.release()


@contextmanager
def new_output(path: str | Path, flag: str = "--output_file") -> Iterator[Path]:
    """Keep other runs off an output, a file or a folder, that must not exist yet, while the block runs.

    InputError if it exists, cannot be written, or another run is writing it; ``flag`` is what names it.
    """
    path = Path(path)
    if not path.exists():
        check_output(path)
    with locked(path):
        if path.exists():
            raise InputError(f"{path} already exists: choose another {flag}")
        yield path
