"""Reading a FAISS index, and checking one from elsewhere against the corpus."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.retrieval.encoder import Encoder, off_unit_length
from utils.retrieval.faiss_build import inverted_file, keeps_vectors
from utils.retrieval.vectors import Rows, blocks_of

# Rows that are compared with their documents: if a hundredth of an index is misplaced, n rows drawn at random miss all
# of it with probability 0.99^n, which is 1% for 460.
PROBED = 460
SAME = 0.99  # cosine of one text's vectors in half and in full precision, at least
LONGEST = 1.5  # inner product of a vector of length 1 and its approximation, at most
REMEDY = "name an index of normalised vectors in method2index, or move this one away to have it built"


def read_index(path: Path, corpus: Corpus, encoder: Encoder) -> Any:
    """Map an index file into memory.

    ``InputError`` if it is not a FAISS index, is truncated, does not compare by inner product, numbers its vectors by
    other ids than rows, or does not have the corpus's size and the encoder's dimension.
    """
    import faiss

    if not path.is_file() or not os.access(path, os.R_OK):
        raise InputError(f"{path} is not a file that can be read: name another in method2index, or move it away")
    try:
        index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError:
        raise InputError(f"{path} is not a FAISS index of floats, or is truncated: {REMEDY}") from None
    if (index.ntotal, index.d) != (len(corpus), encoder.dimension):
        raise InputError(
            f"{path} holds {index.ntotal} vectors of {index.d} dimensions, but {corpus.path} has {len(corpus)} "
            f"documents and {encoder.path} gives {encoder.dimension} dimensions: name the index that fits"
        )
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
    if exact:
        _check_lengths(index, path)
    if len(rows) > PROBED:
        rows = np.sort(np.random.default_rng(0).choice(rows, PROBED, replace=False))
    similarity = probe(index, rows, encode(rows))
    own = similarity.diagonal()
    bad = own < SAME
    if not exact:
        if (long := own > LONGEST).any():
            raise InputError(
                f"{path}: the vector of row {rows[long][0]} is not of length 1 (inner product with its document's: "
                f"{own[long][0]:.2f}): {REMEDY}"
            )
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


def _check_lengths(index: Any, path: Path) -> None:
    for block in blocks_of(index.ntotal):
        try:
            off = np.flatnonzero(off_unit_length(index.reconstruct_batch(np.arange(block.start, block.stop))))
        except RuntimeError:  # an inverted file drops a vector of NaN
            raise InputError(f"{path} has no vector for a row from {block.start} to {block[-1]}: {REMEDY}") from None
        if off.size:
            raise InputError(
                f"{path}: the vector of row {block.start + off[0]} is not of length 1, so that inner products are not "
                f"similarities: {REMEDY}"
            )


def probe(index: Any, rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the inner product of each of ``vectors``, (R, D), with what an index holds in each of ``rows``, (R, R)."""
    import faiss

    if keeps_vectors(index) or not (ivf := inverted_file(index)):
        return vectors @ index.reconstruct_batch(rows).T
    # FAISS 1.15 crashes when a fast-scan index that was read reconstructs: search all lists for these rows alone.
    of_ivf: Any = faiss.SearchParametersIVF
    of_transformed: Any = faiss.SearchParametersPreTransform
    params = of_ivf(sel=faiss.IDSelectorBatch(rows), nprobe=ivf.nlist)
    if isinstance(index, faiss.IndexPreTransform):
        params = of_transformed(index_params=params)
    scores, found = index.search(vectors, len(rows), params=params)
    similarity = np.full((len(rows), len(rows) + 1), -np.inf, np.float32)  # the last column takes -1, not found
    np.put_along_axis(similarity, np.where(found < 0, len(rows), np.searchsorted(rows, found)), scores, 1)
    return similarity[:, :-1]
