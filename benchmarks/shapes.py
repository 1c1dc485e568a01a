"""For the benchmarks of training and scoring: a model of XLM-RoBERTa's shape, and texts of real lengths."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train_reranker"))

RESULTS = Path(__file__).parent / "results"

# Word pieces of a (query, passage) pair at every twentieth of HopWeaver's published examples: whole Wikipedia articles.
PAIR_TOKENS = (
    142, 184, 216, 235, 261, 288, 309, 342, 390, 431, 461, 515, 574, 632, 730, 841, 1063, 1449, 2115, 2759, 3794,
)  # fmt: skip
QUERY_TOKENS = 14
WORDS = 1000  # the vocabulary that texts are made of


class Shape(NamedTuple):
    """Sizes of an encoder."""

    layers: int
    hidden: int
    heads: int
    inner: int
    vocabulary: int

    def flops(self, lengths: list[int], train: bool) -> float:
        """Return the floating-point operations for pairs of these lengths, without recomputation and padding."""
        weights = self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.inner)
        forward = sum(2 * weights * n + 4 * self.layers * self.hidden * n * n for n in lengths)
        return forward * (3 if train else 1)


SMALL = Shape(layers=2, hidden=64, heads=2, inner=256, vocabulary=WORDS + 5)
BGE_M3 = Shape(layers=24, hidden=1024, heads=16, inner=4096, vocabulary=250_002)

# bf16 operations per second by the data sheets, for dense matrices.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12}


def peak(device_name: str) -> float | None:
    """Return a GPU's peak in bf16, None where its name is unknown."""
    return next((value for name, value in PEAKS.items() if name in device_name), None)


def make_model(folder: Path, shape: Shape, dropout: float, seed: int = 0) -> Path:
    """Save a reranker like bge-reranker-v2-m3 with random weights, and a tokenizer of one token per word."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaForSequenceClassification

    torch.manual_seed(seed)
    config = XLMRobertaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, intermediate_size=shape.inner, max_position_embeddings=8194,
        type_vocab_size=1, num_labels=1, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        initializer_range=0.02 if shape.hidden > 512 else 0.2,  # so that a small model's scores differ
    )  # fmt: skip
    XLMRobertaForSequenceClassification(config).save_pretrained(folder)
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(f"w{i}" for i in range(WORDS))]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ends
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", mask_token="<mask>", model_max_length=8192,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip
    return folder


def draw_tokens(rng: random.Random) -> int:
    """Draw the tokens of a pair from the distribution."""
    place = rng.random() * (len(PAIR_TOKENS) - 1)
    low = int(place)
    return round(PAIR_TOKENS[low] + (place - low) * (PAIR_TOKENS[low + 1] - PAIR_TOKENS[low]))


def make_rows(count: int, passages: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows of one positive and ``passages`` - 1 negatives, of random words and real lengths."""
    rng = random.Random(seed)

    def text(tokens: int) -> str:
        return " ".join(f"w{rng.randrange(WORDS)}" for _ in range(tokens))

    rows = []
    for _ in range(count):
        texts = [text(max(8, draw_tokens(rng) - QUERY_TOKENS - 4)) for _ in range(passages)]
        rows.append({"query": text(QUERY_TOKENS), "pos": texts[:1], "neg": texts[1:]})
    return rows


def pair_lengths(rows: list[dict[str, Any]], longest: int) -> list[int]:
    """Return the tokens of each row's pairs in the model."""
    return [
        min(longest, len(row["query"].split()) + len(text.split()) + 4)
        for row in rows
        for text in (*row["pos"], *row["neg"])
    ]


def save_results(name: str, value: Any) -> Path:
    """Write a benchmark's results."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(value, indent=2) + "\n")
    return path
