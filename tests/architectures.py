"""Models of every kind that users bring, with random weights, and transformers' own scores of single pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from miniature import save_tokenizer, t5
from utils.models.loading import load_tokenizer

WORDS = ["the", "mill", "stands", "by", "a", "river", "and", "was", "built", "for", "wool", ",", "ice", "came", "later"]
WORDS += [".", "who", "?", "when"]
PAIRS = [
    ("who built the mill ?", "wool"),
    ("when ?", "the mill stands by a river and was built for wool . ice came later , the river was ice . " * 2),
    ("who was by the river and when was ice built ?", "a mill came later"),
    ("ice", "the river stands by a mill"),
]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SMALL |= {"initializer_range": 0.3}  # small weights would give all pairs nearly the same score
CAUSAL = SMALL | {"num_labels": 1, "num_key_value_heads": 2, "max_position_embeddings": 256}


def bert_like(folder: Path, padding_side: str = "right", dtype: Any = torch.float32, **config: Any) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    special = ["<pad>", "<unk>", "<s>", "</s>"]
    size = save_tokenizer(
        folder, special, "<s> $A </s> $B:1 </s>:1", pad_token="<pad>", padding_side=padding_side, model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    model = BertForSequenceClassification(BertConfig(vocab_size=size, num_labels=1, **SMALL | config))
    model.to(dtype).save_pretrained(folder)


def xlnet(folder: Path) -> None:
    from transformers import XLNetConfig, XLNetForSequenceClassification

    size = save_tokenizer(
        folder, ["<unk>", "<cls>", "<sep>", "<pad>"], "$A:0 <sep>:0 $B:1 <sep>:1 <cls>:2", padding_side="left",
        pad_token="<pad>", pad_token_type_id=3, model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    config = {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64, "initializer_range": 0.3, "pad_token_id": 3}
    XLNetForSequenceClassification(XLNetConfig(vocab_size=size, num_labels=1, **config)).save_pretrained(folder)


def qwen3(folder: Path, pair: str = "$A <sep> $B", side: str = "left", **config: Any) -> None:
    from transformers import Qwen3Config, Qwen3ForSequenceClassification

    size = save_tokenizer(
        folder, ["<end>", "<unk>", "<sep>"], pair, pad_token="<end>", eos_token="<end>", padding_side=side,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    config = CAUSAL | {"vocab_size": size, "head_dim": 16, "pad_token_id": 0} | config
    Qwen3ForSequenceClassification(Qwen3Config(**config)).save_pretrained(folder)


def llama_without_padding(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    size = save_tokenizer(
        folder, ["<unk>", "<s>", "</s>"], "<s> $A <s> $B </s>", bos_token="<s>", eos_token="</s>", model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    LlamaForSequenceClassification(LlamaConfig(vocab_size=size, **CAUSAL)).save_pretrained(folder)


def gpt2_padded_beyond_its_table(folder: Path) -> None:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    names = ["input_ids", "attention_mask"]
    size = save_tokenizer(folder, ["<end>", "<unk>"], "$A <end> $B", eos_token="<end>", model_input_names=names)
    config = GPT2Config(
        vocab_size=size, n_embd=32, n_layer=2, n_head=2, n_positions=48, num_labels=1, initializer_range=0.3
    )
    GPT2ForSequenceClassification(config).save_pretrained(folder)
    tokenizer, _ = load_tokenizer(folder)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})  # and the model was not resized
    tokenizer.padding_side = "left"  # where GPT-2's positions would shift
    tokenizer.save_pretrained(folder)


def phobert(folder: Path) -> None:
    """A RoBERTa whose tokenizer is written in Python alone."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    letters = sorted({letter for word in WORDS for letter in word})
    tokens = [*letters, *(f"{letter}@@" for letter in letters)]
    folder.mkdir()
    (folder / "vocab.txt").write_text("".join(f"{token} 1\n" for token in tokens))
    (folder / "bpe.codes").write_text("#version: 0.2\n")
    config = {"tokenizer_class": "PhobertTokenizer", "model_max_length": 250}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    config = SMALL | {"max_position_embeddings": 258, "type_vocab_size": 1, "pad_token_id": 1, "num_labels": 1}
    RobertaForSequenceClassification(RobertaConfig(vocab_size=len(tokens) + 5, **config)).save_pretrained(folder)


ARCHITECTURES: dict[str, Callable[[Path], None]] = {
    "BERT": bert_like,
    "BERT padded on the left": lambda folder: bert_like(folder, padding_side="left"),
    "BERT in half precision": lambda folder: bert_like(folder, dtype=torch.float16),
    "BERT in double precision": lambda folder: bert_like(folder, dtype=torch.float64),
    "XLNet, on the left and without a limit": xlnet,
    "T5, without a limit": t5,
    "Qwen3": qwen3,
    "Qwen3 on the right": lambda folder: qwen3(folder, side="right"),
    "Qwen3 whose configuration names no padding": lambda folder: qwen3(folder, pad_token_id=None),
    "Qwen3 that ends on its padding": lambda folder: qwen3(folder, pair="$A <sep> $B <end>", pad_token_id=None),
    "Qwen3 whose configuration names another padding": lambda folder: qwen3(folder, pad_token_id=1, side="right"),
    "Llama without a padding token": llama_without_padding,
    "GPT-2 with a padding token beyond its table": gpt2_padded_beyond_its_table,
    "PhoBERT, whose tokenizer is Python": phobert,
}


def scored_alone(folder: Path, pairs: list[tuple[str, str]] = PAIRS, limit: int = 1024) -> np.ndarray:
    """Return transformers' own scores of single pairs in full precision."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    cut = {"truncation": "only_second", "max_length": limit}
    with torch.no_grad():
        return np.array([model(**tokenizer(*pair, return_tensors="pt", **cut)).logits.item() for pair in pairs])
