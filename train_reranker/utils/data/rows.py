"""Rows of query, pos and neg: read, checked, and given the negatives that they lack."""

import random
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.data.judged import JudgedPool
from utils.data.shapes import read_shaped
from utils.errors import InputError
from utils.files import find_input
from utils.formats import Place, Warn
from utils.progress import log
from utils.schema import ContrastiveExample

DAMAGED = "\ufffd"  # what decoders write for bytes, and we for half an emoji, that are no character
MOST_FAULTS = 1000  # after which reading ends
LARGEST_SCORE = 3e38  # about the largest number in single precision


def parse_example(row: dict[str, Any], where: object) -> ContrastiveExample:
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
    warn: Warn = log.warning,
    *,
    drop: bool = True,
) -> list[ContrastiveExample]:
    """Read the examples of files and folders, in any format and shape that ``read_shaped`` knows, in order.

    A passage that is a positive of the same query in any row is removed from the negatives; with ``drop``, a row left
    without negatives by that is dropped. ``warn`` receives a line about it, about rows that repeat others, and about
    files that are not read. ``InputError`` if a path is not found, rows are malformed (it names file and line of the
    first, and counts the others), or there is no row.
    """
    placed: list[tuple[Place, ContrastiveExample]] = []
    faults: list[InputError] = []
    for path in paths:
        found = find_input(path, what, "name query/pos/neg rows; the generator writes some with --test_fraction")
        for place, row in read_shaped(found, warn, faults.append):
            try:
                placed.append((place, parse_example(row, place)))
            except InputError as error:
                faults.append(error)
            if len(faults) == MOST_FAULTS:
                break
    named = f"{what} {', '.join(map(str, paths))}"
    if len(faults) > 1:
        raise InputError(f"{faults[0]}; {len(faults) - 1} more: `python -m tools.check_data {path}` lists all")
    if faults:
        raise faults[0]
    if not placed:
        raise InputError(f"{named} holds no row of query, pos and neg")
    _warn_of_repeats(placed, warn)
    return _without_contradictions(placed, named, warn, drop)


def _warn_of_repeats(placed: Sequence[tuple[Place, ContrastiveExample]], warn: Warn) -> None:
    """Report rows that repeat earlier ones, and texts that an earlier step has damaged."""
    seen: set[int] = set()
    repeats, damaged = [], []
    for place, row in placed:
        key = hash((canonical(row.query), *(frozenset(map(canonical, texts)) for texts in (row.pos, row.neg))))
        if key in seen:
            repeats.append(place)
        seen.add(key)
        if any(DAMAGED in text for text in (row.query, *row.passages)):
            damaged.append(place)
    for places, fault in ((repeats, "repeat an earlier row"), (damaged, f"have a damaged character ({DAMAGED})")):
        if places:
            remedy = f"`python -m tools.check_data {places[0].file}` lists them"
            warn(f"{len(places)} of {len(placed)} rows {fault} (first: {places[0]}): {remedy}")


def _without_contradictions(
    placed: Sequence[tuple[Place, ContrastiveExample]], named: str, warn: Warn, drop: bool
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


def pools_of_rows(rows: Iterable[ContrastiveExample]) -> list[JudgedPool]:
    """Return each query's pool: its positives with their grades, 1 where there are none, then its negatives with 0.

    Rows of one query, as triplets are, are no independent observations: they are one pool, with each passage once, at
    its best grade.
    """
    pools: dict[str, tuple[str, dict[str, tuple[str, int]]]] = {}
    for row in rows:
        query, graded = pools.setdefault(canonical(row.query), (row.query, {}))
        grades = [*(row.pos_grades or [1] * len(row.pos)), *[0] * len(row.neg)]
        for passage, grade in zip(row.passages, grades, strict=True):
            known, best = graded.get(canonical(passage), (passage, grade))
            graded[canonical(passage)] = known, max(best, grade)
    made = []
    for query, graded in pools.values():
        ordered = sorted(graded.values(), key=lambda one: one[1] == 0)
        made.append(JudgedPool(query, [text for text, _ in ordered], np.array([grade for _, grade in ordered])))
    return made


def consistent(examples: Sequence[ContrastiveExample]) -> list[ContrastiveExample]:
    """Return the examples without the negatives that are positives of the same query in any of them."""
    positives = positives_by_query(examples)
    rows = []
    for example in examples:
        wrong = positives[canonical(example.query)]
        unwanted = [False] * len(example.pos) + [canonical(text) in wrong for text in example.neg]
        rows.append(without_places(example, unwanted))
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
    return without_places(example, [unwanted(passage) for passage in example.passages])


def without_places(example: ContrastiveExample, unwanted: Sequence[bool]) -> ContrastiveExample:
    """Return the example without those of its passages, and their scores and grades, that are marked."""
    if not any(unwanted):
        return example
    kept: dict[str, Any] = {}
    marks = unwanted[: len(example.pos)], unwanted[len(example.pos) :]
    for marked, names in zip(marks, (("pos", "pos_scores", "pos_grades"), ("neg", "neg_scores")), strict=True):
        for name in names:
            if (values := getattr(example, name)) is not None:
                kept[name] = [value for value, one in zip(values, marked, strict=True) if not one]
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
