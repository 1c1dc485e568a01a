"""The corpus: a file of documents, looked up by id or row without being held in memory, and sampled."""

import hashlib
import math
import os
import random
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from utils.corpus.conversion import as_jsonl
from utils.corpus.offsets import open_offsets, read_document
from utils.errors import InputError
from utils.files import find_input
from utils.schema import Document

SAMPLED_AT_ONCE = 1024


class Corpus:
    """Documents in file order, read from the file when they are asked for: memory does not grow with it."""

    def __init__(self, path: Path) -> None:
        """Open the file through its offset index; the first time, :func:`offsets.build` checks every line.

        Other formats than JSON Lines are converted before; ``path`` is then the conversion's.
        """
        self.path = as_jsonl(path)
        self._offsets = open_offsets(self.path)
        self._file = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self._size = os.fstat(self._file).st_size

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the file."""
        return self._offsets.fingerprint

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self._offsets.columns.offset)

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

    def __contains__(self, document_id: str) -> bool:
        """Tell whether a document has this id."""
        return any(self[row].id == document_id for row in self._offsets.rows(document_id))

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
        chosen: np.ndarray = (columns.length[rows] >= max(min_length, 0)) & (columns.text[rows] == rows)
        return chosen

    def _find(self, document_id: str) -> tuple[int, Document]:
        for row in self._offsets.rows(document_id):
            document = self[row]
            if document.id == document_id:
                return row, document
        raise InputError(f'{self.path} has no document with id "{document_id}"')


def shuffled(count: int, rng: random.Random) -> Iterator[np.ndarray]:
    """Yield 0 to ``count`` - 1 in an order that ``rng`` decides, in arrays of at most ``SAMPLED_AT_ONCE``.

    A Feistel network over the numbers as two digits (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002)
    with random tables as its four round functions: memory, and time to the first number, grow with sqrt(``count``).
    """
    side = math.isqrt(count - 1) + 1
    tables = [np.array([rng.randrange(side) for _ in range(side)]) for _ in range(4)]
    for start in range(0, side * side, SAMPLED_AT_ONCE):
        left, right = np.divmod(np.arange(start, min(start + SAMPLED_AT_ONCE, side * side)), side)
        for table in tables:
            left, right = right, (left + table[right]) % side
        numbers = left * side + right
        yield numbers[numbers < count]


def read_ids(ids_file: str) -> list[str]:
    """Return the different ids of a file, one per line; ``InputError`` if there is none or it is not UTF-8 text."""
    path = find_input(ids_file, "document ids", "write one with `python -m tools.sample_doc_ids`")
    try:
        lines = [line.strip().removeprefix("\ufeff") for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text ({error}): name a file of ids, one per line") from None
    if not (ids := list(dict.fromkeys(filter(None, lines)))):
        raise InputError(f"{path} holds no document id: write one per line")
    return ids


def ids_fingerprint(ids_file: str) -> str:
    """Return the SHA-256 of the ids that :func:`read_ids` returns."""
    return hashlib.sha256("\n".join(read_ids(ids_file)).encode()).hexdigest()


def count_sources(corpus: Corpus, ids_file: str | None, min_length: int) -> int:
    """Return how many documents :func:`sources_of` yields, without reading them."""
    return corpus.count(min_length) if ids_file is None else len(read_ids(ids_file))


def sources_of(corpus: Corpus, ids_file: str | None, rng: random.Random, min_length: int) -> Iterator[Document]:
    """Yield a file's documents in its order (``InputError`` if one is missing), else those of :meth:`Corpus.sample`."""
    if ids_file is None:
        return corpus.sample(rng, min_length)
    try:
        return iter([corpus.get(document_id) for document_id in read_ids(ids_file)])
    except InputError as error:
        remedy = "`python -m tools.sample_doc_ids` writes those of a corpus"
        raise InputError(f"document ids {ids_file}: {error}; {remedy}") from None
