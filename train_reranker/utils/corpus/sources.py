"""Source documents: those of a file of ids, or a seeded sample."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.files import find_input
from utils.schema import Document


def read_ids(ids_file: str) -> list[str]:
    """Return the different ids of a file, one on each line; blank lines are passed over.

    Raises:
        InputError: the file is not there, or holds no id.
    """
    path = find_input(ids_file, "document ids", "write one with sample_doc_ids.py")
    try:
        lines = [line.strip().removeprefix("\ufeff") for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as text in UTF-8 ({error}): name a file of ids, one on each line"
        ) from None
    ids = list(dict.fromkeys(filter(None, lines)))
    if not ids:
        raise InputError(f"{path} holds no document id; write one on each line")
    return ids


def ids_fingerprint(ids_file: str) -> str:
    """Return the SHA-256 of the ids that :func:`read_ids` returns.

    Raises:
        InputError: as :func:`read_ids`.
    """
    return hashlib.sha256("\n".join(read_ids(ids_file)).encode()).hexdigest()


def count_sources(corpus: Corpus, ids_file: str | None, min_length: int) -> int:
    """Return how many documents :func:`sources_of` has for the same arguments, without reading them.

    Raises:
        InputError: as :func:`read_ids`.
    """
    return corpus.count(min_length) if ids_file is None else len(read_ids(ids_file))


def sources_of(corpus: Corpus, ids_file: str | None, rng: random.Random, min_length: int) -> Iterator[Document]:
    """Yield source documents: those of a file of ids, in its order, else sampled by ``rng``.

    Args:
        corpus: where the documents are.
        ids_file: one id on each line. None samples.
        rng: decides the order of a sample.
        min_length: characters that a sampled document has at least.

    Raises:
        InputError: as :func:`read_ids`, or the corpus does not have an id.
    """
    if ids_file is None:
        return corpus.sample(rng, min_length)
    try:
        return iter([corpus.get(document_id) for document_id in read_ids(ids_file)])
    except InputError as error:
        raise InputError(f"document ids {ids_file}: {error}; sample_doc_ids.py writes those of a corpus") from None
