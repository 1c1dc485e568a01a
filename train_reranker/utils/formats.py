"""Rows out of files in any of the usual formats, one at a time: memory grows with none of them."""

import codecs
import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from utils.errors import InputError
from utils.files import Broken, open_data, parse_line, read_jsonl, reading

TABLES = {".tsv": "\t", ".csv": ","}
PARQUET = b"PAR1"
# Of the files that are read from a folder.
SUFFIXES = (*(f"{end}{packed}" for end in (".jsonl", ".json", *TABLES) for packed in ("", ".gz", ".zst")), ".parquet")
_BETWEEN = set(" \t\r\n,")  # the values of an array
ROWS_AT_ONCE, CHARACTERS_AT_ONCE = 1000, 2**20

Warn = Callable[[str], object]


class Place(NamedTuple):
    """Where a row stands; as text, what error messages begin with."""

    file: Path
    number: int  # from 1
    unit: str = "line"

    def __str__(self) -> str:
        """Return the file, and the line or row."""
        return f"{self.file}, {self.unit} {self.number}"


def read_rows(path: Path, warn: Warn, broken: Broken | None = None) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield place and columns of each row of a file, of a folder's files and its subfolders', or of a dataset.

    Read are JSON Lines, JSON arrays, and TSV and CSV with a header, each also as gzip or Zstandard; Parquet; and what
    ``save_to_disk`` of ``datasets`` writes.

    Args:
        path: the file or folder.
        warn: receives a line about the files of a folder that are not read.
        broken: receives the error of each line that is not JSON, and reading goes on; without it, it is raised.

    Raises:
        InputError: a file cannot be read, or a line is not JSON.
    """
    if not path.is_dir():
        yield from _read_file(path, broken)
    elif (path / "dataset_dict.json").is_file():
        names = sorted(str(one.parent) for one in path.glob("*/dataset_info.json"))
        raise InputError(f"{path} holds several splits: name one of them: {', '.join(names) or 'there is none'}")
    elif (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
        yield from _read_dataset(path)
    else:
        for file in data_files(path, warn):
            yield from _read_file(file, broken)


def is_plain(path: Path) -> bool:
    """Tell whether a path is a file of JSON Lines, which is not compressed: one in which rows can be looked up."""
    if not path.is_file():
        return not path.is_dir()
    if delimiter_of(path):
        return False
    with reading(path), open_data(path, unpack=False) as file:
        start = file.read(1024)
    archive = start.startswith((PARQUET, b"\x1f\x8b", b"\x28\xb5\x2f\xfd"))
    return not archive and start.removeprefix(codecs.BOM_UTF8).lstrip()[:1] != b"["


def data_files(folder: Path, warn: Warn) -> list[Path]:
    """Return the data files of a folder and its subfolders, following links and skipping hidden ones."""

    def refuse(error: OSError) -> NoReturn:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}")

    files, seen = [], set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder visited before: it may lead in a circle
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(place, name) for name in names if not name.startswith(".")]
    files.sort()
    read = [file for file in files if file.name.lower().endswith(SUFFIXES)]
    others = [str(file.relative_to(folder)) for file in files if file not in set(read)]
    if others:
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        warn(f"{folder}: only files named {', '.join(f'*{end}' for end in SUFFIXES)} are read, not {shown}")
    return read


def _read_file(path: Path, broken: Broken | None) -> Iterator[tuple[Place, dict[str, Any]]]:
    if delimiter := delimiter_of(path):
        yield from _read_table(path, delimiter)
        return
    with reading(path), open_data(path) as file:
        start = file.read(1024).removeprefix(codecs.BOM_UTF8).lstrip()
    if start.startswith(PARQUET) or path.suffix.lower() == ".parquet":
        yield from _read_parquet(path)
    elif start.startswith(b"["):
        yield from _read_array(path)
    else:
        yield from ((Place(path, number), row) for number, row in read_jsonl(path, broken))


def delimiter_of(path: Path) -> str | None:
    """Return what separates a table's columns, by the name of its file; None if it is none."""
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    return TABLES.get(os.path.splitext(name)[1])


def _read_table(path: Path, delimiter: str) -> Iterator[tuple[Place, dict[str, Any]]]:
    csv.field_size_limit(2**31 - 1)
    with reading(path), open_data(path) as file:
        lines = io.TextIOWrapper(file, "utf-8-sig", newline="")
        table = csv.DictReader(lines, delimiter=delimiter)
        for row in table:
            place = Place(path, table.line_num)
            if None in row:
                raise InputError(
                    f"{place}: more cells than the header has columns; quote cells that hold the separator"
                )
            yield place, {name: cell for name, cell in row.items() if cell}


def _read_parquet(path: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    from pyarrow.parquet import ParquetFile

    number = 0
    with reading(path), ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS_AT_ONCE):
            for row in batch.to_pylist():
                number += 1
                yield Place(path, number, "row"), row


def _read_dataset(path: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    from datasets import load_from_disk

    number = 0
    with reading(path):
        for table in load_from_disk(str(path)).with_format("arrow").iter(ROWS_AT_ONCE):
            for row in table.to_pylist():
                number += 1
                yield Place(path, number, "row"), row


def _read_array(path: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield the objects of a JSON array, of which only a part is in memory."""
    decoder, number, at = json.JSONDecoder(), 0, 1
    with reading(path), open_data(path) as file:
        lines = io.TextIOWrapper(file, "utf-8-sig")
        text = lines.read(CHARACTERS_AT_ONCE).lstrip()
        while True:
            while text[at : at + 1] in _BETWEEN and at < len(text):
                at += 1
            if text.startswith("]", at):
                return
            try:
                _, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError):
                # Twice as much, or an array that is never closed would be scanned once for each part of it.
                if not (more := lines.read(max(CHARACTERS_AT_ONCE, len(text)))):
                    raise InputError(f"{path}, row {number + 1}: not JSON; fix or remove it") from None
                text, at = text[at:] + more, 0
                continue
            number += 1
            yield Place(path, number, "row"), parse_line(text[at:end], path, number, "row")
            at = end
