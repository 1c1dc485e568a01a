"""Folders of encoders, corpora and indexes that the tests of retrieval share."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from miniature import WORDS
from utils.config import Config, load_config
from utils.corpus.documents import Corpus
from utils.files import write_json, write_jsonl
from utils.retrieval.encoder import PASSAGE, Encoder, EncoderOptions


@pytest.fixture
def st_folder(tiny_encoder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder with sentence-transformers' files around the tiny encoder, as older ones are."""

    def make(
        pooling: dict[str, Any] | None = None,
        prompts: dict[str, Any] | None = None,
        length: dict[str, Any] | None = None,
        modules: tuple[str, ...] = ("Transformer", "Pooling"),
        name: str = "model",
    ) -> Path:
        folder = Path(shutil.copytree(tiny_encoder, tmp_path / name))
        listed = [
            {"idx": i, "name": str(i), "path": f"{i}_{m}" if i else "", "type": f"sentence_transformers.models.{m}"}
            for i, m in enumerate(modules)
        ]
        write_json(folder / "modules.json", listed)
        write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32} | (pooling or {}))
        write_json(
            folder / "sentence_bert_config.json", {"max_seq_length": 512, "do_lower_case": False} | (length or {})
        )
        if prompts is not None:
            write_json(folder / "config_sentence_transformers.json", prompts)
        return folder

    return make


@pytest.fixture(scope="module")
def many(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, Encoder, np.ndarray]:
    """A corpus of 2,000 short documents, all different, its encoder and its vectors."""
    rng = random.Random(2)
    path = tmp_path_factory.mktemp("many") / "corpus.jsonl"
    write_jsonl(path, ({"id": str(n), "contents": " ".join(rng.choices(WORDS, k=8))} for n in range(2000)))
    corpus, encoder = Corpus(path), Encoder(tiny_encoder, EncoderOptions(method="tiny", half=False))
    return corpus, encoder, encoder.encode([document.text for document in corpus], PASSAGE)


@pytest.fixture
def load(
    config_file: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Config]:
    """Loads the configuration with other keys and no index named; copies of the encoder are in three folders."""
    for name in ("models/tiny", "other/tiny", "models/an encoder*"):
        shutil.copytree(tiny_encoder, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load(config_file.read_text()) | {"method2index": {}, "model2path": {}}

    def load(**keys: Any) -> Config:
        config_file.write_text(yaml.safe_dump(values | keys))
        return load_config(config_file)

    return load
