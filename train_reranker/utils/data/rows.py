"""Rows of query, pos and neg: read, checked, and given the negatives that they lack."""

import itertools
import os
import random
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from utils.errors import InputError
from utils.files import find_input, read_jsonl
from utils.progress import log
from utils.schema import ContrastiveExample

DATA_SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz")  # of the files that are read from a folder
LARGEST_SCORE = 3e38  # about the largest number in single precision


def parse_example(row: dict[str, Any], where: str) -> ContrastiveExample:
    """Check a row; only ``neg``, scores and grades may be missing. ``InputError`` with ``where`` if it is wrong."""
    query = row.get("query")
    if not isinstance(query, str) or not query.strip():
        raise InputError(f'{where}: "query" must be a non-empty string')
    texts: dict[str, list[str]] = {}
    for key in ("pos", "neg"):
        passages = [] if key == "neg" and row.get(key) is None else row.get(key)
        if not isinstance(passages, list) or not all(isinstance(p, str) and p.strip() for p in passages):
            raise InputError(f'{where}: "{key}" must be a list of non-empty strings')
        texts[key] = passages
    if not texts["pos"]:
        raise InputError(f'{where}: "pos" must hold at least one string')
    for key in ("pos", "neg"):
        values: Any = row.get(f"{key}_scores")
        fits = isinstance(values, list) and len(values) == len(texts[key])
        finite = fits and all(type(v) in (int, float) and abs(v) <= LARGEST_SCORE for v in values)  # NaN is not
        if values is not None and not finite:
            raise InputError(f'{where}: "{key}_scores" must hold one number for each text of "{key}", all finite')
    grades: Any = row.get("pos_grades")
    fits = isinstance(grades, list) and len(grades) == len(texts["pos"])
    if grades is not None and not (fits and all(type(grade) is int and grade > 0 for grade in grades)):
        raise InputError(f'{where}: "pos_grades" must hold one whole number above 0 for each text of "pos"')
    return ContrastiveExample(query, texts["pos"], texts["neg"], row.get("pos_scores"), row.get("neg_scores"), grades)


def read_examples(
    paths: Iterable[str | Path],
    what: str = "training data",
    warn: Callable[[str], object] = log.warning,
    *,
    drop: bool = True,
) -> list[ContrastiveExample]:
    """Read the examples of JSONL files, and of all such files in folders and their subfolders, in order.

    A passage that is a positive of the same query in any row is removed from the negatives; with ``drop``, a row left
    without negatives by that is dropped. ``warn`` receives a line about it, and about files that are not read.
    ``InputError`` if a path is not found, a row is malformed (it names file and line), or there is no row.
    """
    placed: list[tuple[str, ContrastiveExample]] = []
    for path in paths:
        found = find_input(path, what, "name a JSONL file of query/pos/neg rows, or make one with `make data`")
        for file in _data_files(found, warn) if found.is_dir() else [found]:
            for number, row in read_jsonl(file):
                where = f"{file}, line {number}"
                placed.append((where, parse_example(row, where)))
    named = f"{what} {', '.join(map(str, paths))}"
    if not placed:
        raise InputError(f"{named} holds no row of query, pos and neg")
    return _without_contradictions(placed, named, warn, drop)


def _data_files(folder: Path, warn: Callable[[str], object]) -> list[Path]:
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
    read = [file for file in files if file.name.lower().endswith(DATA_SUFFIXES)]
    others = [str(file.relative_to(folder)) for file in files if file not in set(read)]
    if others:
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        warn(f"{folder}: only files named {', '.join(f'*{end}' for end in DATA_SUFFIXES)} are read, not {shown}")
    return read


