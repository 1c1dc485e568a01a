"""The journal of a run: what every source came to, written as it comes, so that a killed run can be resumed.

Each line has a checksum over itself and the run's settings, and each row its number in the order of the sources: what a
disk, an editor or a merge has damaged is found, and only that is judged again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from utils.errors import InputError
from utils.files import dumps, loads, locked, replacing
from utils.labelling.record import JudgedSource
from utils.progress import log
from utils.teachers.reply_cache import answer_params

EARLIER = {
    "rerank_weight": 1.0,
    "evidence": "none",
    "max_judged": None,
}  # what settings were in all runs before they were recorded
VERSION = 3  # 1 had no version, and rows of the generator alone; 1 and 2 had neither checksums nor numbers
CHECKSUM = re.compile(rb', "checksum": "([0-9a-f]{16})"\}$')
MAX_REPORTED = 5  # problems of a file that are reported one by one


def with_checksum(row: dict[str, Any], settings: Mapping[str, Any] | None = None) -> str:
    """Return the line of a row, with a hash of it and of its run's settings at its end."""
    text = dumps(row)
    return f'{text[:-1]}, "checksum": "{_hash(text.encode(), settings)}"}}\n'


def _verified(line: bytes, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what :func:`with_checksum` wrote, ValueError if this is anything else."""
    found = CHECKSUM.search(line)
    text = line[: found.start()] + b"}" if found else b""
    if found is None or found[1].decode() != _hash(text, settings):
        raise ValueError("another checksum")
    row: dict[str, Any] = loads(text)
    return row


def _hash(text: bytes, settings: Mapping[str, Any] | None) -> str:
    return hashlib.blake2b(text, digest_size=8, salt=_salt(settings)).hexdigest()


def _salt(settings: Mapping[str, Any] | None) -> bytes:
    return b"" if settings is None else hashlib.blake2b(dumps(settings).encode(), digest_size=16).digest()


class Found(NamedTuple):
    """What a journal holds, rows by their place from 0, and what is wrong with it."""

    settings: dict[str, Any]
    rows: dict[int, JudgedSource]
    notes: dict[str, Any]
    problems: list[str]


class Journal:
    """A header, then a row per source in the order of the sources, then notes: results that follow from all rows.

    All other files of a run are made from it. A row without an answer is held back until a later source has one, so
    that an endpoint's failure leaves no rows behind it.
    """

    def __init__(self, path: Path, settings: dict[str, Any], found: Found, retry: bool = False) -> None:
        """Write what was found anew, and continue it; see :func:`open_journal`."""
        self.path, self._settings, self._known, self.notes = path, settings, found.rows, found.notes
        # The rows that are not judged again, by place.
        self.settled = {place: row for place, row in found.rows.items() if not (retry and row.complaint)}
        self.asks_again = retry or not found.rows  # also for what was cached as an error
        self._held: dict[int, JudgedSource] = {}
        self._out: IO[str] | None = None
        self._write()

    @property
    def rows(self) -> list[JudgedSource]:
        """All rows of the file, in the order of the sources."""
        return [row for _, row in sorted(self._known.items())]

    @property
    def held(self) -> list[JudgedSource]:
        """The rows that are held back."""
        return list(self._held.values())

    @property
    def sources(self) -> list[JudgedSource]:
        """All rows, those that are held back included."""
        return [row for _, row in sorted((self._known | self._held).items())]

    def add(self, place: int, row: JudgedSource) -> None:
        """Write the row of a place, after those that were held back, or hold it back; a kill does not lose it."""
        self._held[place] = row
        if not row.unanswered:
            self.write_held()

    def write_held(self) -> None:
        """Write the rows that were held back."""
        for place, row in self._held.items():
            if self._known.get(place) is not row:
                self._in_order &= place == len(self._known)
                self._append(self._line(place, row))
                self._known[place] = self.settled[place] = row
        self._held = {}

    def drop_held(self) -> None:
        """Forget the rows that were held back, whose sources are then tried again."""
        self._held = {}

    def complete(self, count: int) -> None:
        """Keep the first ``count`` rows, after which the run was done, and put them in order."""
        if not self._in_order or count < len(self._known):
            self._known = {place: row for place, row in self._known.items() if place < count}
            self._write()

    def note(self, name: str, value: Any) -> None:
        """Write a note; no row may follow."""
        self._append(self._note_line(name, value))
        self.notes[name] = json.loads(dumps(value))  # as a resumed run reads it

    def close(self) -> None:
        """Make sure that a power cut loses nothing either, and close the file."""
        if self._out:
            with self._out:
                self._out.flush()
                os.fsync(self._out.fileno())

    def _line(self, place: int, row: JudgedSource) -> str:
        return with_checksum({"row": place + 1, **row.to_json()}, self._settings)

    def _note_line(self, name: str, value: Any) -> str:
        return with_checksum({"note": name, "value": value, "rows": len(self._known)}, self._settings)

    def _append(self, line: str) -> None:
        assert self._out
        self._out.write(line)
        self._out.flush()

    def _write(self) -> None:
        self.close()
        with replacing(self.path, private=True) as out:  # it holds replies
            out.write(with_checksum({"version": VERSION, "settings": self._settings}))
            out.writelines(self._line(place, row) for place, row in sorted(self._known.items()))
            out.writelines(self._note_line(name, value) for name, value in self.notes.items())
        self._out, self._in_order = self.path.open("a", encoding="utf-8"), True


@contextmanager
def open_journal(
    path: Path,
    settings: dict[str, Any],
    *,
    overwrite: bool = False,
    retry: bool = False,
    restart: str = "--overwrite",
) -> Iterator[Journal]:
    """Open the journal of a run with these settings, and keep other runs off it.

    ``overwrite`` starts from scratch; ``restart`` says how the user can. ``retry`` judges rows with errors again. The
    rows depend on nothing but ``settings``. Damaged rows are reported and judged again.
    InputError if another run is writing it, or it has other settings; the differences are named.
    """
    settings = json.loads(dumps(settings))  # as they are read again
    with locked(path):
        found = Found({}, {}, {}, [])
        if path.exists() and not overwrite:
            found = read_journal(path, settings)
            different = differences(found.settings, settings)
            if different and found.rows:  # settings may be corrected until the first row is written
                raise InputError(
                    f"{path} belongs to a run with other settings ({different}): use those, name another "
                    f"--output_file, or start from scratch ({restart})"
                )
            if found.problems:
                log.warning("%s; damaged and missing rows will be judged again", describe(path, found.problems))
            if retry and any(row.complaint for row in found.rows.values()):
                found = found._replace(notes={})  # they follow from all rows
        with closing(Journal(path, settings, found, retry)) as journal:
            yield journal


def differences(earlier: dict[str, Any], settings: dict[str, Any]) -> str:
    """Return the settings that differ, each with both values; "" if none does.

    A setting that the earlier run did not have does not count, unless ``EARLIER`` knows what it was.
    """
    now = json.loads(dumps(settings))
    earlier = {key: value for key, value in EARLIER.items() if key in now} | earlier
    changed = sorted(key for key in earlier if _deciding(now.get(key)) != _deciding(earlier[key]))
    return "; ".join(f"{key}: {earlier[key]!r} then, {now.get(key)!r} now" for key in changed)


def _deciding(setting: Any) -> Any:
    """Return what answers depend on in a setting: version 1 recorded a model's address, and all its parameters."""
    if not isinstance(setting, dict) or "params" not in setting:
        return setting
    return {**setting, "base_url": None, "params": answer_params(setting["params"])}


def describe(path: Path, problems: list[str]) -> str:
    """Return a file's problems in one line."""
    more = [f"{len(problems) - MAX_REPORTED} more"] if len(problems) > MAX_REPORTED else []
    return f"{path}: {'; '.join([*problems[:MAX_REPORTED], *more])}"


def read_journal(path: Path, now: dict[str, Any] | None = None) -> Found:
    """Return what a journal holds, without a last line that a kill has cut short; InputError if it is no journal.

    A journal without a valid header is taken for one of the settings ``now`` if the checksums of its rows match.
    """
    if not path.is_file():  # a pipe would be waited for
        raise InputError(f"{path} is not a file: name another --output_file")
    *lines, cut = path.read_bytes().split(b"\n")
    if cut and CHECKSUM.search(cut):
        lines.append(cut)
    if not lines:
        return Found({}, {}, {}, [])
    header = _header(lines[0].rstrip(b"\r"))
    settings, is_old = (now or {}, False) if header is None else (header["settings"], header.get("version", 1) < 3)
    rows: dict[int, JudgedSource] = {}
    notes: dict[str, Any] = {}
    problems, last, total = [] if header else ["line 1 is damaged"], -1, 0
    for number, line in enumerate(lines[1:], 2):
        try:
            row = loads(line) if is_old else _verified(line.rstrip(b"\r"), settings)
            if "note" in row:
                notes[row["note"]] = row["value"]
                total = max(total, 0 if is_old else row["rows"])
                continue
            place, judged = number - 2 if is_old else row["row"] - 1, JudgedSource.from_json(row)
        except (KeyError, TypeError, ValueError, AttributeError):
            problems.append(f"line {number} is damaged")
            continue
        if place < last:
            problems.append(f"line {number} holds row {place + 1}, out of order")
        elif rows.get(place) == judged:
            problems.append(f"line {number} repeats row {place + 1}")
        rows[place] = judged  # of two, the later: the first was an error that has been retried
        last = max(last, place)
    if header is None and not rows:
        raise InputError(f"{path} is not a journal of this version; name another --output_file")
    missing = sorted(set(range(max(total, last + 1))) - rows.keys())
    problems += [f"missing: row {', '.join(str(place + 1) for place in missing)}"] if missing else []
    return Found(settings, rows, {} if missing else notes, problems)


def _header(line: bytes) -> dict[str, Any] | None:
    """Return the header of a journal of this version or an earlier one; None if it is not one, or damaged."""
    try:
        header = loads(line)
        version = header.get("version", 1)
        if not isinstance(header["settings"], dict) or version > VERSION:
            return None
        return header if version < 3 and not CHECKSUM.search(line) else _verified(line)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
