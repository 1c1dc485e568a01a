"""The vector index in Milvus: a file (Milvus Lite, inside this process) or the address of a server or cluster."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli import InputError, RunError
from utils.corpus import Corpus
from utils.retrieval.encoder import Encoder
from utils.retrieval.encoding import blocks_of, encode_blocks
from utils.retrieval.index import Rows

FLAT_INDEX: Mapping[str, Any] = {"index_type": "FLAT"}
ROW, VECTOR = "row", "vector"
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
    if "index_type" not in index or "metric_type" in index:
        raise InputError("milvus_index must name an index_type, and no metric_type: vectors are compared by IP")
    client = connect(uri, token)
    made_from = f"{corpus.fingerprint} {encoder.fingerprint} {sorted(index.items())}"
    name = f"corpus_{hashlib.sha256(made_from.encode()).hexdigest()[:24]}"
    if not _asked(client.has_collection, name):
        _create(client, name, encoder.dimension, index)
    _load(client, name, corpus, encoder)
    _asked(client.load_collection, name)
    return MilvusIndex(client, name, index, search_params)


def connect(uri: str, token: str | None = None) -> Any:
    """Return a client of the Milvus at ``uri``; the folder of a file is made.

    Raises:
        InputError: pymilvus is not installed, or nothing answers.
    """
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError:
        raise InputError("vector_store milvus needs pymilvus: pip install -r requirements.txt") from None
    if "://" not in uri:
        Path(uri).parent.mkdir(parents=True, exist_ok=True)
    try:
        return MilvusClient(uri, token=token or "")
    except (MilvusException, OSError, ValueError) as error:
        raise InputError(
            f"milvus_uri {uri}: cannot be opened ({_first_line(error)}); start it, or mend the uri"
        ) from None


def _create(client: Any, name: str, dimension: int, index: Mapping[str, Any]) -> None:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False)
    schema.add_field(ROW, DataType.INT64, is_primary=True)
    schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=dimension)
    parameters = client.prepare_index_params()
    parameters.add_index(VECTOR, metric_type="IP", **index)
    _asked(client.create_collection, name, schema=schema, index_params=parameters, consistency_level="Strong")


def _load(client: Any, name: str, corpus: Corpus, encoder: Encoder) -> None:
    """Encode and upsert the blocks that are not wholly there."""
    there = _asked(client.query, name, filter="", output_fields=["count(*)"])[0]["count(*)"]
    left = [rows for rows in blocks_of(len(corpus)) if rows.stop > there]
    if not left:
        return
    for rows, vectors in zip(left, encode_blocks(corpus, encoder, left), strict=True):
        entities = [{ROW: row, VECTOR: vector} for row, vector in zip(rows, vectors, strict=True)]
        for start in range(0, len(entities), INSERTED_AT_ONCE):
            _asked(client.upsert, name, entities[start : start + INSERTED_AT_ONCE])
    _asked(client.flush, name)


def _asked(call: Any, *args: Any, **kwargs: Any) -> Any:
    """Call Milvus; what it refuses is told in one line."""
    from pymilvus.exceptions import MilvusException

    try:
        return call(*args, **kwargs)
    except MilvusException as error:
        raise RunError(f"Milvus failed ({_first_line(error)}); what is loaded is kept, start again to go on") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