def _without_contradictions(
    placed: Sequence[tuple[str, ContrastiveExample]], named: str, warn: Callable[[str], object], drop: bool
) -> list[ContrastiveExample]:
    """Remove the negatives that are positives of the same query; ``InputError`` if no row is left."""
    rows = consistent([example for _, example in placed])
    thinned = [len(row.neg) < len(example.neg) for row, (_, example) in zip(rows, placed, strict=True)]
    emptied = [thin and not row.neg for row, thin in zip(rows, thinned, strict=True)]
    if not any(thinned):
        return rows
    first = placed[thinned.index(True)][0]
    found = f"{sum(thinned)} of {len(placed)} rows have a text both as positive and as negative of the same query"
    if all(emptied):
        raise InputError(f"{named}: {found}, and none has another negative; replace them (first: {first})")
    rest = f"dropped these negatives, and {sum(emptied)} rows without any other" if drop else (
        f"dropped these negatives; {sum(emptied)} rows have no other"
    )  # fmt: skip
    warn(f"{named}: {found} (first: {first}): {rest}")
    return [row for row, empty in zip(rows, emptied, strict=True) if not (drop and empty)]


def consistent(examples: Sequence[ContrastiveExample]) -> list[ContrastiveExample]:
    """Return the examples without the negatives that are positives of the same query in any of them."""
    positives = positives_by_query(examples)
    rows = []
    for example in examples:
        wrong = positives[canonical(example.query)]
        good = [canonical(text) not in wrong for text in example.neg]
        if not all(good):
            scores = example.neg_scores and list(itertools.compress(example.neg_scores, good))
            example = example._replace(neg=list(itertools.compress(example.neg, good)), neg_scores=scores)
        rows.append(example)
    return rows


def positives_by_query(examples: Iterable[ContrastiveExample]) -> dict[str, set[str]]:
    """Return each query's positives over all rows, queries and texts in their :func:`canonical` form."""
    positives: dict[str, set[str]] = {}
    for example in examples:
        positives.setdefault(canonical(example.query), set()).update(map(canonical, example.pos))
    return positives


def canonical(text: str) -> str:
    """Return the form that texts share if they differ only in white space, case or Unicode normalisation."""
    return " ".join(unicodedata.normalize("NFC", text.casefold()).split())


def without(example: ContrastiveExample, unwanted: Callable[[str], bool]) -> ContrastiveExample:
    """Return the example without the unwanted passages, their scores and their grades."""
    kept: dict[str, Any] = {}
    for key, others in (("pos", ("pos_scores", "pos_grades")), ("neg", ("neg_scores",))):
        good = [not unwanted(passage) for passage in getattr(example, key)]
        for name in (key, *others):
            values = getattr(example, name)
            kept[name] = None if values is None else list(itertools.compress(values, good))
    return example._replace(**kept)


def fill_negatives(
    examples: Sequence[ContrastiveExample],
    wanted: int,
    rng: random.Random,
    known: Iterable[ContrastiveExample] = (),
) -> list[ContrastiveExample]:
    """Give every example at least ``wanted`` negatives, drawn from other examples' passages.

    Never drawn are the example's own passages, and positives of its query in other rows, those of ``known`` included,
    which are not trained on. FlagEmbedding repeats the
    row's own negatives instead: a group of four may then show one negative three times, and a row without any fails.
    ``InputError`` if there are too few passages in all to fill a group.
    """
    if all(len(example.neg) >= wanted for example in examples):
        return list(examples)
    passages: dict[str, str] = {}
    for example in examples:
        for passage in example.passages:
            passages.setdefault(canonical(passage), passage)
    texts, positives, filled = list(passages), positives_by_query([*examples, *known]), []
    for example in examples:
        if (missing := wanted - len(example.neg)) <= 0:
            filled.append(example)
            continue
        own = positives[canonical(example.query)] | set(map(canonical, example.neg))
        # A draw can hit each own passage once at most, so this many draws contain enough others, if they exist.
        drawn = rng.sample(texts, min(len(texts), missing + len(own)))
        others = [text for text in drawn if text not in own][:missing]
        if len(others) < missing:
            remedy = "give more rows, a smaller --train_group_size, or --negative_fill repeat"
            raise InputError(f"too few passages to fill groups of {wanted + 1}: {remedy}")
        filled.append(example._replace(neg=[*example.neg, *(passages[text] for text in others)]))
    return filled
