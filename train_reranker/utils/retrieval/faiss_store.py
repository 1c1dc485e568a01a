"""The vector index: what the arms ask of one, and FAISS's."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.files import write_json
from utils.progress import log, progress_bar
from utils.retrieval.encoder import PASSAGE, Encoder, off_unit_length
from utils.retrieval.vectors import VectorFile, blocks_of

Rows = Sequence[int] | np.ndarray
FLAT = "Flat"
TRAINING_VECTORS = 100_000
TRAINING_VECTORS_A_LIST = 64
# Rows of an index from elsewhere that are compared with their documents: of n rows drawn, none is among a misplaced
# hundredth with probability 0.99^n, which is 1% for 460.
PROBED = 460
ELSE = "name an index of normalised vectors in method2index, or move this one away, and one is built"
SEARCH_PARAMETER = re.compile(r"\w+=0*[1-9]\d*(\.\d+)?")
SAME = 0.99  # cosine of one text's vectors in half and in full precision, at least
LONGEST = 1.5  # inner product of a vector of length 1 and its approximation, at most


class Index(Protocol):
    """Vectors of a corpus, row by row, compared by inner product."""

    @property
    def settings(self) -> dict[str, Any]:
        """What its lists depend on, beside corpus and encoder."""

    def search(self, queries: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows of the ``n`` nearest to each query, best first.

        Both are of shape (queries, n), or narrower where the corpus has fewer; a row of -1 is none.
        """

    def vectors(self, rows: Rows) -> np.ndarray:
        """Return the vectors of rows, float32 of shape (rows, dimension)."""


