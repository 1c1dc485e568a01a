"""Rows of query, pos and neg out of what other tools call them: triplets, cells of tables, BEIR folders."""

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from utils.corpus.documents import Corpus
from utils.data.judged import read_grades, read_texts
from utils.errors import InputError
from utils.files import Broken
from utils.formats import Place, Warn, delimiter_of, read_rows
from utils.progress import log

ROWS, TRIPLETS, BEIR = SHAPES = "rows", "triplets", "beir"
# sentence-transformers' names for a triplet's columns; what it calls negatives starts with the last.
QUERY, POSITIVE, NEGATIVE = (
    ("anchor", "query", "question", "sentence1"),
    ("positive", "answer", "sentence2"),
    "negative",
)
LISTS = ("pos", "neg", "pos_scores", "neg_scores", "pos_grades")

Rows = Iterator[tuple[Place, dict[str, Any]]]


def read_shaped(path: Path, warn: Warn, broken: Broken | None = None, shape: str | None = None) -> Rows:
    """Yield place and columns of each row of query, pos and neg, whatever its file's format and shape.

    Args:
        path: a file or folder as of :func:`utils.formats.read_rows`, or a BEIR folder.
        warn: receives a line about the files of a folder that are not read.
        broken: receives the error of each line that is not JSON, and reading goes on; without it, it is raised.
        shape: one of ``SHAPES``; by default a folder with ``qrels`` is BEIR's, and a row with a column ``positive`` and
            none named ``pos`` is a triplet, so that only triplets with other names need it.

    Raises:
        InputError: a file cannot be read, or has no such shape.
    """
    if shape == BEIR or (shape is None and (path / "qrels").is_dir()):
        return _of_beir(path)
    rows = read_rows(path, warn, broken)
    if shape == ROWS:
        return ((place, _cells(place, row)) for place, row in rows)
    return _of_triplets(rows, always=shape == TRIPLETS)


def _cells(place: Place, row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose lists are lists where a table has them as JSON, or as the only text."""
    if not delimiter_of(place.file):
        return row
    return row | {key: _as_list(row[key]) for key in LISTS if isinstance(row.get(key), str)}


def _as_list(cell: str) -> Any:
    if cell.lstrip().startswith("["):
        try:
            return json.loads(cell)
        except ValueError:  # a text that starts with a bracket
            pass
    return [cell]


def _of_triplets(rows: Rows, always: bool) -> Rows:
    """Yield rows; of triplets, those that follow each other with one query and positive become one row."""

    def parts(item: tuple[Place, dict[str, Any]]) -> tuple[Any, Any, list[Any], Place, dict[str, Any]]:
        place, row = item
        if not always and ("positive" not in row or "pos" in row):
            return None, place, [], place, row
        return (*_triplet(place, row), place, row)

    triplets = merged = 0
    for (query, positive), group in groupby(map(parts, rows), key=lambda one: one[:2]):
        members = list(group)
        *_, place, row = members[0]
        if query is None:
            yield place, _cells(place, row)
        else:
            triplets, merged = triplets + len(members), merged + 1
            yield place, {"query": query, "pos": positive, "neg": [text for one in members for text in one[2]]}
    if triplets > merged:
        message = "%d triplets make %d rows: those with the same query and positive, one after another, are one"
        log.info(message, triplets, merged)


def _named(row: dict[str, Any], names: Iterable[str]) -> str | None:
    return next((name for name in names if name in row), None)


def _triplet(place: Place, row: dict[str, Any]) -> tuple[Any, list[Any], list[Any]]:
    """Return query, positives and negatives: by the columns' names, else by their order."""
    texts = {name: value for name, value in row.items() if isinstance(value, str | list)}
    query, positive = _named(texts, QUERY), _named(texts, POSITIVE)
    negatives = [name for name in texts if name.startswith(NEGATIVE)]
    if query is None or positive is None:
        if len(texts) < 2:
            raise InputError(f"{place}: a triplet has the columns anchor, positive and negative; rename its columns")
        query, positive, *negatives = texts
    found = [texts[name] for name in negatives]
    flat = [text for value in found for text in (value if isinstance(value, list) else [value])]
    positives = texts[positive]
    return texts[query], positives if isinstance(positives, list) else [positives], flat


def _of_beir(folder: Path) -> Rows:
    """Yield a row of each query with a relevant document: those with their grades, and the ones judged irrelevant.

    Texts are read when they are asked for; queries and judgements are in memory.
    """
    corpus, queries = Corpus(folder / "corpus.jsonl"), read_texts(folder / "queries.jsonl")
    qrels, grades = read_grades(folder, ("train", "dev", "validation", "test"))
    for number, (query, judged) in enumerate(grades.items(), 1):
        texts: dict[float, list[str]] = {grade: [] for grade in sorted(set(judged.values()), reverse=True)}
        for document, grade in judged.items():
            if document in corpus:
                texts[grade].append(corpus.get(document).text)
        grades_of = [grade for grade in texts if grade > 0 for _ in texts[grade]]
        if query in queries and grades_of:
            pos, neg = ([text for grade in texts if (grade > 0) == so for text in texts[grade]] for so in (True, False))
            row = {"query": queries[query], "pos": pos, "neg": neg}
            yield Place(qrels, number, "query"), row | ({"pos_grades": grades_of} if max(grades_of) > 1 else {})
