"""The vector stores."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.files import find
from utils.retrieval.encoder import Encoder
from utils.retrieval.faiss_store import Index, open_index
from utils.retrieval.milvus_store import open_milvus

if TYPE_CHECKING:
    from utils.config import Config


def index_file(config: Config, corpus: Corpus) -> Path:
    """Return where the index is, or is to be built: as the configuration says, else beside the corpus.

    Beside the corpus it is named by the retriever: by its name, or where that is a path, or no file's name on every
    system, by the model's folder, with a hash by which two folders of one name differ.
    """
    if config.index_path is not None:
        return located(config.index_path)
    name = config.retrieval_method
    if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", name):
        folder = config.encoder_path
        digest = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
        name = re.sub(r"[^\w.-]+", "-", folder.name)[:64].strip("-.") + f"-{digest}"
    return corpus.path.with_name(f"{corpus.path.stem}.{name}.index")


def located(name: str) -> Path:
    """Return where a file is, or is to be made: in the first of the usual places that has it, or else its folder."""
    named = Path(name)
    folder = find(named.parent)
    return find(named) or (folder / named.name if folder else named)


def open_store(config: Config, corpus: Corpus, encoder: Encoder) -> Index:
    """Open the index of a corpus in the vector store that a configuration names.

    Raises:
        InputError: the store is unknown, not there, or cannot be used.
    """
    if config.vector_store == "faiss":
        return open_index(
            corpus,
            encoder,
            index_file(config, corpus),
            config.faiss_index_factory,
            search_params=config.faiss_search_params,
            gpu=config.faiss_gpu,
            seed=config.seed,
        )
    if config.vector_store != "milvus":
        raise InputError(f"{config.path}: vector_store must be faiss or milvus, not {config.vector_store!r}")
    if not config.milvus_uri:
        raise InputError(f"{config.path}: vector_store milvus needs milvus_uri: a file (name.db) or a server's address")
    return open_milvus(
        corpus,
        encoder,
        config.milvus_uri if "://" in config.milvus_uri else str(located(config.milvus_uri)),
        config.milvus_token,
        config.milvus_index,
        config.milvus_search_params,
    )
