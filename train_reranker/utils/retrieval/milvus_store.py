"""The vector index in Milvus: a file (Milvus Lite, inside this process) or the address of a server or cluster."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from utils.corpus.documents import Corpus
from utils.errors import InputError, RunError
from utils.retrieval.encoder import Encoder
from utils.retrieval.faiss_store import Rows
from utils.retrieval.vectors import blocks_of, encode_blocks

FLAT_INDEX: Mapping[str, Any] = {"index_type": "FLAT"}
ROW, VECTOR = "row", "vector"
# What each index type may be told, when it is built and when it is searched, all whole numbers; Milvus Lite passes over
# what it does not know. Other types are left to Milvus.
PARAMETERS: dict[str, tuple[set[str], set[str]]] = {
    "FLAT": (set(), set()),
    "HNSW": ({"M", "efConstruction"}, {"ef"}),
    "IVF_FLAT": ({"nlist"}, {"nprobe"}),
    "IVF_SQ8": ({"nlist"}, {"nprobe"}),
}
PATIENCE, LONG_PATIENCE = 60, 3600  # seconds for an answer, and for what loads or writes many vectors
INSERTED_AT_ONCE = 512  # vectors; Milvus refuses messages of more than 64 MB


class MilvusIndex:
    """A Milvus collection whose primary key is the corpus's row."""

    def __init__(
        self,
        client: Any,
        name: str,
        index: Mapping[str, Any] = FLAT_INDEX,
        search_params: Mapping[str, Any] | None = None,
    ) -> None:
        """Wrap a collection that holds all rows.

        Args:
            client: a connected ``pymilvus.MilvusClient``.
            name: the collection's.
            index: what it was indexed by.
            search_params: of that index type, as ``{"ef": 128}``.
        """
        self._client, self._name, self._index, self._params = client, name, dict(index), dict(search_params or {})

    @property
    def settings(self) -> dict[str, Any]:
        """The type of the index and how it is searched."""
        return {"index": self._index["index_type"], "search_params": self._params}

    def search(self, queries: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows of the ``n`` nearest to each query, both of shape (queries, n), best first.

        A row of -1 is none: an approximate index may find fewer.

        Raises:
            RunError: Milvus does not answer.
        """
        hits = _asked(
            self._client.search,
            self._name,
            data=list(queries),
            limit=n,
            anns_field=VECTOR,
            output_fields=[ROW],
            search_params={"metric_type": "IP", "params": self._params},
        )
        scores, rows = np.full((len(queries), n), -np.inf, np.float32), np.full((len(queries), n), -1)
        for i, found in enumerate(hits):
            scores[i, : len(found)] = [hit["distance"] for hit in found]
            rows[i, : len(found)] = [hit[ROW] for hit in found]
        return scores, rows

    def vectors(self, rows: Rows) -> np.ndarray:
        """Return the vectors of rows as they were loaded, float32 of shape (rows, dimension), in one request.

        Raises:
            RunError: Milvus does not answer.
        """
        wanted = [int(row) for row in rows]
        found = _asked(self._client.get, self._name, ids=wanted, output_fields=[ROW, VECTOR])
        vector_of = {hit[ROW]: hit[VECTOR] for hit in found}
        return np.array([vector_of[row] for row in wanted], dtype=np.float32)


def open_milvus(
    corpus: Corpus,
    encoder: Encoder,
    uri: str,
    token: str | None = None,
    index: Mapping[str, Any] = FLAT_INDEX,
    search_params: Mapping[str, Any] | None = None,
) -> MilvusIndex:
    """Open a corpus's collection, loading what is not in it yet.

    Its name comes from corpus and encoder, so that another corpus or encoder never meets its vectors. Rows are loaded
    block by block in the corpus's order, so that their number says where a loading that was killed goes on.

    Args:
        corpus: its documents, row by row.
        encoder: gives their vectors.
        uri: a file, which Milvus Lite keeps, or a server's address, ``http://host:19530``.
        token: what the server asks for, ``user:password`` or a key.
        index: its type and parameters, as ``{"index_type": "HNSW", "params": {"M": 32, "efConstruction": 200}}``.
        search_params: of that index type, as ``{"ef": 128}``.

    Raises:
        InputError: pymilvus is not installed, nothing answers at ``uri``, or ``index`` cannot be used.
        RunError: Milvus fails while it is loaded.
    """
    check_index(index, search_params or {})
    client = connect(uri, token)
    made_from = f"{corpus.fingerprint} {encoder.fingerprint} {sorted(index.items())}"
    name = f"corpus_{hashlib.sha256(made_from.encode()).hexdigest()[:24]}"
    if not _asked(client.has_collection, name):
        _try(client, f"{name}_trial", encoder.dimension, index, search_params)
        _create(client, name, encoder.dimension, index)
    _load(client, name, corpus, encoder)
    _open(client, name)
    opened = MilvusIndex(client, name, index, search_params)
    _accepts(opened, encoder.dimension)
    return opened


def check_index(index: Mapping[str, Any], search_params: Mapping[str, Any]) -> None:
    """Refuse an index that cannot be meant.

    Raises:
        InputError: it has no type, or has parameters that its type does not know.
    """
    kind, params = index.get("index_type"), index.get("params") or {}
    if not isinstance(kind, str) or not isinstance(params, Mapping) or "metric_type" in index:
        raise InputError(
            "milvus_index must name an index_type and its params, as {index_type: HNSW, params: {M: 32}}, and no "
            "metric_type: vectors are compared by IP"
        )
    if kind not in PARAMETERS:
        return
    of_index, of_search = PARAMETERS[kind]
    for key, given, known in (
        ("milvus_index: params", params, of_index),
        ("milvus_search_params", search_params, of_search),
    ):
        for name, value in given.items():
            if name not in known or type(value) is not int or value < 1:
                raise InputError(
                    f"{key}: {name}: {value!r} does not suit {kind}, which takes "
                    f"{' and '.join(sorted(known)) or 'none'}{', above 0' if known else ''}"
                )


def connect(uri: str, token: str | None = None) -> Any:
    """Return a client of the Milvus at ``uri``; the folder of a file is made.

    Raises:
        InputError: pymilvus is not installed, the file cannot be used, or nothing answers.
    """
    os.environ.pop("MILVUS_URI", None)  # pymilvus reads it as it is imported, and fails at a file's name
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError:
        raise InputError("vector_store milvus needs pymilvus: pip install -r requirements.txt") from None
    # They log tracebacks of what is raised here anyway, or is no fault: Milvus Lite lacks what pymilvus first asks for.
    for noisy in ("grpc", "milvus_lite", "pymilvus"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    is_file = "://" not in uri and not uri.startswith("unix:")
    if is_file:
        if not uri.endswith(".db") or os.path.isfile(uri):
            raise InputError(
                f"milvus_uri {uri}: Milvus Lite keeps its vectors in a folder of its own, whose name ends in .db: name "
                "one that is not a file, as vectors.db, or a server's address, as http://localhost:19530"
            )
        try:
            Path(uri).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"milvus_uri {uri}: {error.strerror}; name a folder that can be written") from None
    try:
        return MilvusClient(uri, token=token or "", timeout=10)
    except (MilvusException, OSError, ValueError) as error:
        if is_file:
            raise InputError(f"milvus_uri {uri}: {_why_not(uri)}") from None
        raise InputError(
            f"milvus_uri {uri}: cannot be opened ({_first_line(error)}); start the server, or correct the address"
        ) from None


def _why_not(file: str) -> str:
    """Return why Milvus Lite does not open a file, which pymilvus keeps to itself, and what now."""
    try:
        from milvus_lite import MilvusLite
        from milvus_lite.exceptions import DataDirLockedError
    except ImportError:
        return "a file needs milvus-lite: pip install -r requirements.txt"
    try:
        MilvusLite(file).close()
    except DataDirLockedError:
        return "another process has it open: wait for it, name another file, or start a server for several"
    except Exception as error:  # damaged files raise what they like
        return f"Milvus Lite cannot open it ({_first_line(error)}); name another, or move it away"
    return "Milvus Lite does not start; run again"


def _create(client: Any, name: str, dimension: int, index: Mapping[str, Any]) -> None:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False)
    schema.add_field(ROW, DataType.INT64, is_primary=True)
    schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=dimension)
    parameters = client.prepare_index_params()
    parameters.add_index(VECTOR, metric_type="IP", **index)
    _asked(client.create_collection, name, schema=schema, index_params=parameters, consistency_level="Strong")


def _try(
    client: Any, name: str, dimension: int, index: Mapping[str, Any], search_params: Mapping[str, Any] | None
) -> None:
    """Build and search the index over one vector: before hours of encoding, and because Milvus Lite only logs faults.

    Raises:
        InputError: Milvus refuses the index or the search parameters.
    """
    try:
        _asked(client.drop_collection, name)  # which a killed run may have left
        _create(client, name, dimension, index)
        _asked(client.upsert, name, [{ROW: 0, VECTOR: [1.0] + [0.0] * (dimension - 1)}])
        _asked(client.flush, name)
        _asked(client.release_collection, name)
        _open(client, name)
    except RunError as error:
        raise InputError(
            f"milvus_index {dict(index)} cannot be built ({_first_line(error.__cause__)}): name another, as "
            "{index_type: FLAT}"
        ) from None
    else:
        _accepts(MilvusIndex(client, name, index, search_params), dimension)
    finally:
        with suppress(RunError):
            _asked(client.drop_collection, name)


def _accepts(index: MilvusIndex, dimension: int) -> None:
    """Search once.

    Raises:
        InputError: Milvus refuses the search parameters.
    """
    try:
        index.search(np.eye(1, dimension, dtype=np.float32), 1)
    except RunError as error:
        given, kind = index.settings["search_params"], index.settings["index"]
        raise InputError(
            f"milvus_search_params {given}: a search of {kind} fails ({_first_line(error.__cause__)}): correct them, "
            "or leave them out"
        ) from None


def _load(client: Any, name: str, corpus: Corpus, encoder: Encoder) -> None:
    """Encode and upsert the blocks that are not wholly there."""
    there = _asked(client.query, name, filter="", output_fields=["count(*)"])[0]["count(*)"]
    left = [rows for rows in blocks_of(len(corpus)) if rows.stop > there]
    if not left:
        return
    for rows, vectors in zip(left, encode_blocks(corpus, encoder, left), strict=True):
        entities = [{ROW: row, VECTOR: vector} for row, vector in zip(rows, vectors, strict=True)]
        for start in range(0, len(entities), INSERTED_AT_ONCE):
            _asked(client.upsert, name, entities[start : start + INSERTED_AT_ONCE], timeout=LONG_PATIENCE)
    _asked(client.flush, name, timeout=LONG_PATIENCE)


def _open(client: Any, name: str) -> None:
    """Load a collection, trying again: Milvus Lite builds indexes in the background and may read half of a file."""
    for wait in (0.1, 0.3, 0.9, None):
        try:
            _asked(client.load_collection, name, timeout=LONG_PATIENCE)
            return
        except RunError:
            if wait is None:
                raise
            time.sleep(wait)


def _asked(call: Any, *args: Any, timeout: float = PATIENCE, **kwargs: Any) -> Any:
    """Call Milvus; a refusal, or no answer within ``timeout`` seconds, is told in one line."""
    from pymilvus.exceptions import MilvusException

    try:
        return call(*args, timeout=timeout, **kwargs)
    except (MilvusException, TypeError, ValueError) as error:  # pymilvus checks some values by converting them
        raise RunError(f"Milvus failed ({_first_line(error)}); what is loaded is kept, run again to resume") from error


def _first_line(error: BaseException | None) -> str:
    told = str(getattr(error, "message", "") or error).strip()
    return told.splitlines()[0] if told else type(error).__name__