class FaissIndex:
    """A FAISS inner-product index whose row i is the corpus's row i."""

    def __init__(
        self,
        index: Any,
        encode: Callable[[Rows], np.ndarray],
        *,
        search_params: str | None = None,
        gpu: bool = False,
    ) -> None:
        """Wrap a loaded FAISS index.

        Args:
            index: as FAISS reads it.
            encode: gives the vectors of rows where the index has only approximations.
            search_params: as FAISS writes them, ``nprobe=64``; default: see :func:`usual_search_params`.
            gpu: search on the visible GPUs.

        Raises:
            InputError: the index does not know the search parameters.
        """
        import faiss

        self.index, self._encode = index, encode
        self.exact = keeps_vectors(index)
        self.search_params = search_params or usual_search_params(index)
        if not self.exact:
            log.info("the index keeps approximations: the vectors of candidates are encoded, a batch at a time")
        self._searched = on_gpus(index) if gpu else index
        if self.search_params:
            space: Any = faiss.GpuParameterSpace() if self._searched is not index else faiss.ParameterSpace()
            try:
                # FAISS takes nprobe=0 and nprobe=4;5, and finds nothing, or what it likes.
                if not all(SEARCH_PARAMETER.fullmatch(part) for part in re.split("[ ,]+", self.search_params)):
                    raise RuntimeError("no list of name=number")
                space.set_index_parameters(self._searched, self.search_params)
            except RuntimeError:
                kind = type(index).__name__
                raise InputError(
                    f"faiss_search_params: {self.search_params!r} does not suit an {kind}; write nprobe=64 for an IVF, "
                    "efSearch=128 for an HNSW, and leave it out for Flat"
                ) from None

    @property
    def settings(self) -> dict[str, Any]:
        """The type of the index and how it is searched."""
        return {"index": type(self.index).__name__, "search_params": self.search_params}

    def search(self, queries: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows of the ``n`` nearest to each query, both of shape (queries, n), best first."""
        return self._searched.search(queries, min(n, self.index.ntotal))

    def vectors(self, rows: Rows) -> np.ndarray:
        """Return the vectors of rows, out of the index or encoded in one batch, shape (rows, dimension)."""
        if not self.exact:
            return self._encode(rows)
        return self.index.reconstruct_batch(np.asarray(rows, dtype=np.int64))


def keeps_vectors(index: Any) -> bool:
    """Return whether an index holds the vectors as they were added; quantizers hold approximations."""
    import faiss

    whole = (faiss.IndexFlat, faiss.IndexHNSWFlat, faiss.IndexNSGFlat, faiss.IndexIVFFlat, faiss.IndexRefineFlat)
    return isinstance(index, whole)


def usual_search_params(index: Any) -> str | None:
    """Return how an index is searched unless told otherwise: one in 32 lists of an inverted file.

    FAISS itself looks into one list, which misses most neighbours.
    """
    lists = inverted_lists(index)
    return f"nprobe={max(1, lists // 32)}" if lists else None


def on_gpus(index: Any) -> Any:
    """Return a copy of an index that is spread over the visible GPUs, or, where there are none, the index itself."""
    import faiss

    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        log.warning(
            "faiss_gpu: the installed FAISS has no GPU to search on; searching on the CPU, the lists are the same"
        )
        return index
    options = faiss.GpuMultipleClonerOptions()
    options.shard = True
    return faiss.index_cpu_to_all_gpus(index, co=options)


def open_index(
    corpus: Corpus,
    encoder: Encoder,
    path: Path,
    factory: str = FLAT,
    *,
    search_params: str | None = None,
    gpu: bool = False,
    seed: int = 0,
) -> FaissIndex:
    """Map the index of a corpus, building it where it is missing or was built from another corpus or encoder.

    A file beside it says what it was built from. An index without one, as FlashRAG leaves it, is never overwritten:
    it is taken as it is if its size and dimension fit and its vectors are those of the corpus's documents. That is
    checked once, which another file beside it notes.

    Args:
        corpus: its documents, row by row.
        encoder: gives their vectors.
        path: where the index is or goes.
        factory: FAISS's name of the type to build.
        search_params: as FAISS writes them, ``nprobe=64`` or ``efSearch=128``.
        gpu: search on the visible GPUs.
        seed: decides which vectors an index is trained on.

    Raises:
        InputError: such an index does not fit or cannot be read, or FAISS cannot build this type.
    """
    stamp = path.with_name(path.name + ".json")
    made_from = {
        "corpus": corpus.fingerprint,
        "encoder": encoder.fingerprint,
        "documents": len(corpus),
        "dimension": encoder.dimension,
    }
    wanted = made_from | ({} if factory == FLAT else {"factory": factory, "seed": seed})
    path.parent.mkdir(parents=True, exist_ok=True)
    with _building(path):
        foreign = path.exists() and not stamp.exists()
        if not foreign and not (path.exists() and _read_stamp(stamp) == wanted):
            if path.exists():
                log.info("%s was built from another corpus or encoder, or is of another type: building it again", path)
            make_empty(factory, encoder.dimension, len(corpus))  # fails before hours of encoding
            vectors = VectorFile(path.with_name(path.name + ".part"), made_from, len(corpus), encoder.dimension)
            vectors.fill(corpus, encoder)
            path.unlink(missing_ok=True)  # or a kill would leave the old index under the new stamp
            write_json(stamp, wanted)
            finish_index(vectors, path, factory, seed)

    def encode(rows: Rows) -> np.ndarray:
        return encoder.encode([corpus[row].text for row in rows], PASSAGE)

    loaded = read_index(path, corpus, encoder)
    index = FaissIndex(loaded, encode, search_params=search_params, gpu=gpu)
    if foreign:
        checked = path.with_name(path.name + ".checked.json")
        probed = made_from | {"size": path.stat().st_size, "changed": path.stat().st_mtime_ns}
        if not checked.exists() or _read_stamp(checked) != probed:
            check_vectors(index, encode, path, len(corpus))
            with suppress(OSError):  # in a folder that cannot be written it is checked each time
                write_json(checked, probed)
    return index


@contextmanager
def _building(path: Path) -> Iterator[None]:
    """Let one run at a time look at an index and build it; the others wait, and find it built."""
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another run is building %s: waiting for it", path)
        lock.acquire()
    except OSError:  # in a folder that cannot be written nobody builds
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _read_stamp(stamp: Path) -> Any:
    try:
        return json.loads(stamp.read_text(encoding="utf-8"))
    except ValueError:
        return None


def read_index(path: Path, corpus: Corpus, encoder: Encoder) -> Any:
    """Map an index file into memory.

    Raises:
        InputError: it is no index, or not whole, does not compare by inner product, or its size or dimension does not
            fit corpus and encoder.
    """
    import faiss

    if not path.is_file() or not os.access(path, os.R_OK):
        raise InputError(f"{path} is no file that can be read: name another in method2index, or move it away")
    try:
        index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError:
        raise InputError(
            f"{path} is no FAISS index of floats, or is truncated: name another in method2index, or move this one "
            "away, and one is built"
        ) from None
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
        whole, index = index, faiss.downcast_index(index.index)
        index.referenced_objects = [whole]  # which frees what it wraps
    if keeps_vectors(index) and isinstance(index, faiss.IndexIVF):
        try:
            index.make_direct_map()
        except RuntimeError:
            raise own_ids from None
    return index


def check_vectors(index: FaissIndex, encode: Callable[[Rows], np.ndarray], path: Path, documents: int) -> None:
    """Compare the vectors of an index that does not say what it was built from with those of the corpus's documents.

    All that it keeps must be of length 1, and those of ``PROBED`` documents must be what the encoder gives. Where it
    keeps approximations, those of a document must be about as long, and nearer to it than to most others.

    Raises:
        InputError: they are not; names a row and what may be the reason.
    """
    for block in blocks_of(documents) if index.exact else []:
        try:
            off = np.flatnonzero(off_unit_length(index.vectors(block)))
        except RuntimeError:  # an inverted file drops a vector that is no number
            raise InputError(f"{path} has no vector for a row from {block.start} to {block[-1]}: {ELSE}") from None
        if off.size:
            raise InputError(
                f"{path}: the vector of row {block.start + off[0]} is not of length 1, so that inner products are no "
                f"similarities: {ELSE}"
            )
    rows = np.arange(documents)
    if documents > PROBED:
        rows = np.sort(np.random.default_rng(0).choice(documents, PROBED, replace=False))
    similarity = probe(index.index, rows, encode(rows))
    own = similarity.diagonal()
    # To a coarse approximation some texts may be nearer than its own; to another's vector half of them are: of those
    # in a wrong place three in four are found.
    bad = own < SAME
    if not index.exact:
        if (long := own > LONGEST).any():
            raise InputError(
                f"{path}: the vector of row {rows[long][0]} is not of length 1 (inner product with its document's: "
                f"{own[long][0]:.2f}): {ELSE}"
            )
        # Zeros are no more like one text than another.
        bad = ((similarity > own + 1 - SAME).sum(0) > len(rows) / 4) | ~(np.abs(own) > 0)
    if bad.any():
        row = rows[np.argmin(np.where(bad, own, np.inf))]
        raise InputError(
            f"{path} was built by another encoder or from another corpus: {bad.sum()} of {len(rows)} vectors are not "
            f"those of their documents (row {row}: similarity {own[rows == row][0]:.2f}); name the index that fits, or "
            "say what it was built with in model2pooling, passage_instruction and retrieval_query_max_length"
        )


def probe(index: Any, rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the inner product of each of ``vectors``, (R, D), with what an index holds in each of ``rows``, (R, R)."""
    import faiss

    if keeps_vectors(index) or not (ivf := inverted_file(index)):
        return vectors @ index.reconstruct_batch(rows).T
    # FAISS 1.15 crashes where a fast-scan index that was read is to reconstruct: search all lists for these rows alone.
    of_ivf: Any = faiss.SearchParametersIVF
    of_transformed: Any = faiss.SearchParametersPreTransform
    params = of_ivf(sel=faiss.IDSelectorBatch(rows), nprobe=ivf.nlist)
    if isinstance(index, faiss.IndexPreTransform):
        params = of_transformed(index_params=params)
    scores, found = index.search(vectors, len(rows), params=params)
    similarity = np.full((len(rows), len(rows) + 1), -np.inf, np.float32)  # the last column is for none, -1
    np.put_along_axis(similarity, np.where(found < 0, len(rows), np.searchsorted(rows, found)), scores, 1)
    return similarity[:, :-1]


def make_empty(factory: str, dimension: int, documents: int) -> Any:
    """Return an index of a type that is yet to be trained.

    Raises:
        InputError: FAISS does not know the type, it has more inverted lists than there are documents, or it does not
            take vectors in order and compare them by inner product.
    """
    import faiss

    try:
        index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
        if (lists := inverted_lists(index)) > documents:
            raise RuntimeError(f": {lists} lists are more than there are vectors")
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:  # which FAISS does not ask for in all types
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
        f"({problem}): name another, as Flat, HNSW32 or IVF4096,PQ64x4fs"
    )


def inverted_file(index: Any) -> Any:
    """Return the inverted file that an index is or wraps, None where it is of another kind."""
    import faiss

    try:
        return faiss.extract_index_ivf(index)
    except RuntimeError:
        return None


def inverted_lists(index: Any) -> int:
    """Return how many inverted lists an index has, 0 where it is of another kind."""
    ivf = inverted_file(index)
    return int(ivf.nlist) if ivf else 0


def finish_index(vectors: VectorFile, path: Path, factory: str, seed: int) -> None:
    """Make an index of a type out of all vectors, put it at ``path`` and delete what it was made from.

    Raises:
        InputError: FAISS does not know the type, or there are too few vectors to train it.
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
    """Return a seeded sample of vectors, float32 of shape (vectors, dimension), larger for more inverted lists."""
    documents = vectors.shape[0]
    count = min(documents, max(TRAINING_VECTORS, TRAINING_VECTORS_A_LIST * inverted_lists(index)))
    return vectors.read(np.sort(np.random.default_rng(abs(seed)).choice(documents, count, replace=False)))
