"""The vector index in FAISS: a file that is built once and memory-mapped."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.files import write_json
from utils.progress import log
from utils.retrieval import faiss_files
from utils.retrieval.corpus_vectors import Rows, VectorFile, encode_rows
from utils.retrieval.encoder import Encoder

LISTS_PER_PROBE = 32
SEARCH_PARAMETER = re.compile(r"\w+=0*[1-9]\d*(\.\d+)?")


@dataclass(frozen=True)
class FaissOptions:
    """How to build and search a FAISS index."""

    factory: str = faiss_files.FLAT  # FAISS's name of the type to build
    search_params: str | None = None  # as FAISS writes them, "nprobe=64" or "efSearch=128"
    gpu: bool = False  # search on the visible GPUs
    seed: int = 0  # decides which vectors the index is trained on


class FaissIndex:
    """A FAISS inner-product index whose row i is the corpus's row i."""

    def __init__(
        self, index: Any, encode: Callable[[Rows], np.ndarray], *, search_params: str | None = None, gpu: bool = False
    ) -> None:
        """Wrap a loaded FAISS index, with options as in :class:`FaissOptions`; ``InputError`` if it does not know them.

        ``encode`` returns the vectors of rows, for an index that keeps only approximations.
        """
        import faiss

        self.index, self._encode, self.exact = index, encode, faiss_files.keeps_vectors(index)
        lists = faiss_files.inverted_lists(index)  # FAISS itself searches one of them, and misses most neighbours
        self.search_params = search_params or (f"nprobe={max(1, lists // LISTS_PER_PROBE)}" if lists else None)
        if not self.exact:
            log.info("the index keeps approximations: the vectors of candidates are encoded, a batch at a time")
        self._searched = on_gpus(index) if gpu else index
        if not (params := self.search_params):
            return
        space: Any = faiss.ParameterSpace() if self._searched is index else faiss.GpuParameterSpace()
        try:
            # FAISS takes nprobe=0 and nprobe=4;5, and finds nothing, or anything.
            if not all(SEARCH_PARAMETER.fullmatch(part) for part in re.split("[ ,]+", params)):
                raise RuntimeError("not a list of name=number")
            space.set_index_parameters(self._searched, params)
        except RuntimeError:
            remedy = "write nprobe=64 for an IVF, efSearch=128 for an HNSW, and leave it out for Flat"
            problem = f"{params!r} does not suit an {type(index).__name__}"
            raise InputError(f"faiss_search_params: {problem}; {remedy}") from None

    @property
    def settings(self) -> dict[str, Any]:
        """The type of the index and how it is searched."""
        return {"index": type(self.index).__name__, "search_params": self.search_params}

    def search(self, queries: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Search as :meth:`Index.search` does, in all lists of an inverted file where the usual ones hold too few."""
        n = min(n, self.index.ntotal)
        scores, rows = self._searched.search(queries, n)
        short = np.flatnonzero((rows < 0).any(1))
        if short.size and (ivf := faiss_files.inverted_file(self.index)):
            nprobe, ivf.nprobe = ivf.nprobe, ivf.nlist
            try:
                scores[short], rows[short] = self.index.search(queries[short], n)
            finally:
                ivf.nprobe = nprobe
        return scores, rows

    def vectors(self, rows: Rows) -> np.ndarray:
        """Return the vectors of rows, out of the index or encoded in one batch, shape (rows, dimension)."""
        return self.index.reconstruct_batch(np.asarray(rows, dtype=np.int64)) if self.exact else self._encode(rows)


def on_gpus(index: Any) -> Any:
    """Return a copy of an index that is spread over the visible GPUs, or, where there are none, the index itself."""
    import faiss

    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        log.warning("faiss_gpu: this FAISS has no GPU to search on; searching on the CPU gives the same lists")
        return index
    options = faiss.GpuMultipleClonerOptions()
    options.shard = True
    return faiss.index_cpu_to_all_gpus(index, co=options)


def open_index(corpus: Corpus, encoder: Encoder, path: Path, options: FaissOptions | None = None) -> FaissIndex:
    """Map the index of a corpus, building it where it is missing or was built from something else.

    A file beside it, its stamp, says what it was built from. An index without one, as FlashRAG leaves it, is never
    overwritten, but checked once, which is noted in another file: ``InputError`` if it is not this corpus's.
    """
    options = options or FaissOptions()
    made_from: dict[str, Any] = {"corpus": corpus.fingerprint, "encoder": encoder.fingerprint}
    made_from |= {"documents": len(corpus), "dimension": encoder.dimension}
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        foreign = path.exists() and not path.with_name(f"{path.name}.json").exists()
        if not foreign:
            _build_unless_current(corpus, encoder, path, options, made_from)
    encode, loaded = partial(encode_rows, corpus, encoder), faiss_files.read_index(path, corpus, encoder)
    index = FaissIndex(loaded, encode, search_params=options.search_params, gpu=options.gpu)
    if foreign:
        note = path.with_name(path.name + ".checked.json")
        checked = made_from | {"size": path.stat().st_size, "changed": path.stat().st_mtime_ns}
        if _read_note(note) != checked:
            faiss_files.check_vectors(loaded, encode, path)
            with suppress(OSError):  # in a read-only folder it is checked each time
                write_json(note, checked)
    return index


def _build_unless_current(
    corpus: Corpus, encoder: Encoder, path: Path, options: FaissOptions, made_from: dict[str, Any]
) -> None:
    stamp, factory = path.with_name(f"{path.name}.json"), options.factory
    wanted = made_from | ({} if factory == faiss_files.FLAT else {"factory": factory, "seed": options.seed})
    if path.exists():
        found = _read_note(stamp)
        same = isinstance(found, dict) and found | {"seed": options.seed} == wanted  # but for the seed
        if found == wanted or (same and not faiss_files.depends_on_seed(factory, encoder.dimension, len(corpus))):
            return
        log.info("%s was built from another corpus, encoder or seed, or is of another type: building it again", path)
    faiss_files.make_empty(factory, encoder.dimension, len(corpus))  # fails before hours of encoding
    vectors = VectorFile(path.with_name(path.name + ".part"), made_from, len(corpus), encoder.dimension)
    vectors.fill(corpus, encoder)
    path.unlink(missing_ok=True)  # or a kill would leave the old index under the new stamp
    write_json(stamp, wanted)
    faiss_files.build_index(vectors, path, factory, options.seed)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one run at a time look at an index and build it; the others wait, and find it built."""
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another run is building %s: waiting for it", path)
        lock.acquire()
    except OSError:  # nobody builds in a read-only folder
        pass
    try:
        yield
    finally:
        lock.release()  # nothing where it is not held


def _read_note(path: Path) -> Any:
    """Return the JSON value of a file, None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
