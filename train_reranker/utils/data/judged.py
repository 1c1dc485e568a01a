"""Judged sets: queries and documents with relevance grades, as in BEIR, and runs in TREC format."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from utils.errors import InputError
from utils.files import find_input, read_jsonl
from utils.progress import log
from utils.schema import Document

SPLITS = ("test", "dev", "validation", "train")  # which qrels of a folder are read, first match


class JudgedSet(NamedTuple):
    """Queries, documents and the grades of (query, document) pairs, also of missing ones; above 0 is relevant."""

    folder: Path
    queries: dict[str, str]
    documents: dict[str, str]
    grades: dict[str, dict[str, int]]  # by query, then by document


Run = dict[str, dict[str, float]]  # scores by query, then by document


def is_beir(path: Path) -> bool:
    """Tell whether a path is a folder in BEIR's layout, even if a part is missing."""
    return any((path / part).exists() for part in ("corpus.jsonl", "queries.jsonl", "qrels"))


def read_beir(folder: str | Path) -> JudgedSet:
    """Read ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/*.tsv`` (Thakur et al., arXiv 2104.08663).

    Queries without a relevant document are left out, because no order of theirs is better than another.

    Raises:
        InputError: a file is missing or malformed (the message names file and line), or the qrels belong to other
            queries or documents.
    """
    path = find_input(folder, "judged set", "name a BEIR folder of corpus.jsonl, queries.jsonl and qrels/test.tsv")
    documents = read_texts(path / "corpus.jsonl")
    queries = read_texts(path / "queries.jsonl")
    qrels, grades = read_grades(path, SPLITS)
    known = {
        query: judged
        for query, judged in grades.items()
        if query in queries and any(grade > 0 and document in documents for document, grade in judged.items())
    }
    if not known:
        raise InputError(f"{qrels} judges no query of {path / 'queries.jsonl'}: give the qrels of the same set")
    missing = sum(document not in documents for query in known for document in grades[query])
    if missing:
        message = "%s judges %d documents that are not in %s: the relevant ones count as missed, as in trec_eval"
        log.warning(message, qrels, missing, path / "corpus.jsonl")
    return JudgedSet(path, {query: queries[query] for query in known}, documents, known)


def read_texts(path: Path) -> dict[str, str]:
    """Return the text of each id, in the file's order; a title comes on a line before the text."""
    if not path.is_file():
        raise InputError(f"{path} not found: a BEIR folder has corpus.jsonl, queries.jsonl and qrels/test.tsv")
    texts: dict[str, str] = {}
    for number, row in read_jsonl(path):
        key, text, title = row.get("_id"), row.get("text"), row.get("title")
        if not isinstance(key, str | int) or key == "":
            raise InputError(f'{path}, line {number}: "_id" is missing; each line needs an "_id" and a "text"')
        if not isinstance(text, str):
            raise InputError(f'{path}, line {number}: "text" must be a string')
        if str(key) in texts:
            raise InputError(f'{path}, line {number}: "_id" {key!r} is a duplicate; ids must be unique')
        texts[str(key)] = Document("", title.strip() if isinstance(title, str) else "", text).text
    return texts


def read_grades(folder: Path, splits: Sequence[str]) -> tuple[Path, dict[str, dict[str, int]]]:
    """Return the qrels of the first of ``splits`` that a BEIR folder has, and the grades by query, then document."""
    qrels = _find_qrels(folder, splits)
    grades: dict[str, dict[str, int]] = {}
    for where, query, document, grade in _read_qrels(qrels):
        if grades.setdefault(query, {}).setdefault(document, grade) != grade:
            raise InputError(f"{where}: query {query!r} and document {document!r} have another grade above; keep one")
    return qrels, grades


def _find_qrels(folder: Path, splits: Sequence[str]) -> Path:
    found = {path.stem: path for path in sorted((folder / "qrels").glob("*.tsv")) if path.is_file()}
    if not found:
        raise InputError(f"{folder} has no qrels/*.tsv: without judgements there is nothing to test on")
    return next((found[split] for split in splits if split in found), next(iter(found.values())))


def _read_qrels(path: Path) -> Iterator[tuple[str, str, str, int]]:
    """Yield place, query, document and grade of each line of BEIR's three columns or TREC's four."""
    for number, fields in _fields(path):
        if len(fields) not in (3, 4):
            raise InputError(f"{path}, line {number}: expected query-id, corpus-id and score, separated by tabs")
        query, document, grade = fields[0], fields[-2], _number(fields[-1])
        if number == 1 and grade is None:  # the header
            continue
        if grade is None or not grade.is_integer() or abs(grade) >= 2**31:  # as trec_eval's
            raise InputError(f"{path}, line {number}: the grade must be a whole number, not {fields[-1]!r}")
        yield f"{path}, line {number}", query, document, int(grade)


