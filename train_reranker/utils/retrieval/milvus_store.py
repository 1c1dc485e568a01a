"""The vector index in Milvus: a file (Milvus Lite, in this process) or the address of a server or cluster."""

import hashlib
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from utils.corpus.documents import Corpus
from utils.errors import InputError, RunError
from utils.retrieval.corpus_vectors import Rows, blocks_of, encode_blocks
from utils.retrieval.encoder import Encoder

ROW, VECTOR = "row", "vector"
# The parameters of each index type when it is built and when it is searched, all whole numbers: Milvus Lite ignores
# unknown ones. Other types are left to Milvus.
PARAMETERS: dict[str, tuple[set[str], set[str]]] = {
    "FLAT": (set(), set()), "HNSW": ({"M", "efConstruction"}, {"ef"}),
    "IVF_FLAT": ({"nlist"}, {"nprobe"}), "IVF_SQ8": ({"nlist"}, {"nprobe"}),
}  # fmt: skip
ROWS_PER_UPSERT = 512  # Milvus refuses messages of more than 64 MB
TIMEOUT, LONG_TIMEOUT = 60, 3600  # seconds for an answer, and for requests that load or write many vectors


def connect(uri: str, token: str | None = None) -> Any:
    """Return a client of the Milvus at ``uri``, creating the folder that a file is in; else ``InputError``."""
    os.environ.pop("MILVUS_URI", None)  # pymilvus reads it on import, and fails at a file's name
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its threads tell stderr of each idle connection that ends
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError:
        raise InputError("vector_store milvus needs pymilvus: pip install -r requirements.txt") from None
    # They log tracebacks of errors that are raised here anyway, or harmless.
    for noisy in ("grpc", "milvus_lite", "pymilvus"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    is_file = "://" not in uri and not uri.startswith("unix:")
    if is_file:
        _prepare_file(uri)
    try:
        return MilvusClient(uri, token=token or "", timeout=10)
    except (MilvusException, OSError, ValueError) as error:
        refused = f"cannot be opened ({first_line(error)}); start the server, or correct the address"
        raise InputError(f"milvus_uri {uri}: {_why_not(uri) if is_file else refused}") from None


def _prepare_file(uri: str) -> None:
    if not uri.endswith(".db") or os.path.isfile(uri):
        problem = "Milvus Lite keeps its vectors in a folder whose name ends in .db"
        remedy = "name one that is not a file, such as vectors.db, or a server's address, http://localhost:19530"
        raise InputError(f"milvus_uri {uri}: {problem}: {remedy}")
    try:
        Path(uri).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"milvus_uri {uri}: {error.strerror}; name a folder that can be written") from None


def _why_not(file: str) -> str:
    """Return why Milvus Lite does not open a file, which pymilvus keeps to itself, and the remedy."""
    try:
        from milvus_lite import MilvusLite
        from milvus_lite.exceptions import DataDirLockedError
    except ImportError:
        return "a file needs milvus-lite: pip install -r requirements.txt"
    try:
        MilvusLite(file).close()
    except DataDirLockedError:
        return "another process has it open: wait for it, name another file, or start a server for several"
    except Exception as error:  # damaged files raise anything
        return f"Milvus Lite cannot open it ({first_line(error)}); name another, or move it away"
    return "Milvus Lite does not start; run again"


def ask(call: Any, *args: Any, timeout: float = TIMEOUT, **kwargs: Any) -> Any:
    """Call a method of a client; ``RunError`` if Milvus refuses, or does not answer within ``timeout`` seconds."""
    from pymilvus.exceptions import MilvusException

    try:
        return call(*args, timeout=timeout, **kwargs)
    except (MilvusException, TypeError, ValueError) as error:  # pymilvus checks some values by converting them
        raise RunError(f"Milvus failed ({first_line(error)}); what is loaded is kept, run again to resume") from error


def first_line(error: BaseException | None) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    message = str(getattr(error, "message", "") or error).strip()
    return message.splitlines()[0] if message else type(error).__name__


@dataclass(frozen=True)
class MilvusOptions:
    """How to reach, build and search a collection."""

    token: str | None = field(default=None, repr=False)  # of the server: "user:password" or a key
    index: Mapping[str, Any] = field(default_factory=lambda: {"index_type": "FLAT"})
    search_params: Mapping[str, Any] = field(default_factory=dict)  # of that index type, {"ef": 128}

    def __post_init__(self) -> None:
        """Raise an ``InputError`` if the index has no type, or a parameter does not suit it."""
        kind, params = self.index.get("index_type"), self.index.get("params") or {}
        if not isinstance(kind, str) or not isinstance(params, Mapping) or "metric_type" in self.index:
            needed = "an index_type and its params, such as {index_type: HNSW, params: {M: 32}}"
            raise InputError(f"milvus_index must name {needed}, and no metric_type: vectors are compared by IP")
        if kind in PARAMETERS:
            _check_params("milvus_index: params", kind, params, PARAMETERS[kind][0])
            _check_params("milvus_search_params", kind, self.search_params, PARAMETERS[kind][1])


def _check_params(key: str, kind: str, params: Mapping[str, Any], known: set[str]) -> None:
    for name, value in params.items():
        if name not in known or type(value) is not int or value < 1:
            takes = f"{' and '.join(sorted(known))}, at least 1" if known else "none"
            raise InputError(f"{key}: {name}: {value!r} does not suit {kind}, which takes {takes}")


