"""The journal of a run: what every source came to, written as it comes, so that a killed run can be resumed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from utils.errors import InputError
from utils.files import append_jsonl, dumps, locked, parse_line, write_jsonl
from utils.labelling.record import JudgedSource
from utils.labelling.scheduler import BLOCK
from utils.teachers.reply_cache import answer_params

EARLIER = {"rerank_weight": 1.0, "evidence": "none"}  # what settings were in all runs before they were recorded
VERSION = 2  # 1 had no version, and rows of the generator alone


class Journal:
    """A header, then a row per source in the order of the sources, then notes: results that follow from all rows.

    All other files of a run are made from it. A row without an answer is held back until a later source has one, so
    that an endpoint's failure leaves no rows behind it.
    """

    def __init__(self, path: Path, out: IO[str], rows: list[JudgedSource], notes: dict[str, Any]) -> None:
        """Continue an open file after its rows and notes; see :func:`open_journal`."""
        self.path, self.rows, self.notes, self._out = path, rows, notes, out
        self.held: list[JudgedSource] = []

    @property
    def sources(self) -> list[JudgedSource]:
        """All rows, those that are held back included."""
        return [*self.rows, *self.held]

    def add(self, row: JudgedSource) -> None:
        """Write a row, after those that were held back, or hold it back; a kill does not lose what is written."""
        self.held.append(row)
        if not row.unanswered:
            self.write_held()

    def write_held(self) -> None:
        """Write the rows that were held back."""
        for row in self.held:
            append_jsonl(self._out, row.to_json())
        self.rows += self.held
        self.held = []

    def note(self, name: str, value: Any) -> None:
        """Write a note; no row may follow."""
        append_jsonl(self._out, {"note": name, "value": value})
        self.notes[name] = json.loads(dumps(value))  # as a resumed run reads it


@contextmanager
def open_journal(
    path: Path, settings: dict[str, Any], *, overwrite: bool = False, restart: str = "--overwrite"
) -> Iterator[Journal]:
    """Open the journal of a run with these settings, and keep other runs off it.

    ``overwrite`` starts from scratch; ``restart`` says how the user can. The rows depend on nothing but ``settings``.
    InputError if another run is writing it, or it has other settings; the differences are named.
    """
    with locked(path):
        rows: list[JudgedSource] = []
        notes: dict[str, Any] = {}
        if path.exists() and not overwrite:
            earlier, rows, notes = read_journal(path)
            different = differences(earlier, settings)
            if different and rows:  # settings may be corrected until the first row is written
                raise InputError(
                    f"{path} belongs to a run with other settings ({different}): use those, name another "
                    f"--output_file, or start from scratch ({restart})"
                )
            # A block's queries must be encoded together again to give the same vectors; notes follow the last row.
            rows = rows if notes else rows[: len(rows) // BLOCK * BLOCK]
        as_notes = [{"note": name, "value": value} for name, value in notes.items()]
        header = {"version": VERSION, "settings": settings}
        write_jsonl(path, [header, *(row.to_json() for row in rows), *as_notes], private=True)
        with path.open("a", encoding="utf-8") as out:
            yield Journal(path, out, rows, notes)


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


def read_journal(path: Path) -> tuple[dict[str, Any], list[JudgedSource], dict[str, Any]]:
    """Return settings, rows and notes without a last line that a kill has cut short; InputError if it is no journal."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # the last is empty, or was cut
        header, *rest = [parse_line(line, path, number) for number, line in enumerate(lines, 1)] or [{}]
        settings = header["settings"] if header else {}
        if header.get("version", 1) > VERSION:
            raise ValueError(header["version"])
        rows = [JudgedSource.from_json(row) for row in rest if "note" not in row]
        return settings, rows, {row["note"]: row["value"] for row in rest if "note" in row}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{path} is not a journal of this version; name another --output_file") from None
