"""The corpus: a JSONL file of documents, read once, looked up by id or row, sampled by a seed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils import jsonl
from utils.cli import InputError, find_input, progress
from utils.schema import Document


def parse_document(row: dict[str, Any], where: str) -> Document:
    """Return the document of one corpus row: ``id`` and ``contents``, optionally ``title`` and ``doc_id``.

    Numbers as ids are compared as texts. Without a ``title``, the first line of FlashRAG's contents is the title.

    Raises:
        InputError: ``id`` or ``contents`` is missing or empty; begins with ``where``.
    """
    for key in ("id", "contents"):
        if row.get(key) in (None, ""):
            raise InputError(f'{where}: "{key}" is missing; each line needs an "id" and "contents"')
    contents, title = str(row["contents"]), row.get("title")
    if title is None:
        first_line, newline, _ = contents.partition("\n")
        title = first_line.strip().strip('"') if newline else ""
    doc_id = row.get("doc_id")
    return Document(str(row["id"]), str(title), contents, None if doc_id is None else str(doc_id))


class Corpus:
    """Documents in file order. ``fingerprint`` names the file's bytes: what was built from others does not fit."""

    def __init__(self, path: Path) -> None:
        """Read and check the whole file.

        Raises:
            InputError: a line is no JSON object, lacks ``id`` or ``contents`` or repeats an id, or there is no line.
        """
        self.path = path
        self.documents: list[Document] = []
        self._row_of: dict[str, int] = {}
        self._rows_of_article: dict[str, int] = {}
        for number, values in progress(jsonl.read(path), desc="reading the corpus", unit="doc"):
            document = parse_document(values, f"{path}, line {number}")
            if self._row_of.setdefault(document.id, len(self.documents)) != len(self.documents):
                raise InputError(f'{path}, line {number}: id "{document.id}" is used before; ids must be unique')
            self.documents.append(document)
            self._rows_of_article[document.article] = self._rows_of_article.get(document.article, 0) + 1
        if not self.documents:
            raise InputError(f"{path} holds no document; each line is a JSON object with id, title and contents")
        with path.open("rb") as file:
            self.fingerprint = hashlib.file_digest(file, "sha256").hexdigest()

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.documents)

    def __getitem__(self, row: int) -> Document:
        """Return the document on a row, counted from 0."""
        return self.documents[row]

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents in file order."""
        return iter(self.documents)

    def row(self, document_id: str) -> int:
        """Return the row of an id.

        Raises:
            InputError: the corpus has no such id.
        """
        try:
            return self._row_of[document_id]
        except KeyError:
            raise InputError(f'{self.path} has no document with id "{document_id}"') from None

    def get(self, document_id: str) -> Document:
        """Return the document of an id.

        Raises:
            InputError: the corpus has no such id.
        """
        return self[self.row(document_id)]

    def chunks(self, article: str) -> int:
        """Return how many documents are chunks of an article (1 where documents are whole)."""
        return self._rows_of_article[article]

    def sample(self, rng: random.Random, min_length: int = 0) -> Iterator[Document]:
        """Yield the documents of at least ``min_length`` characters in an order that ``rng`` shuffles, each once."""
        rows = list(range(len(self)))
        rng.shuffle(rows)
        return (self[row] for row in rows if len(self[row].contents) >= min_length)


def sources_of(corpus: Corpus, ids_file: str | None, rng: random.Random, min_length: int) -> Iterator[Document]:
    """Yield source documents: those of a file of ids, in its order, else sampled by ``rng``.

    Args:
        corpus: where the documents are.
        ids_file: one id on each line; blank lines are passed over. None samples.
        rng: decides the order of a sample.
        min_length: characters that a sampled document has at least.

    Raises:
        InputError: the file is not there, holds no id, or one that the corpus does not have.
    """
    if ids_file is None:
        return corpus.sample(rng, min_length)
    path = find_input(ids_file, "document ids", "write one with sample_doc_ids.py")
    ids = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not ids:
        raise InputError(f"{path} holds no document id; write one on each line")
    return iter([corpus.get(document_id) for document_id in ids])
