"""The corpus: a JSONL file of documents, looked up by id or row without being held in memory."""

import os
import random
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from utils.corpus.offsets import open_offsets, read_document
from utils.corpus.sampling import shuffled
from utils.errors import InputError
from utils.schema import Document


class Corpus:
    """Documents in file order, read from the file when they are asked for: memory does not grow with it."""

    def __init__(self, path: Path) -> None:
        """Open the file through its offset index; the first time, :func:`offsets.build` checks every line."""
        self.path = path
        self._offsets = open_offsets(path)
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self._size = os.fstat(self._file).st_size

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the file."""
        return self._offsets.fingerprint

    def __len__(self) -> int:
        """Return the number of documents."""
        return self._offsets.documents

    def __getitem__(self, row: int) -> Document:
        """Return the document on a row, counted from 0; ``IndexError`` if there is none."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        starts = self._offsets.columns.offset
        start = int(starts[row])
        end = int(starts[row + 1]) if row + 1 < len(self) else self._size
        return read_document(self.path, os.pread(self._file, end - start, start), row)

    @property
    def longest(self) -> int:
        """The length of the longest line, in bytes."""
        return int(np.diff(self._offsets.columns.offset, append=np.uint64(self._size)).max())

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents in file order."""
        return map(self.__getitem__, range(len(self)))

    def row(self, document_id: str) -> int:
        """Return the row of an id; ``InputError`` if the corpus lacks it."""
        return self._find(document_id)[0]

    def get(self, document_id: str) -> Document:
        """Return the document of an id; ``InputError`` if the corpus lacks it."""
        return self._find(document_id)[1]

    def chunks(self, row: int) -> int:
        """Return how many documents are chunks of a row's article (1 where documents are whole)."""
        return int(self._offsets.columns.chunks[row])

    def answering(self, source: int, rows: np.ndarray) -> np.ndarray:
        """Return the positions of those ``rows`` that may answer a query of the row ``source``, in their order.

        Left out are chunks of its article, and what has the text of the source or of an earlier row, up to white space.
        """
        columns = self._offsets.columns
        others = (columns.article[rows] != columns.article[source]) & (columns.text[rows] != columns.text[source])
        positions = np.flatnonzero(others)
        _, first = np.unique(columns.text[rows[positions]], return_index=True)
        return positions[np.sort(first)]

    def count(self, min_length: int = 0) -> int:
        """Return how many documents :meth:`sample` yields."""
        return int(self._sampled(np.arange(len(self)), min_length).sum())

    def sample(self, rng: random.Random, min_length: int = 0) -> Iterator[Document]:
        """Yield documents of at least ``min_length`` characters in an order that ``rng`` decides, each text once."""
        for rows in shuffled(len(self), rng):
            yield from (self[row] for row in rows[self._sampled(rows, min_length)].tolist())

    def _sampled(self, rows: np.ndarray, min_length: int) -> np.ndarray:
        """Return which rows are long enough and the first with their text, as booleans."""
        columns = self._offsets.columns
        return (columns.length[rows] >= max(min_length, 0)) & (columns.text[rows] == rows)

    def _find(self, document_id: str) -> tuple[int, Document]:
        for row in self._offsets.rows(document_id):
            document = self[row]
            if document.id == document_id:
                return row, document
        raise InputError(f'{self.path} has no document with id "{document_id}"')