def _number(text: str) -> float | None:
    """Return the finite number that a text is, else None."""
    try:
        return value if math.isfinite(value := float(text)) else None
    except ValueError:
        return None


def read_run(path: str | Path, judged: JudgedSet) -> Run:
    """Read a run in TREC format (query, Q0, document, rank, score, name) for the queries of a judged set.

    Its other queries are left out. Judged queries that it lacks have no documents then, and count as zeros.

    Raises:
        InputError: a line is malformed, a document is not in the set (the message names the line), or no query is.
    """
    found = find_input(path, "run", "give a file in TREC format: query, Q0, document, rank, score and name per line")
    run: Run = {}
    for number, fields in _fields(found):
        if len(fields) != 6:
            raise InputError(f"{found}, line {number}: expected query, Q0, document, rank, score and name")
        query, _, document, _, score, _ = fields
        if query not in judged.queries:
            continue
        if document not in judged.documents:
            raise InputError(
                f"{found}, line {number}: document {document!r} is not in {judged.folder / 'corpus.jsonl'}"
            )
        if (value := _number(score)) is None:
            raise InputError(f"{found}, line {number}: the score must be a finite number, not {score!r}")
        if document in run.setdefault(query, {}):
            raise InputError(f"{found}, line {number}: document {document!r} is ranked twice for query {query!r}")
        run[query][document] = value
    if not run:
        raise InputError(f"{found} ranks none of the judged queries of {judged.folder}: give the run of the same set")
    if len(run) < len(judged.queries):
        lacking = len(judged.queries) - len(run)
        log.warning("%s lacks %d of %d judged queries, which count as 0", found, lacking, len(judged.queries))
    return run


def _fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, line.split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


class JudgedPool(NamedTuple):
    """One query with the passages that are to be ranked, in the first stage's order where there is one."""

    query: str
    passages: list[str]
    grades: np.ndarray  # whole numbers, (N,); above 0 is relevant, 0 also where nothing was judged
    missed: tuple[int, ...] = ()  # grades of the relevant documents that are not among the passages
    first: np.ndarray | None = None  # the first stage's scores, (N,)
    unjudged: int = 0  # passages without a grade
    query_id: str = ""  # the set's own names, for runs; rows have none
    ids: Sequence[str] = ()


def pools_of_run(judged: JudgedSet, run: Run, depth: int | None = None) -> list[JudgedPool]:
    """Return the pool of each query of a judged set: its run's ``depth`` best, or all; empty where the run has none."""
    pools = []
    for query, text in judged.queries.items():
        grades, scores = judged.grades[query], run.get(query, {})
        ranked = sorted(scores, key=lambda document: -scores[document])[:depth]
        found = set(ranked)
        pools.append(
            JudgedPool(
                text,
                [judged.documents[document] for document in ranked],
                np.array([grades.get(document, 0) for document in ranked], dtype=int),
                tuple(grade for document, grade in grades.items() if grade > 0 and document not in found),
                np.array([scores[document] for document in ranked], dtype=float),
                len(found - grades.keys()),
                query,
                ranked,
            )
        )
    return pools


class Graded(Protocol):
    """What a pool knows of relevance."""

    @property
    def grades(self) -> np.ndarray:
        """The passages' grades, (N,)."""

    @property
    def missed(self) -> tuple[int, ...]:
        """The grades of the relevant documents that are not in the pool."""


AnyPool = TypeVar("AnyPool", bound=Graded)


def rankable(pools: Iterable[AnyPool]) -> list[AnyPool]:
    """Return the pools that an order can be right or wrong about: not all of the same grade, or some are missed."""
    return [pool for pool in pools if pool.missed or np.ptp(pool.grades) > 0]


def missed(pools: Sequence[JudgedPool]) -> float:
    """Return the share of relevant documents, 0 to 1, that are in no pool: no reranker can bring them back."""
    lost = sum(len(pool.missed) for pool in pools)
    return lost / max(1, lost + sum(int(np.sum(pool.grades > 0)) for pool in pools))


def judged_share(pools: Sequence[JudgedPool]) -> float:
    """Return the share of the pools' passages, 0 to 1, that have a grade."""
    return 1 - sum(pool.unjudged for pool in pools) / max(1, sum(len(pool.passages) for pool in pools))
