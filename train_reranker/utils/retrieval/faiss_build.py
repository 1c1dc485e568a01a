"""Types of FAISS index, and building one from a corpus's vectors."""

from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import InputError
from utils.progress import progress_bar
from utils.retrieval.vectors import VectorFile, blocks_of

FLAT = "Flat"
TRAINING_VECTORS = 100_000
TRAINING_VECTORS_PER_LIST = 64


def keeps_vectors(index: Any) -> bool:
    """Return whether an index holds the vectors as they were added; quantizers hold approximations."""
    import faiss

    exact = (faiss.IndexFlat, faiss.IndexHNSWFlat, faiss.IndexNSGFlat, faiss.IndexIVFFlat, faiss.IndexRefineFlat)
    return isinstance(index, exact)


def inverted_file(index: Any) -> Any:
    """Return the inverted file that an index is or wraps, None where there is none."""
    import faiss

    try:
        return faiss.extract_index_ivf(index)
    except RuntimeError:
        return None


def inverted_lists(index: Any) -> int:
    """Return how many inverted lists an index has, 0 where it is of another type."""
    return getattr(inverted_file(index), "nlist", 0)


def make_empty(factory: str, dimension: int, documents: int) -> Any:
    """Return an untrained index of a type, by FAISS's name for it.

    ``InputError`` if FAISS does not know the type, it has more inverted lists than there are documents, or it does not
    take vectors in order and compare them by inner product.
    """
    import faiss

    try:
        index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
        if (lists := inverted_lists(index)) > documents:
            raise RuntimeError(f": {lists} lists are more than there are vectors")
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:  # some types ignore the metric
            raise RuntimeError(": it compares by distance")
        if isinstance(index, faiss.IndexIDMap):
            raise RuntimeError(": it takes ids of its own")
    except RuntimeError as error:
        raise _cannot_be_built(factory, documents, dimension, error) from None
    return index


def _cannot_be_built(factory: str, documents: int, dimension: int, error: RuntimeError) -> InputError:
    problem = str(error).rpartition(": ")[2] or "FAISS refuses it"
    return InputError(
        f"faiss_index_factory {factory!r} cannot be built over {documents} vectors of {dimension} dimensions "
        f"({problem}): name another, such as Flat, HNSW32 or IVF4096,PQ64x4fs"
    )


def build_index(vectors: VectorFile, path: Path, factory: str, seed: int) -> None:
    """Build an index of a type from all vectors, put it at ``path`` and delete the file of vectors.

    ``InputError`` as for :func:`make_empty`, or if there are too few vectors to train it.
    """
    import faiss

    if factory == FLAT:
        vectors.move(path)
        return
    documents, dimension = vectors.shape
    index = make_empty(factory, dimension, documents)
    try:
        index.train(training_vectors(vectors, index, seed))
        for rows in progress_bar(blocks_of(documents), desc=f"building {factory}", unit="block"):
            index.add(vectors.read(rows))
    except RuntimeError as error:
        raise _cannot_be_built(factory, documents, dimension, error) from None
    temporary = path.with_name(f".{path.name}.tmp")
    faiss.write_index(index, str(temporary))
    temporary.replace(path)
    vectors.remove()


def training_vectors(vectors: VectorFile, index: Any, seed: int) -> np.ndarray:
    """Return a seeded sample of vectors, float32 of shape (vectors, dimension)."""
    documents = vectors.shape[0]
    count = min(documents, training_size(index))
    return vectors.read(np.sort(np.random.default_rng(abs(seed)).choice(documents, count, replace=False)))


def training_size(index: Any) -> int:
    """Return how many vectors train an index at most: more for more inverted lists, 0 where it needs no training."""
    return 0 if index.is_trained else max(TRAINING_VECTORS, TRAINING_VECTORS_PER_LIST * inverted_lists(index))


def depends_on_seed(factory: str, dimension: int, documents: int) -> bool:
    """Return whether an index is trained on a sample, neither on nothing nor on all documents."""
    return 0 < training_size(make_empty(factory, dimension, documents)) < documents