class MilvusIndex:
    """A Milvus collection that holds all rows of the corpus, by row as primary key."""

    def __init__(self, client: Any, name: str, options: MilvusOptions) -> None:
        """Wrap a collection of a connected ``pymilvus.MilvusClient``."""
        self._client, self._name = client, name
        self._type, self._params = options.index["index_type"], dict(options.search_params)

    @property
    def settings(self) -> dict[str, Any]:
        """The type of the index and how it is searched."""
        return {"index": self._type, "search_params": self._params}

    def search(self, queries: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows of the ``n`` nearest to each query, as :meth:`Index.search` does."""
        params = {"metric_type": "IP", "params": self._params}
        wanted: dict[str, Any] = {"limit": n, "anns_field": VECTOR, "output_fields": [ROW], "search_params": params}
        hits = ask(self._client.search, self._name, data=list(queries), **wanted)
        scores, rows = np.full((len(queries), n), -np.inf, np.float32), np.full((len(queries), n), -1)
        for i, found in enumerate(hits):
            scores[i, : len(found)] = [hit["distance"] for hit in found]
            rows[i, : len(found)] = [hit[ROW] for hit in found]
        return scores, rows

    def vectors(self, rows: Rows) -> np.ndarray:
        """Return the vectors of rows as they were loaded, float32 of shape (rows, dimension), in one request."""
        wanted = [int(row) for row in rows]
        found = ask(self._client.get, self._name, ids=wanted, output_fields=[ROW, VECTOR])
        vector_of = {hit[ROW]: hit[VECTOR] for hit in found}
        if lacking := set(wanted) - vector_of.keys():
            raise RunError(f"Milvus has no vector of row {min(lacking)}: drop collection {self._name} to load it again")
        return np.array([vector_of[row] for row in wanted], dtype=np.float32)


def open_milvus(corpus: Corpus, encoder: Encoder, uri: str, options: MilvusOptions | None = None) -> MilvusIndex:
    """Open a corpus's collection, loading the rows that it lacks.

    Its name comes from corpus, encoder and index, so that others never meet its vectors. ``uri`` is a file, which
    Milvus Lite keeps, or a server's address, ``http://host:19530``: ``InputError`` if it cannot be opened or refuses
    the options, ``RunError`` if it fails later.
    """
    options = options or MilvusOptions()
    client = connect(uri, options.token)
    made_from = f"{corpus.fingerprint} {encoder.fingerprint} {sorted(options.index.items())}"
    name = f"corpus_{hashlib.sha256(made_from.encode()).hexdigest()[:24]}"
    if not ask(client.has_collection, name):
        _try(client, f"{name}_trial", encoder.dimension, options)
        _create(client, name, encoder.dimension, options.index)
    _fill(client, name, corpus, encoder)
    _load(client, name)
    opened = MilvusIndex(client, name, options)
    _check_search(opened, encoder.dimension)
    return opened


def _create(client: Any, name: str, dimension: int, index: Mapping[str, Any]) -> None:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False)
    schema.add_field(ROW, DataType.INT64, is_primary=True)
    schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=dimension)
    parameters = client.prepare_index_params()
    parameters.add_index(VECTOR, metric_type="IP", **index)
    ask(client.create_collection, name, schema=schema, index_params=parameters, consistency_level="Strong")


def _try(client: Any, name: str, dimension: int, options: MilvusOptions) -> None:
    """Build and search the index over one vector, before hours of encoding: ``InputError`` if Milvus refuses it."""
    try:
        ask(client.drop_collection, name)  # a killed run may have left it
        _create(client, name, dimension, options.index)
        ask(client.upsert, name, [{ROW: 0, VECTOR: [1.0] + [0.0] * (dimension - 1)}])
        ask(client.flush, name)
        ask(client.release_collection, name)
        _load(client, name)
    except RunError as error:
        refused = f"milvus_index {dict(options.index)} cannot be built ({first_line(error.__cause__)})"
        raise InputError(f"{refused}: name another, such as {{index_type: FLAT}}") from None
    else:
        _check_search(MilvusIndex(client, name, options), dimension)
    finally:
        with suppress(RunError):
            ask(client.drop_collection, name)


def _check_search(index: MilvusIndex, dimension: int) -> None:
    """Search once: ``InputError`` if Milvus refuses the search parameters."""
    try:
        index.search(np.eye(1, dimension, dtype=np.float32), 1)
    except RunError as error:
        kind, params = index.settings.values()
        refused = f"milvus_search_params {params}: a search of {kind} fails ({first_line(error.__cause__)})"
        raise InputError(f"{refused}: correct them, or leave them out") from None


def _fill(client: Any, name: str, corpus: Corpus, encoder: Encoder) -> None:
    """Encode and upsert the blocks that are incomplete, in order: the number of rows shows where to resume."""
    loaded = ask(client.query, name, filter="", output_fields=["count(*)"])[0]["count(*)"]
    left = [rows for rows in blocks_of(len(corpus)) if rows.stop > loaded]
    if not left:
        return
    for rows, vectors in zip(left, encode_blocks(corpus, encoder, left), strict=True):
        entities = [{ROW: row, VECTOR: vector} for row, vector in zip(rows, vectors, strict=True)]
        for start in range(0, len(entities), ROWS_PER_UPSERT):
            ask(client.upsert, name, entities[start : start + ROWS_PER_UPSERT], timeout=LONG_TIMEOUT)
    ask(client.flush, name, timeout=LONG_TIMEOUT)


def _load(client: Any, name: str) -> None:
    """Load a collection, retrying: Milvus Lite writes indexes in the background and may read half of one."""
    for wait in (0.1, 0.3, 0.9, None):
        try:
            ask(client.load_collection, name, timeout=LONG_TIMEOUT)
            return
        except RunError:
            if wait is None:
                raise
            time.sleep(wait)
