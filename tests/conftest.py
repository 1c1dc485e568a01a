"""Fixtures that several test files share: a miniature corpus, models of a few kilobytes, and a configuration."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

CORPUS = Path(__file__).parent / "data" / "corpus.jsonl"
TOWNS = ["Arden", "Belmont", "Corwen", "Dunmore", "Elgin", "Falmouth", "Girvan", "Harlech"]
FACTS = ["was founded by miners", "lies on a river", "holds a market each week"]


def save_tiny_bert(folder: Path, head: bool) -> Path:
    """Save a BERT with two layers of 32, random weights, a one-label head if asked for, and its tokenizer."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizer

    texts = [*TOWNS, *FACTS, CORPUS.read_text(encoding="utf-8")]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,?!'-"
    words = sorted({word for text in texts for word in re.findall(r"[a-z]+", text.lower())})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), *words]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    torch.manual_seed(0)
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
