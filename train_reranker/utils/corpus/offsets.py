"""The offset index of a corpus: a table beside the file, built in one pass, memory-mapped from then on."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir
from typing import Any, NamedTuple

import numpy as np

from utils.errors import InputError
from utils.files import file_state, hash64, loads, parse_line, replacing
from utils.progress import log, progress_bar
from utils.schema import Document, parse_document

VERSION, HEADER_BYTES = 3, 4096
# A user may have no home, as in some containers: the path then stays unexpanded.
_HOME = os.path.expanduser("~/.cache")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or (_HOME if _HOME[0] != "~" else gettempdir())) / "rerank-forge"


class Columns(NamedTuple):
    """One entry per document, unsigned 64-bit; the last two in order of hash, the others of row."""

    offset: np.ndarray  # bytes from the start of the file
    length: np.ndarray  # characters of the contents
    article: np.ndarray  # the first row of its article
    chunks: np.ndarray  # documents of its article, itself included
    text: np.ndarray  # the first row with the same text, up to white space
    hash: np.ndarray  # of the ids, ascending
    row: np.ndarray  # of the document that the hash belongs to


class Offsets(NamedTuple):
    """The table of one corpus file and the SHA-256 of the bytes that it was built from."""

    columns: Columns
    fingerprint: str

    def rows(self, document_id: str) -> list[int]:
        """Return the rows whose id has the hash of ``document_id``: nearly always one; the caller compares the ids."""
        wanted = np.uint64(hash64(document_id))
        start, end = (np.searchsorted(self.columns.hash, wanted, side) for side in ("left", "right"))
        return [int(row) for row in self.columns.row[start:end]]


def open_offsets(path: Path) -> Offsets:
    """Map a corpus file's table, beside it or in ``CACHE``; ``InputError`` as for :func:`build`.

    It is built where it is missing or was built from other bytes; the file is hashed only if its size or times changed.
    """
    stamp = _stamp(path)
    for table in _places(path):
        header = _read_header(table)
        if header is None:
            continue
        if header["stamp"] != stamp:
            if header["stamp"][0] != stamp[0] or header["fingerprint"] != fingerprint(path):
                log.info("%s does not match %s: building it again", table, path)
                continue
            _restamp(table, header | {"stamp": stamp})
        return _map(table, header)
    return _write(path, stamp)


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def build(path: Path) -> Offsets:
    """Read a whole corpus file; ``InputError`` if it is empty, or a line is wrong or repeats an id."""
    offsets, lengths, ids, articles, texts = (array("Q") for _ in range(5))
    digest = hashlib.sha256()
    for number, start, line in _lines(path):
        digest.update(line)
        if not line.removeprefix(codecs.BOM_UTF8).strip():
            continue
        document = parse_document(parse_line(line, path, number), f"{path}, line {number}")
        offsets.append(start)
        lengths.append(len(document.contents))
        ids.append(hash64(document.id))
        articles.append(hash64(document.article))
        texts.append(hash64(" ".join(document.text.split())))
    if not offsets:
        raise InputError(f"{path} holds no document; each line is a JSON object with id, title and contents")
    offset, length, hashes = (np.frombuffer(values, np.uint64) for values in (offsets, lengths, ids))
    order = np.argsort(hashes, kind="stable")
    text, _ = _first_rows(texts)
    columns = Columns(offset, length, *_first_rows(articles), text, hashes[order], order.astype(np.uint64))
    _refuse_duplicates(path, columns)
    return Offsets(columns, digest.hexdigest())


def _first_rows(hashes: array[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return for each row the first row with the same hash, and how many rows have it."""
    values = np.frombuffer(hashes, np.uint64)
    _, first, inverse, counts = np.unique(values, return_index=True, return_inverse=True, return_counts=True)
    return first[inverse].astype(np.uint64), counts[inverse].astype(np.uint64)


def read_document(path: Path, line: bytes, row: int) -> Document:
    """Return the document of a line, ignoring what follows; ``InputError`` if it has changed since it was checked."""
    with suppress(ValueError):
        if isinstance(value := loads(line.partition(b"\n")[0]), dict):
            return parse_document(value, f"{path}, row {row}")
    raise InputError(f"{path} has changed while it was in use: run again")


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield number, first byte and bytes of each line, with a progress bar."""
    start = 0
    try:
        bar = progress_bar(desc="indexing the corpus", total=path.stat().st_size, unit="B", unit_scale=True)
        with path.open("rb") as lines, bar:
            for number, line in enumerate(lines, 1):
                yield number, start, line
                start += len(line)
                bar.update(len(line))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _refuse_duplicates(path: Path, columns: Columns) -> None:
    """Raise where two documents have the same id; equal hashes alone do not prove it."""
    equal = columns.hash[1:] == columns.hash[:-1]
    suspects = set(columns.offset[np.append(columns.row[1:][equal], columns.row[:-1][equal])].tolist())
    seen = set()
    for number, start, line in _lines(path) if suspects else ():
        if start in suspects:
            document_id = read_document(path, line, number).id
            if document_id in seen:
                raise InputError(f'{path}, line {number}: id "{document_id}" is a duplicate; ids must be unique')
            seen.add(document_id)


def _stamp(path: Path) -> list[int]:
    """Return the state of a file; ``InputError`` if it is none."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is not a file: name a JSONL file")
        return file_state(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _places(path: Path) -> tuple[Path, Path]:
    """Return where the table may be: beside the corpus, and in the cache."""
    name = f"{path.name}.offsets"
    return path.with_name(name), CACHE / f"{hash64(str(path.resolve())):016x}.{name}"


def _read_header(table: Path) -> dict[str, Any] | None:
    """Return the header of a table; None where the table is missing, of another version, or damaged."""
    try:
        if not table.is_file():  # a pipe in its place would be waited for
            return None
        with table.open("rb") as file:
            header = json.loads(file.read(HEADER_BYTES))
            whole = (
                header["version"] == VERSION and header["columns"] == hashlib.file_digest(file, "sha256").hexdigest()
            )
        return header if whole else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _header_bytes(header: dict[str, Any]) -> bytes:
    return json.dumps(header).encode().ljust(HEADER_BYTES)


def _restamp(table: Path, header: dict[str, Any]) -> None:
    """Note a corpus's new times, so that it is not hashed again the next time; a read-only table stays as it is."""
    try:
        with table.open("r+b") as file:
            file.write(_header_bytes(header))
    except OSError:
        log.info("%s is read-only: its corpus is hashed at each start", table)


def _map(table: Path, header: dict[str, Any]) -> Offsets:
    shape = (len(Columns._fields), header["documents"])
    mapped = np.asarray(np.memmap(table, np.uint64, "r", HEADER_BYTES, shape))
    return Offsets(Columns(*mapped), header["fingerprint"])


def _write(path: Path, stamp: list[int]) -> Offsets:
    """Build the table and write it beside the corpus, else into the cache; else it stays in memory."""
    columns, digest = built = build(path)
    own = hashlib.sha256()
    for column in columns:
        own.update(column.data)
    header = {"version": VERSION, "documents": len(columns.offset), "columns": own.hexdigest()}
    header |= {"fingerprint": digest, "stamp": stamp}
    for table in _places(path):
        try:
            with replacing(table, "wb") as out:
                out.write(_header_bytes(header))
                for column in columns:
                    out.write(column.data)
            return _map(table, header)
        except OSError as error:
            log.info("%s cannot be written (%s)", table, error.strerror)
    return built
