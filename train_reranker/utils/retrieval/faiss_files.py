"""FAISS indexes: building one from a corpus's vectors, reading one, and checking one from elsewhere."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.progress import progress_bar
from utils.retrieval.corpus_vectors import Rows, VectorFile, blocks_of
from utils.retrieval.encoder import Encoder, off_unit_length

FLAT = "Flat"
TRAINING_VECTORS, TRAINING_VECTORS_PER_LIST = 100_000, 64
# Rows that are compared with their documents: if a hundredth of an index is misplaced, n rows drawn at random miss all
# of it with probability 0.99^n, which is 1% for 460.
PROBED = 460
SAME = 0.99  # cosine of one text's vectors in half and in full precision, at least
LONGEST = 1.5  # inner product of a vector of length 1 and its approximation, at most
REMEDY = "name an index of normalised vectors in method2index, or move this one away to have it built"


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
    """Return an untrained index of a type, by FAISS's name for it; ``InputError`` if it does not suit the documents."""
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
    refused = f"cannot be built over {documents} vectors of {dimension} dimensions"
    problem = str(error).rpartition(": ")[2] or "FAISS refuses it"
    remedy = "name another, such as Flat, HNSW32 or IVF4096,PQ64x4fs"
    return InputError(f"faiss_index_factory {factory!r} {refused} ({problem}): {remedy}")


def build_index(vectors: VectorFile, path: Path, factory: str, seed: int) -> None:
    """Build an index at ``path`` and delete the file of vectors; ``InputError`` if FAISS cannot, as with too few."""
    import faiss

    if factory == FLAT:
        vectors.move(path)
        return
    documents, dimension = vectors.shape
    index = make_empty(factory, dimension, documents)
    try:
        sample = np.random.default_rng(abs(seed)).choice(documents, min(documents, training_size(index)), replace=False)
        index.train(vectors.read(np.sort(sample)))
        for rows in progress_bar(blocks_of(documents), desc=f"building {factory}", unit="block"):
            index.add(vectors.read(rows))
    except RuntimeError as error:
        raise _cannot_be_built(factory, documents, dimension, error) from None
    temporary = path.with_name(f".{path.name}.tmp")
    faiss.write_index(index, str(temporary))
    temporary.replace(path)
    vectors.remove()


def training_size(index: Any) -> int:
    """Return how many vectors train an index at most: more for more inverted lists, 0 where it needs no training."""
    return 0 if index.is_trained else max(TRAINING_VECTORS, TRAINING_VECTORS_PER_LIST * inverted_lists(index))


def depends_on_seed(factory: str, dimension: int, documents: int) -> bool:
    """Return whether an index is trained on a sample, neither on nothing nor on all documents."""
    return 0 < training_size(make_empty(factory, dimension, documents)) < documents


def read_index(path: Path, corpus: Corpus, encoder: Encoder) -> Any:
    """Map an index file; ``InputError`` if it is no whole FAISS index by inner product that fits corpus and encoder."""
    import faiss

    if not path.is_file() or not os.access(path, os.R_OK):
        raise InputError(f"{path} is not a file that can be read: name another in method2index, or move it away")
    try:
        index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError:
        raise InputError(f"{path} is not a FAISS index of floats, or is truncated: {REMEDY}") from None
    if (index.ntotal, index.d) != (len(corpus), encoder.dimension):
        wanted = f"{corpus.path} has {len(corpus)} documents and {encoder.path} gives {encoder.dimension} dimensions"
        found = f"{path} holds {index.ntotal} vectors of {index.d} dimensions"
        raise InputError(f"{found}, but {wanted}: name the index that fits")
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise InputError(f"{path} compares by distance: name an index that compares by inner product")
    own_ids = InputError(f"{path} numbers its vectors by ids of its own: name an index in the corpus's order")
    if isinstance(index, faiss.IndexIDMap):
        if not np.array_equal(faiss.vector_to_array(index.id_map), np.arange(index.ntotal)):
            raise own_ids
        wrapper, index = index, faiss.downcast_index(index.index)
        index.referenced_objects = [wrapper]  # which frees what it wraps
    if keeps_vectors(index) and isinstance(index, faiss.IndexIVF):
        try:
            index.make_direct_map()
        except RuntimeError:
            raise own_ids from None
    return index


def check_vectors(index: Any, encode: Callable[[Rows], np.ndarray], path: Path) -> None:
    """Raise an ``InputError`` unless the vectors of an index without a stamp are those of the corpus's documents.

    All vectors that it keeps must be of length 1, and those of ``PROBED`` documents must be what the encoder gives.
    Approximations must be about as long, and closer to their own document than to most others.
    """
    exact, rows = keeps_vectors(index), np.arange(index.ntotal)
    for block in blocks_of(index.ntotal) if exact else ():
        _check_lengths(index, block, path)
    if len(rows) > PROBED:
        rows = np.sort(np.random.default_rng(0).choice(rows, PROBED, replace=False))
    similarity = probe(index, rows, encode(rows))
    own = similarity.diagonal()
    bad = own < SAME
    if not exact:
        if (long := own > LONGEST).any():
            product = f"inner product with its document's: {own[long][0]:.2f}"
            raise InputError(f"{path}: the vector of row {rows[long][0]} is not of length 1 ({product}): {REMEDY}")
        # Some texts may be closer to a coarse approximation than its own; half of them are closer to a misplaced one,
        # so that three in four of those are found. Zeros are equally close to all.
        bad = ((similarity > own + 1 - SAME).sum(0) > len(rows) / 4) | ~(np.abs(own) > 0)
    if bad.any():
        row = rows[np.argmin(np.where(bad, own, np.inf))]
        raise InputError(
            f"{path} was built by another encoder or from another corpus: {bad.sum()} of {len(rows)} vectors are not "
            f"those of their documents (row {row}: similarity {own[rows == row][0]:.2f}); name the index that fits, or "
            "set model2pooling, passage_instruction and retrieval_query_max_length to what it was built with"
        )


def _check_lengths(index: Any, rows: range, path: Path) -> None:
    try:
        off = np.flatnonzero(off_unit_length(index.reconstruct_batch(np.asarray(rows))))
    except RuntimeError:  # an inverted file drops a vector of NaN
        raise InputError(f"{path} has no vector for a row from {rows.start} to {rows[-1]}: {REMEDY}") from None
    if off.size:
        problem = "is not of length 1, so that inner products are not similarities"
        raise InputError(f"{path}: the vector of row {rows.start + off[0]} {problem}: {REMEDY}")


def probe(index: Any, rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the inner product of each of ``vectors``, (R, D), with what an index holds in each of ``rows``, (R, R)."""
    import faiss

    if keeps_vectors(index) or not (ivf := inverted_file(index)):
        held: np.ndarray = index.reconstruct_batch(rows)
        return vectors @ held.T
    # FAISS 1.15 crashes when a fast-scan index that was read reconstructs: search all lists for these rows alone.
    untyped: Any = faiss
    params = untyped.SearchParametersIVF(sel=faiss.IDSelectorBatch(rows), nprobe=ivf.nlist)
    if isinstance(index, faiss.IndexPreTransform):
        params = untyped.SearchParametersPreTransform(index_params=params)
    scores, found = index.search(vectors, len(rows), params=params)
    similarity = np.full((len(rows), len(rows) + 1), -np.inf, np.float32)  # the last column takes -1, not found
    np.put_along_axis(similarity, np.where(found < 0, len(rows), np.searchsorted(rows, found)), scores, 1)
    return similarity[:, :-1]
