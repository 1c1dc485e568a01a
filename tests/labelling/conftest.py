"""Two retrievers: over the miniature corpus, and over documents that share a few entities."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from miniature import save_tiny_bert
from utils.config import load_config
from utils.corpus.documents import Corpus
from utils.files import write_jsonl
from utils.retrieval.arms import BASE, FINE_TUNED
from utils.retrieval.encoder import Encoder, EncoderOptions
from utils.retrieval.faiss_store import open_index
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import Retriever, open_retrieval
from utils.scoring import Reranker

WEIGHTS = Lambdas(0.85, 0.05, 0.1)


@pytest.fixture
def retriever(config_file: Path, tiny_reranker: Path) -> Retriever:
    """The miniature corpus."""
    reranker = Reranker(tiny_reranker)
    config = load_config(config_file)
    return open_retrieval(config, Corpus(config.corpus), WEIGHTS, {BASE: reranker, FINE_TUNED: reranker})


def write_corpus(path: Path, documents: int = 240, entities: int = 6) -> Path:
    """Write documents that end with one of a few names, each thus shared by some; what else they say is drawn."""
    rng = random.Random(0)
    words = ["river", "market", "miners", "lies", "founded", "holds", "week", "town", "hall", "lake", "road", "king"]
    rows = []
    for i in range(documents):
        name = f"Name{i % entities}"
        text = f"{' '.join(rng.choices(words, k=14))} {name} {' '.join(rng.choices(words, k=4))} {name}"
        rows.append({"id": str(i), "title": f"Title {i}", "contents": text})
    write_jsonl(path, rows)
    return path


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_reranker: Path) -> Retriever:
    """A corpus in which a few entities are shared by many documents, and two rerankers that disagree."""
    import torch

    folder = tmp_path_factory.mktemp("synthetic")
    corpus = Corpus(write_corpus(folder / "corpus.jsonl"))
    encoder = Encoder(tiny_encoder, EncoderOptions("tiny", "mean", max_length=64, batch_size=64))
    index = open_index(corpus, encoder, folder / "tiny.index")
    save_tiny_bert(folder / "other", head=True)
    other = Reranker(folder / "other")
    torch.manual_seed(1)
    torch.nn.init.normal_(other.model.classifier.weight)  # another order than the base's
    return Retriever(corpus, encoder, index, WEIGHTS, {BASE: Reranker(tiny_reranker), FINE_TUNED: other})
