"""Fixtures that several test files share: a miniature corpus, models of a few kilobytes, and a configuration."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import yaml

from utils import cli
from utils.corpus import Corpus
from utils.retrieval import encoding
from utils.retrieval.arms import BASE, FINE_TUNED, Lambdas, Retriever
from utils.retrieval.encoder import PASSAGE, Encoder
from utils.retrieval.index import open_index

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

CORPUS = Path(__file__).parent / "data" / "corpus.jsonl"
TOWNS = ["Arden", "Belmont", "Corwen", "Dunmore", "Elgin", "Falmouth", "Girvan", "Harlech"]
WORDS = [
    "salt",
    "slate",
    "lake",
    "harbour",
    "lens",
    "fair",
    "ice",
    "river",
    "bridge",
    "abbey",
    "poem",
    "kite",
    "canal",
    "comet",
    "herring",
    "wool",
    "storm",
    "tide",
]
FACTS = ["was founded by miners", "lies on a river", "holds a market each week"]


def save_tiny_bert(folder: Path, head: bool, seed: int = 0) -> Path:
    """Save a BERT with two layers of 32, random weights, a one-label head if asked for, and its tokenizer."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizer

    texts = [*TOWNS, *FACTS, CORPUS.read_text(encoding="utf-8")]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,?!'-"
    words = sorted({word for text in texts for word in re.findall(r"[a-z]+", text.lower())})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), *words]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        num_labels=1,
        initializer_range=0.02 if head else 0.5,  # small weights would give all texts nearly the same vector
    )
    model = BertForSequenceClassification(config) if head else BertModel(config)
    model.save_pretrained(folder)
    BertTokenizer(vocab=vocab, model_max_length=512).save_pretrained(folder)
    return folder


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


class LengthReranker:
    """Scores by a rule that a reader can check: how often the query's words stand in the passage, less its length."""

    def __init__(self, sign: int) -> None:
        self.sign = sign

    def score(self, pairs: list[tuple[str, str]], desc: str | None = None) -> np.ndarray:
        """One score a pair."""
        return np.array([self.sign * (sum(p.count(w) for w in q.split()) - len(p) / 1000) for q, p in pairs])


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
    encoder = Encoder(tiny_encoder, method="tiny", half=False)  # vectors that no batch changes
    index = open_index(corpus, encoder, path.with_name("test.index"))
    rerankers = {BASE: LengthReranker(1), FINE_TUNED: LengthReranker(-1)}
    return Retriever(corpus, encoder, index, Lambdas.scaled(0.85, 0.05, 0.1), rerankers)  # type: ignore[arg-type]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks even in a small corpus."""
    monkeypatch.setattr(encoding, "BLOCK", 16)


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


def free_port() -> int:
    """Return a free port below those that systems hand out, which nobody else is given before it is used."""
    for port in random.sample(range(10_000, 30_000), 100):
        with socket.socket() as trial, suppress(OSError):
            trial.bind(("127.0.0.1", port))
            return port
    raise AssertionError("100 ports are in use")


# Builds an index or loads a collection in blocks of 16, says so after the third, and waits to be killed.
KILLED = """
import time
from pathlib import Path

from utils.retrieval import encoding
from utils.corpus import Corpus
from utils.retrieval.encoder import PASSAGE, Encoder
from utils.retrieval.index import open_index
from utils.retrieval.milvus import open_milvus

encoding.BLOCK, encode, blocks = 16, Encoder.encode, 0

def encode_three(*args):
    global blocks
    if blocks == 3:
        print("three blocks", flush=True)
        time.sleep(600)
    blocks += 1
    return encode(*args)

Encoder.encode = encode_three
corpus, encoder = Corpus(Path({corpus!r})), Encoder(Path({encoder!r}), method="tiny", half=False)
{then}
"""


def kill_after_three_blocks(corpus: Path, encoder: Path, then: str) -> None:
    """Run ``then`` with ``corpus`` and ``encoder`` in a process of its own and kill it in its fourth block."""
    code = textwrap.dedent(KILLED).format(corpus=str(corpus), encoder=str(encoder), then=then)
    environment = os.environ | {"PYTHONPATH": str(cli.SCRIPTS)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "three blocks\n"
        process.send_signal(signal.SIGKILL)
