"""Rows to groups, groups to token ids, token ids to ragged batches and length-bucketed micro-batches."""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from utils.models.devices import token_batches
from utils.models.lengths import Lengths, cut_text
from utils.schema import ContrastiveExample


@dataclass
class TrainingGroups:
    """A map-style dataset whose item is the tokenised group of one row: a positive, then its negatives.

    Draws depend on seed, epoch and row alone, so that neither the number of processes nor an interruption changes
    them. The token ids are FlagEmbedding's, but for queries over the limit, which it lets take from the passage.
    """

    rows: Sequence[ContrastiveExample]  # each with at least one negative
    tokenizer: Any
    lengths: Lengths
    group_size: int
    seed: int
    distil: bool = False  # give the teacher's scores, too
    epoch: int = 0  # set from outside

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[list[dict[str, list[int]]], list[float] | None]:
        """Return the encoded pairs of a row, and their teacher's scores where the training distils."""
        from torch.utils.data import get_worker_info

        if get_worker_info() is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive a fork
        rng = random.Random(f"{self.seed} {self.epoch} {number}")
        passages, scores = draw_group(self.rows[number], self.group_size, rng)
        pairs = encode_pairs(self.tokenizer, self.rows[number].query, passages, self.lengths)
        return pairs, scores if self.distil else None


def draw_group(row: ContrastiveExample, size: int, rng: random.Random) -> tuple[list[str], list[float] | None]:
    """Draw a positive and ``size`` - 1 negatives of a row, with their scores if it has any.

    Where negatives are too few, all are repeated equally often, or once more.
    """
    positive = rng.randrange(len(row.pos))
    times, rest = divmod(size - 1, len(row.neg))
    negatives = list(range(len(row.neg))) * times + rng.sample(range(len(row.neg)), rest)
    passages = [row.pos[positive], *(row.neg[i] for i in negatives)]
    # Negatives from other rows have no scores.
    if row.pos_scores is None or row.neg_scores is None or len(row.neg_scores) != len(row.neg):
        return passages, None
    return passages, [row.pos_scores[positive], *(row.neg_scores[i] for i in negatives)]


def encode_pairs(tokenizer: Any, query: str, passages: Sequence[str], lengths: Lengths) -> list[dict[str, list[int]]]:
    """Return the model's inputs for a query with each passage, whose end is cut where the pair is too long."""
    query = cut_text(tokenizer, query, lengths.query)
    columns = tokenizer([query] * len(passages), list(passages), truncation="only_second", max_length=lengths.pair)
    return [dict(zip(columns.keys(), values, strict=True)) for values in zip(*columns.values(), strict=True)]


def collate(groups: Sequence[tuple[list[dict[str, list[int]]], list[float] | None]]) -> dict[str, Any]:
    """Lay the pairs of several groups end to end, without padding.

    Returns ``pair``, the model's inputs as flat tensors of shape (tokens,) and ``lengths``, the tokens of each pair;
    and ``teacher_scores``, one number per pair, or None.
    """
    import torch

    pairs = [pair for encoded, _ in groups for pair in encoded]
    keys = [key for key in pairs[0] if key != "attention_mask"]  # which follows from the lengths
    flat: dict[str, Any] = {key: torch.tensor([i for pair in pairs for i in pair[key]]) for key in keys}
    flat["lengths"] = [len(pair["input_ids"]) for pair in pairs]
    scores = [score for _, group in groups if group is not None for score in group]
    return {"pair": flat, "teacher_scores": scores or None}


def plan_micro_batches(lengths: Sequence[int], max_tokens: int, multiple: int = 1) -> list[list[int]]:
    """Return the positions of pairs of ``lengths`` tokens in length-bucketed micro-batches, longest first.

    With padding to a multiple of ``multiple``, each has at most ``max_tokens``; a longer pair is alone in its own.
    """
    return list(token_batches([round_up(length, multiple) for length in lengths], max_tokens, len(lengths)))


def round_up(length: int, multiple: int) -> int:
    """Return the least multiple of ``multiple`` that is no less than ``length``."""
    return -(-length // multiple) * multiple
