"""The vector index in FAISS: a file that is built once and memory-mapped."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from utils.corpus.documents import Corpus
from utils.corpus.offsets import fingerprint
from utils.errors import InputError
from utils.files import file_state, locked, write_json
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

    A file beside it, its stamp, says what it was built from, and holds the hash of its contents. An index without one,
    as FlashRAG leaves it, is never overwritten, but checked once, which is noted in another file. ``InputError`` if it
    is not this corpus's, or no longer what was built.
    """
    options = options or FaissOptions()
    made_from: dict[str, Any] = {"corpus": corpus.fingerprint, "encoder": encoder.fingerprint}
    made_from |= {"documents": len(corpus), "dimension": encoder.dimension}
    encode, stamp = partial(encode_rows, corpus, encoder), path.with_name(f"{path.name}.json")
    with locked(path, log.info):
        if foreign := path.exists() and not stamp.exists():
            stamp = path.with_name(f"{path.name}.checked.json")
        else:
            _build_unless_current(corpus, encoder, path, options, made_from)
        loaded = faiss_files.read_index(path, corpus, encoder)
        _check(path, stamp, made_from, lambda: faiss_files.check_vectors(loaded, encode, path), foreign)
    return FaissIndex(loaded, encode, search_params=options.search_params, gpu=options.gpu)


def _check(path: Path, stamp: Path, made_from: dict[str, Any], check: Callable[[], object], foreign: bool) -> None:
    """Hold an index against its stamp: by size and times, by its hash where those have changed, else by ``check``."""
    noted, state = _read_note(stamp), file_state(path)
    same = noted | made_from == noted
    if same and noted.get("file") == state:
        return
    digest = fingerprint(path)
    if not same or noted.get("sha256") != digest:
        if not foreign and "sha256" in noted:
            changed = f"{path} is not what was built there, its contents have changed"
            remedy = f"to have it built again, or delete {stamp.name} if it is an index of your own"
            raise InputError(f"{changed}: move it away {remedy}")
        check()  # it comes from elsewhere, or from an earlier version, or a kill has left its stamp incomplete
    with suppress(OSError):  # in a read-only folder it is read each time
        write_json(stamp, noted | made_from | {"sha256": digest, "file": state})


def _build_unless_current(
    corpus: Corpus, encoder: Encoder, path: Path, options: FaissOptions, made_from: dict[str, Any]
) -> None:
    stamp, factory = path.with_name(f"{path.name}.json"), options.factory
    wanted = made_from | ({} if factory == faiss_files.FLAT else {"factory": factory, "seed": options.seed})
    if path.exists():
        noted = _read_note(stamp)
        found = {key: noted[key] for key in noted.keys() - {"sha256", "file"}}
        same = found | {"seed": options.seed} == wanted  # but for the seed
        if found == wanted or (same and not faiss_files.depends_on_seed(factory, encoder.dimension, len(corpus))):
            return
        log.info("%s was built from another corpus, encoder or seed, or is of another type: building it again", path)
    faiss_files.make_empty(factory, encoder.dimension, len(corpus))  # fails before hours of encoding
    vectors = VectorFile(path.with_name(path.name + ".part"), made_from, len(corpus), encoder.dimension)
    vectors.fill(corpus, encoder)
    path.unlink(missing_ok=True)  # or a kill would leave the old index under the new stamp
    write_json(stamp, wanted)
    faiss_files.build_index(vectors, path, factory, options.seed)
    write_json(stamp, wanted | {"sha256": fingerprint(path), "file": file_state(path)})


def _read_note(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file, an empty one where there is none."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}
