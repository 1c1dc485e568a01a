"""Data sets without what their audit found wrong."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.data.findings import Analysis
from utils.data.rows import parse_example, without_places
from utils.data.shapes import read_shaped
from utils.errors import InputError

UNUSABLE, UNWANTED, PASSAGES = LEFT_OUT = ("rows that cannot be used", "rows that repeat others or leak", "passages")


def cleaned(path: Path, analysis: Analysis, shape: str | None, changes: Counter[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of the first data set that was gathered, without what is unwanted; ``changes`` counts it.

    The data set is read again. InputError if it has changed since.
    """
    starts, row = analysis.start.astype(int).tolist(), 0
    for place, columns in read_shaped(path, lambda _: None, lambda _: changes.update([UNUSABLE]), shape):
        try:
            example = parse_example(columns, place)
        except InputError:
            changes[UNUSABLE] += 1
            continue
        if row == len(starts) or analysis.gathered.place(row) != place:
            raise InputError(f"{path} has changed while it was read: run again")
        if analysis.unwanted_rows[row]:
            changes[UNWANTED] += 1
        else:
            unwanted = analysis.unwanted_texts[starts[row] + 1 : starts[row] + 1 + len(example.passages)].tolist()
            changes[PASSAGES] += sum(unwanted)
            yield without_places(example, unwanted).row()
        row += 1
