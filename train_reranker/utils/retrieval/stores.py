"""The vector stores: add one by an entry in ``STORES``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from utils.config import Config
from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.files import find
from utils.retrieval.corpus_vectors import Rows, encode_rows
from utils.retrieval.encoder import Encoder
from utils.retrieval.faiss_files import SAME
from utils.retrieval.faiss_store import FaissOptions, open_index
from utils.retrieval.milvus_store import MilvusOptions, open_milvus

DEFAULT_LENGTH = Config.retrieval_query_max_length
CHECKED = 8  # rows that are encoded and compared whenever an index is opened


class Index(Protocol):
    """The corpus's vectors by row, L2-normalised and compared by inner product."""

    @property
    def settings(self) -> dict[str, Any]:
        """What its results depend on, besides corpus and encoder; fit for JSON."""

    def search(self, queries: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows of the ``n`` nearest to each query, best first.

        Both are of shape (queries, n), or narrower where the corpus has fewer; row -1 fills up where fewer were found.
        """

    def vectors(self, rows: Rows) -> np.ndarray:
        """Return the vectors of rows, float32 of shape (rows, dimension)."""


def open_store(config: Config, corpus: Corpus, encoder: Encoder) -> Index:
    """Open a corpus's index in the configuration's ``vector_store``, building what is missing, else ``InputError``.

    Vectors of a few rows must be those of their documents, so that nothing is paid for over an index of another order,
    or with an encoder that does not work here (``RunError``).
    """
    if config.vector_store not in STORES:
        raise InputError(f"{config.path}: vector_store must be {' or '.join(STORES)}, not {config.vector_store!r}")
    index = STORES[config.vector_store](config, corpus, encoder)
    # The last row among them: it is misplaced by a row that was left out, or is there twice, wherever that is.
    rows = np.unique(np.linspace(0, len(corpus) - 1, CHECKED, dtype=int))
    own = (index.vectors(rows) * encode_rows(corpus, encoder, rows)).sum(1)
    if (wrong := np.flatnonzero(~(np.abs(own - 1) < 1 - SAME))).size:
        problem = f"has a vector in row {rows[wrong[0]]} that is not its document's (similarity {own[wrong[0]]:.2f})"
        remedy = "delete that index to have it built again, or name another (method2index, milvus_uri)"
        raise InputError(f"{config.path}: the index of vector_store {config.vector_store} {problem}: {remedy}")
    return index


def _open_faiss(config: Config, corpus: Corpus, encoder: Encoder) -> Index:
    options = FaissOptions(config.faiss_index_factory, config.faiss_search_params, config.faiss_gpu, config.seed)
    return open_index(corpus, encoder, index_file(config, corpus), options)


def _open_milvus(config: Config, corpus: Corpus, encoder: Encoder) -> Index:
    uri = config.milvus_uri
    if not uri:
        raise InputError(f"{config.path}: vector_store milvus needs milvus_uri: a file (name.db) or a server's address")
    options = MilvusOptions(config.milvus_token, config.milvus_index, config.milvus_search_params)
    return open_milvus(corpus, encoder, uri if "://" in uri else str(_locate(uri)), options)


STORES: dict[str, Callable[[Config, Corpus, Encoder], Index]] = {"faiss": _open_faiss, "milvus": _open_milvus}


def index_file(config: Config, corpus: Corpus) -> Path:
    """Return where the FAISS index is, or is to be built: as the configuration says, else beside the corpus.

    It is then named after the retriever; where that is no file name on every system, after the model's folder, hashed;
    and after the longest text's tokens where they are not the default.
    """
    if config.index_path is not None:
        return _locate(config.index_path)
    name = config.retrieval_method
    if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", name):
        folder = config.encoder_path
        digest = hashlib.sha256(str(folder).encode()).hexdigest()[:8]  # tells folders of the same name apart
        name = re.sub(r"[^\w.-]+", "-", folder.name)[:64].strip("-.") + f"-{digest}"
    length = config.retrieval_query_max_length
    name += "" if length == DEFAULT_LENGTH else f".{length}"  # configurations of other lengths do not share vectors
    return corpus.path.with_name(f"{corpus.path.stem}.{name}.index")


def _locate(name: str) -> Path:
    """Return where a file is, or is to be made: in the first of the usual places that has it, or else its folder."""
    named = Path(name)
    folder = find(named.parent)
    return find(named) or (folder / named.name if folder else named)
