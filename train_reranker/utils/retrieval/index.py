"""The vector index: what the arms ask of one, and FAISS's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from utils import jsonl
from utils.cli import InputError, log, progress_bar
from utils.corpus import Corpus
from utils.retrieval.encoder import PASSAGE, Encoder
from utils.retrieval.encoding import VectorFile, blocks_of

Rows = Sequence[int] | np.ndarray
FLAT = "Flat"
TRAINING_VECTORS = 100_000
TRAINING_VECTORS_A_LIST = 64


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
        if self.exact and isinstance(index, faiss.IndexIVF):
            index.make_direct_map()
        if not self.exact:
            log.info("the index keeps approximations: the vectors of candidates are encoded, a batch at a time")
        self._searched = on_gpus(index) if gpu else index
        if self.search_params:
            space: Any = faiss.GpuParameterSpace() if self._searched is not index else faiss.ParameterSpace()
            try:
                space.set_index_parameters(self._searched, self.search_params)
            except RuntimeError:
                kind = type(index).__name__
                raise InputError(f"faiss_search_params: {self.search_params!r} does not suit an {kind}") from None

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
    import faiss

    try:
        return f"nprobe={max(1, faiss.extract_index_ivf(index).nlist // 32)}"
    except RuntimeError:
        return None


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
    it is taken as it is if its size and dimension fit and it finds the corpus's documents by their own vectors.

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
            vectors = VectorFile(path.with_name(path.name + ".part"), made_from, len(corpus), encoder.dimension)
            vectors.fill(corpus, encoder)
            path.unlink(missing_ok=True)  # or a kill would leave the old index under the new stamp
            jsonl.write_json(stamp, wanted)
            finish_index(vectors, path, factory, seed)

    def encode(rows: Rows) -> np.ndarray:
        return encoder.encode([corpus[row].text for row in rows], PASSAGE)

    loaded = read_index(path, corpus, encoder)
    index = FaissIndex(loaded, encode, search_params=search_params, gpu=gpu)
    if foreign:
        check_encoder(index, encode, path, len(corpus))
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

    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError:
        raise InputError(f"{path} is no FAISS index, or cut short: delete it, and it is built again") from None
    if (index.ntotal, index.d) != (len(corpus), encoder.dimension):
        raise InputError(
            f"{path} holds {index.ntotal} vectors of {index.d} dimensions, but {corpus.path} has {len(corpus)} "
            f"documents and {encoder.path} gives {encoder.dimension} dimensions: name the index that fits"
        )
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise InputError(f"{path} compares by distance: name an index that compares by inner product")
    return index


def check_encoder(index: FaissIndex, encode: Callable[[Rows], np.ndarray], path: Path, documents: int) -> None:
    """Look up a few documents by their own vectors in an index that does not say what it was built from.

    Raises:
        InputError: most do not find themselves.
    """
    rows = np.unique(np.linspace(0, documents - 1, 16).astype(int))
    _, found = index.search(encode(rows), max(1, min(10, documents // 100)))
    if (found == rows[:, None]).any(axis=1).mean() < 0.5:
        raise InputError(f"{path} was built by another encoder or from another corpus: name the index that fits")


def finish_index(vectors: VectorFile, path: Path, factory: str, seed: int) -> None:
    """Make an index of a type out of all vectors, put it at ``path`` and delete what it was made from.

    Raises:
        InputError: FAISS does not know the type, or there are too few vectors to train it.
    """
    import faiss

    if factory == FLAT:
        vectors.move(path)
        return
    try:
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        index.train(training_vectors(vectors, index, seed))
        for rows in progress_bar(blocks_of(vectors.shape[0]), desc=f"building {factory}", unit="block"):
            index.add(vectors.read(rows))
    except RuntimeError as error:
        problem = str(error).rpartition(": ")[2] or "FAISS refuses it"
        raise InputError(
            f"faiss_index_factory {factory!r} cannot be built over {vectors.shape[0]} vectors of {vectors.shape[1]} "
            f"dimensions ({problem}): name another, as Flat, HNSW32 or IVF4096,PQ64x4fs"
        ) from None
    temporary = path.with_name(f".{path.name}.tmp")
    faiss.write_index(index, str(temporary))
    temporary.replace(path)
    vectors.remove()


def training_vectors(vectors: VectorFile, index: Any, seed: int) -> np.ndarray:
    """Return a seeded sample of vectors, float32 of shape (vectors, dimension), larger for more inverted lists."""
    import faiss

    try:
        lists = faiss.extract_index_ivf(index).nlist
    except RuntimeError:
        lists = 0
    documents = vectors.shape[0]
    count = min(documents, max(TRAINING_VECTORS, TRAINING_VECTORS_A_LIST * lists))
    return vectors.read(np.sort(np.random.default_rng(abs(seed)).choice(documents, count, replace=False)))
