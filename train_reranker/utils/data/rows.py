"""Rows of query, pos and neg: read and checked."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from utils.data.split import canonical
from utils.errors import InputError
from utils.files import find_input, read_jsonl
from utils.progress import log
from utils.schema import ContrastiveExample

READ = (".jsonl", ".json", ".jsonl.gz", ".json.gz")  # how the names of data files end, in a folder of them
LARGEST_SCORE = 3e38  # that single precision holds


def parse_example(row: dict[str, Any], where: str) -> ContrastiveExample:
    """Return the example that one row of a data file holds; ``neg`` may be missing, other keys are left alone.

    Raises:
        InputError: ``query`` is no text, or ``pos``, ``neg`` or their scores are no lists of what they should hold;
            begins with ``where``.
    """
    query = row.get("query")
    if not isinstance(query, str) or not query.strip():
        raise InputError(f'{where}: "query" must be a text that is not empty')
    texts: dict[str, list[str]] = {}
    for key in ("pos", "neg"):
        passages = row.get(key, [] if key == "neg" else None)
        passages = [] if passages is None and key == "neg" else passages
        if not isinstance(passages, list) or not all(isinstance(p, str) and p.strip() for p in passages):
            raise InputError(f'{where}: "{key}" must be a list of texts, none of them empty')
        texts[key] = passages
    if not texts["pos"]:
        raise InputError(f'{where}: "pos" must hold at least one text')
    scores: dict[str, list[float] | None] = {}
    for key in ("pos", "neg"):
        values = row.get(f"{key}_scores")
        if values is not None and (
            not isinstance(values, list)
            or len(values) != len(texts[key])
            or not all(type(v) in (int, float) and abs(v) <= LARGEST_SCORE for v in values)  # NaN is not
        ):
            raise InputError(f'{where}: "{key}_scores" must hold one number for each text of "{key}", all finite')
        scores[key] = values
    return ContrastiveExample(query, texts["pos"], texts["neg"], scores["pos"], scores["neg"])


def read_examples(
    paths: Iterable[str | Path], what: str = "training data", tell: Callable[[str], object] = log.warning
) -> list[ContrastiveExample]:
    """Return the examples of JSONL files, or of all such files in folders and their subfolders, in order.

    A passage that any row has as a positive of the query is left out of the query's negatives, and a row with it if it
    had no other. ``tell`` is given a line for that, and for each folder with files of other kinds.

    Raises:
        InputError: a path is not there, a row is malformed (file and line are named), or there is no row at all.
    """
    placed: list[tuple[str, ContrastiveExample]] = []
    for path in paths:
        found = find_input(path, what, "name a JSONL file of query/pos/neg rows, or make one with `make data`")
        for file in _data_files(found, tell) if found.is_dir() else [found]:
            for number, row in read_jsonl(file):
                where = f"{file}, line {number}"
                placed.append((where, parse_example(row, where)))
    named = f"{what} {', '.join(map(str, paths))}"
    if not placed:
        raise InputError(f"{named} holds no row of query, pos and neg")
    return _consistent(placed, named, tell)


def _data_files(folder: Path, tell: Callable[[str], object]) -> list[Path]:
    """Return the data files of a folder and its subfolders, links followed; hidden ones are no data.

    Raises:
        InputError: a subfolder cannot be read.
    """

    def refuse(error: OSError) -> NoReturn:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}")

    files, seen = [], set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to where the walk has been: it may lead in a circle
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(place, name) for name in names if not name.startswith(".")]
    files.sort()
    read = [file for file in files if file.name.lower().endswith(READ)]
    others = [str(file.relative_to(folder)) for file in files if file not in set(read)]
    if others:
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        tell(f"{folder}: only files named {', '.join(f'*{end}' for end in READ)} are read, not {shown}")
    return read


def _consistent(
    placed: Sequence[tuple[str, ContrastiveExample]], named: str, tell: Callable[[str], object]
) -> list[ContrastiveExample]:
    """Return the rows without negatives that are positives of the same query.

    Raises:
        InputError: no row is left.
    """
    positives = _positives_by_query([example for _, example in placed])
    kept, thinned, left_out = [], [], 0
    for where, example in placed:
        wrong = positives[canonical(example.query)]
        if any(canonical(text) in wrong for text in example.neg):
            thinned.append(where)
            good = [canonical(text) not in wrong for text in example.neg]
            scores = example.neg_scores and list(itertools.compress(example.neg_scores, good))
            example = example._replace(neg=list(itertools.compress(example.neg, good)), neg_scores=scores)
            if not example.neg:
                left_out += 1
                continue
        kept.append(example)
    found = f"{len(thinned)} of {len(placed)} rows have a text both as positive and as negative of the same query"
    if not kept:
        raise InputError(f"{named}: {found}, and none has another negative; replace them (first: {thinned[0]})")
    if thinned:
        tell(
            f"{named}: {found} (first: {thinned[0]}): these negatives are left out, "
            f"with {left_out} rows that have no others"
        )
    return kept


def _positives_by_query(examples: Iterable[ContrastiveExample]) -> dict[str, set[str]]:
    """Return the positives of each query in whatever row, both as :func:`canonical` makes them."""
    positives: dict[str, set[str]] = {}
    for example in examples:
        positives.setdefault(canonical(example.query), set()).update(map(canonical, example.pos))
    return positives
