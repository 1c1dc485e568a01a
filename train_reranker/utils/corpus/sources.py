"""Source documents: listed in a file of ids, or a seeded sample."""

import hashlib
import random
from collections.abc import Iterator

from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.files import find_input
from utils.schema import Document


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
    """Yield the documents of a file of ids, in its order; without one, a sample as :meth:`Corpus.sample` draws it.

    ``InputError`` as for :func:`read_ids`, or if the corpus lacks an id.
    """
    if ids_file is None:
        return corpus.sample(rng, min_length)
    try:
        return iter([corpus.get(document_id) for document_id in read_ids(ids_file)])
    except InputError as error:
        raise InputError(
            f"document ids {ids_file}: {error}; `python -m tools.sample_doc_ids` writes those of a corpus"
        ) from None
