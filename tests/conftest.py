"""Fixtures that several test files share: a miniature corpus, models of a few kilobytes, and a configuration."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from miniature import CORPUS, FACTS, TOWNS, WORDS, LengthReranker, save_tiny_bert
from utils.corpus.documents import Corpus
from utils.retrieval import corpus_vectors
from utils.retrieval.arms import BASE, FINE_TUNED
from utils.retrieval.encoder import PASSAGE, Encoder, EncoderOptions
from utils.retrieval.faiss_store import open_index
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import Retriever

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["GRPC_VERBOSITY"] = "NONE"  # threads of an earlier test's connection write to stderr during a later one


@pytest.fixture(scope="session")
def tiny_reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reranker of a few kilobytes with random weights."""
    return save_tiny_bert(tmp_path_factory.mktemp("tiny_reranker"), head=True)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text encoder of a few kilobytes with random weights."""
    return save_tiny_bert(tmp_path_factory.mktemp("tiny_encoder"), head=False)


@pytest.fixture(scope="session")
def still_model(tiny_reranker: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny reranker without dropout, whose training is the same in whatever processes it runs."""
    folder = tmp_path_factory.mktemp("still") / "model"
    shutil.copytree(tiny_reranker, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Matrices this small are slower on several threads, the more so beside other work."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    """The miniature corpus, in a folder of its own."""
    return Path(shutil.copy(CORPUS, tmp_path / "corpus.jsonl"))


@pytest.fixture
def second_documents(corpus_file: Path) -> None:
    """One more document about each title of the miniature corpus: candidates that mention it more than in passing."""
    titles = [json.loads(line)["title"] for line in corpus_file.read_text(encoding="utf-8").splitlines()]
    with corpus_file.open("a", encoding="utf-8") as out:
        for number, title in enumerate(titles):
            told = (
                f"Travellers write long letters about {title}. Old maps colour {title} in {number} shades of ochre ink."
            )
            out.write(json.dumps({"id": f"second-{number}", "title": f"Letters {number}", "contents": told}) + "\n")


@pytest.fixture
def config_file(tmp_path: Path, corpus_file: Path, tiny_encoder: Path, tiny_reranker: Path) -> Path:
    """A configuration of the miniature corpus and models, with the offline teacher."""
    path = tmp_path / "config.yaml"
    values = {
        "corpus_path": str(corpus_file),
        "retrieval_method": "tiny",
        "model2path": {"tiny": str(tiny_encoder)},
        "method2index": {"tiny": str(tmp_path / "tiny.index")},
        "reranker_path": str(tiny_reranker),
        "generator_model": "offline",
        "seed": 7,
    }
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture
def examples_file(tmp_path: Path) -> Path:
    """Twenty-four rows of one positive and three negatives."""
    path = tmp_path / "train.jsonl"
    with path.open("w", encoding="utf-8") as out:
        for number, town in enumerate(TOWNS):
            others = TOWNS[number + 1 :] + TOWNS[:number]
            for fact in FACTS:
                row = {
                    "query": f"what of {town}?",
                    "pos": [f"{town} {fact}."],
                    "neg": [f"{other} {fact}." for other in others[:3]],
                }
                out.write(json.dumps(row) + "\n")
    return path


@pytest.fixture(scope="module")
def retriever(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    """A corpus of 90 documents in 30 articles of one to five chunks, its index, and two rule-based rerankers."""
    rng = random.Random(1)
    path = tmp_path_factory.mktemp("retrieval") / "corpus.jsonl"
    with path.open("w") as out:
        number = 0
        for article in range(30):
            for _ in range(article % 5 + 1):
                contents = " ".join(rng.choices(WORDS, k=rng.randint(5, 30)))
                row = {"id": number, "title": f"Article {article}", "contents": contents, "doc_id": f"a{article}"}
                out.write(json.dumps(row) + "\n")
                number += 1
    corpus = Corpus(path)
    encoder = Encoder(tiny_encoder, EncoderOptions(method="tiny", half=False))  # vectors that no batch changes
    index = open_index(corpus, encoder, path.with_name("test.index"))
    rerankers = {BASE: LengthReranker(1), FINE_TUNED: LengthReranker(-1)}
    return Retriever(corpus, encoder, index, Lambdas.scaled(0.85, 0.05, 0.1), rerankers)  # type: ignore[arg-type]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks even in a small corpus."""
    monkeypatch.setattr(corpus_vectors, "DOCUMENTS_PER_BLOCK", 16)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many passages were encoded at a time."""
    counts: list[int] = []
    encode = Encoder.encode

    def counted(self: Encoder, texts: list[str], kind: str, done: Callable | None = None) -> np.ndarray:
        if kind == PASSAGE:
            counts.append(len(texts))
        return encode(self, texts, kind, done)

    monkeypatch.setattr(Encoder, "encode", counted)
    return counts
