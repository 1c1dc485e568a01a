"""Judged sets: queries and documents with relevance grades, as in BEIR, and runs in TREC format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.errors import InputError
from utils.files import find_input, read_jsonl
from utils.progress import log
from utils.schema import ContrastiveExample, Document

SPLITS = ("test", "dev", "validation", "train")  # which qrels of a folder are read, first match


class JudgedSet(NamedTuple):
    """Queries, documents and the grades of (query, document) pairs; a grade above 0 is relevant."""

    name: str
    queries: dict[str, str]
    documents: dict[str, str]
    grades: dict[str, dict[str, int]]  # by query, then by document


Run = dict[str, dict[str, float]]  # scores by query, then by document


def is_beir(path: Path) -> bool:
    """Tell whether a path is a folder in BEIR's layout."""
    return path.is_dir() and (path / "queries.jsonl").is_file()


def read_beir(folder: str | Path) -> JudgedSet:
    """Read ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/*.tsv`` (Thakur et al., arXiv 2104.08663).

    Queries without a relevant document are left out, because no order of theirs is better than another.

    Raises:
        InputError: a file is missing or malformed (the message names file and line), or the qrels belong to other
            queries or documents.
    """
    path = find_input(folder, "judged set", "name a BEIR folder of corpus.jsonl, queries.jsonl and qrels/test.tsv")
    documents = dict(_texts(path / "corpus.jsonl"))
    queries = dict(_texts(path / "queries.jsonl"))
    qrels = _find_qrels(path)
    grades: dict[str, dict[str, int]] = {}
    for query, document, grade in _read_qrels(qrels):
        grades.setdefault(query, {})[document] = grade
    known = {
        query: judged
        for query, of_query in grades.items()
        if query in queries
        and any((judged := {document: g for document, g in of_query.items() if document in documents}).values())
    }
    if not known:
        raise InputError(f"{qrels} judges no query of {path / 'queries.jsonl'}: give the qrels of the same set")
    missing = sum(document not in documents for query in known for document in grades[query])
    if missing:
        log.warning("%s judges %d documents that are not in %s", qrels, missing, path / "corpus.jsonl")
    return JudgedSet(path.name, {query: queries[query] for query in known}, documents, known)


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield id and text of each line; a title comes on a line before the text."""
    if not path.is_file():
        raise InputError(f"{path} not found: a BEIR folder has corpus.jsonl, queries.jsonl and qrels/test.tsv")
    for number, row in read_jsonl(path):
        key, text, title = row.get("_id"), row.get("text"), row.get("title")
        if not isinstance(key, str | int) or key == "":
            raise InputError(f'{path}, line {number}: "_id" is missing; each line needs an "_id" and a "text"')
        if not isinstance(text, str):
            raise InputError(f'{path}, line {number}: "text" must be a string')
        yield str(key), Document("", title.strip() if isinstance(title, str) else "", text).text


def _find_qrels(folder: Path) -> Path:
    found = {path.stem: path for path in sorted((folder / "qrels").glob("*.tsv"))}
    if not found:
        raise InputError(f"{folder} has no qrels/*.tsv: without judgements there is nothing to test on")
    return next((found[split] for split in SPLITS if split in found), next(iter(found.values())))


def _read_qrels(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yield query, document and grade of each line of BEIR's three columns or TREC's four."""
    for number, fields in _fields(path):
        if len(fields) not in (3, 4):
            raise InputError(f"{path}, line {number}: expected query-id, corpus-id and score, separated by tabs")
        query, document, grade = fields[0], fields[-2], fields[-1]
        try:
            yield query, document, int(float(grade))
        except ValueError:
            if number == 1:  # the header
                continue
            raise InputError(f"{path}, line {number}: the grade must be a whole number, not {grade!r}") from None


def read_run(path: str | Path, judged: JudgedSet) -> Run:
    """Read a run in TREC format (query, Q0, document, rank, score, name) for the queries of a judged set.

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
            raise InputError(f"{found}, line {number}: document {document!r} is not in {judged.name}'s corpus.jsonl")
        try:
            run.setdefault(query, {})[document] = float(score)
        except ValueError:
            raise InputError(f"{found}, line {number}: the score must be a number, not {score!r}") from None
    if not run:
        raise InputError(f"{found} ranks none of the judged queries of {judged.name}: give the run of the same set")
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


def pools_of_rows(rows: Iterable[ContrastiveExample]) -> list[JudgedPool]:
    """Return each row's pool: its positives with grade 1, then its negatives with grade 0."""
    return [JudgedPool(row.query, row.passages, np.repeat([1, 0], [len(row.pos), len(row.neg)])) for row in rows]


def pools_of_run(judged: JudgedSet, run: Run) -> list[JudgedPool]:
    """Return the pool of each query of a judged set, best first as its run has it; empty where the run has nothing."""
    pools = []
    for query, text in judged.queries.items():
        grades, found = judged.grades[query], run.get(query, {})
        ranked = sorted(found, key=lambda document: -found[document])
        lost = tuple(grade for document, grade in grades.items() if grade > 0 and document not in found)
        known = np.array([grades.get(document, 0) for document in ranked], dtype=int)
        scores = np.array([found[document] for document in ranked], dtype=float)
        pools.append(JudgedPool(text, [judged.documents[document] for document in ranked], known, lost, scores))
    return pools


def missed(judged: JudgedSet, run: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the share of relevant documents, 0 to 1, that are not in the run: no reranker can bring them back."""
    relevant = [(query, document) for query, of in judged.grades.items() for document, grade in of.items() if grade > 0]
    return sum(document not in run.get(query, {}) for query, document in relevant) / len(relevant)
