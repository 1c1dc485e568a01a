"""How many tokens a model takes, and how many it was trained at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from utils.models.lengths import (
    Lengths,
    cut_text,
    length_limit,
    position_limit,
    scoring_lengths,
    trained_lengths,
    training_lengths,
)
from utils.models.loading import load_tokenizer


def test_a_python_tokenizer_cuts_texts(architecture: Callable[[str], Path]) -> None:
    tokenizer, _ = load_tokenizer(architecture("PhoBERT, whose tokenizer is Python"))
    text = "the mill stands by a river"
    for limit in range(1, 30):
        cut = cut_text(tokenizer, text, limit)
        assert text.startswith(cut)
        assert len(tokenizer(cut, add_special_tokens=False)["input_ids"]) == min(limit, 21)
    assert cut_text(tokenizer, text, 21) == text


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("BERT", 64),  # the tokenizer's, of 512 positions
        ("T5, without a limit", None),
        ("XLNet, on the left and without a limit", None),
        ("GPT-2 with a padding token beyond its table", 48),
        ("PhoBERT, whose tokenizer is Python", 250),
    ],
)
def test_limits_are_the_smaller_of_two(architecture: Callable[[str], Path], name: str, limit: int | None) -> None:
    tokenizer, config = load_tokenizer(architecture(name))
    assert length_limit(config, tokenizer) == limit


@pytest.mark.parametrize(
    ("query", "passage", "limit", "expected"),
    [
        (512, None, 8192, (512, 7680)),
        (512, 8196, 8192, (512, 7680)),
        (512, None, 512, (256, 256)),
        (32, 128, 512, (32, 128)),
        (32, 600, 514, (32, 480)),  # 514 is no multiple of eight
        (64, None, None, (64, 512)),
    ],
)
def test_lengths_fit_the_model(query: int, passage: int | None, limit: int | None, expected: tuple[int, int]) -> None:
    assert training_lengths(query, passage, None, limit, 8) == expected


def test_lengths_not_asked_for_are_those_of_the_base() -> None:
    assert training_lengths(None, None, Lengths(32, 96), 512, 8) == (32, 96)
    assert training_lengths(64, None, Lengths(32, 96), 512, 8) == (64, 96)
    assert training_lengths(None, 200, Lengths(32, 96), 512, 8) == (32, 200)
    assert training_lengths(None, None, None, 8192, 8) == (512, 7680)


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 8194, "pad_token_id": 1}, 8192),
        ({"model_type": "unknown"}, None),
    ],
)
def test_positions_are_read(config: dict[str, Any], limit: int | None) -> None:
    assert position_limit(config) == limit


def test_trained_lengths_are_a_default_and_no_limit(tiny_reranker: Path, tmp_path: Path) -> None:
    tokenizer, config = load_tokenizer(tiny_reranker)
    assert (trained_lengths(tokenizer), length_limit(config, tokenizer)) == (None, 512)
    folder = Path(shutil.copytree(tiny_reranker, tmp_path / "model"))
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | Lengths(16, 24).tokenizer_settings()))
    tokenizer, config = load_tokenizer(folder)
    assert (trained_lengths(tokenizer), length_limit(config, tokenizer)) == ((16, 24), 512)
    file.write_text(json.dumps(settings | {"model_max_length": 40}))  # a base's own
    tokenizer, config = load_tokenizer(folder)
    assert (trained_lengths(tokenizer), length_limit(config, tokenizer)) == (None, 40)


@pytest.mark.parametrize(
    ("query", "pair", "trained", "limit", "expected"),
    [
        (None, None, None, 512, (384, 128)),
        (None, None, None, 8192, (512, 7680)),
        (None, None, None, None, (512, 512)),
        (None, 160, None, 512, (120, 40)),
        (None, 9999, None, 512, (384, 128)),
        (None, None, Lengths(32, 128), 512, (32, 128)),
        (None, None, Lengths(120, 8), 512, (120, 8)),  # as trained, though the query takes more than three quarters
        (None, 64, Lengths(120, 40), 512, (48, 16)),
        (None, 512, Lengths(32, 128), 512, (32, 480)),
        (512, None, Lengths(32, 128), 512, (120, 40)),
        (None, None, Lengths(32, 128), 64, (32, 32)),
    ],
)
def test_what_is_asked_for_goes_before_what_was_trained(
    query: int | None, pair: int | None, trained: Lengths | None, limit: int | None, expected: tuple[int, int]
) -> None:
    assert scoring_lengths(query, pair, trained, limit) == expected
