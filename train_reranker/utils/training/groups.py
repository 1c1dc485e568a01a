"""Rows to groups, groups to token ids, token ids to ragged batches and length-bucketed micro-batches."""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from utils.models.devices import token_batches
from utils.models.lengths import Lengths, cut_text
from utils.schema import ContrastiveExample


class Group(NamedTuple):
    """The encoded pairs of one row: a positive, then its negatives; and a number for each where there are any."""

    pairs: list[dict[str, list[int]]]
    teacher_scores: list[float] | None = None  # the row's own, to distil from
    close_scores: list[float] | None = None  # of the reranker to stay close to


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
    distil: bool = False  # give the rows' scores, too
    close: Sequence[list[float]] | None = None  # another reranker's scores of each row's passages
    epoch: int = 0  # set from outside

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, number: int) -> Group:
        """Return the group that is drawn for a row in this epoch."""
        from torch.utils.data import get_worker_info

        if get_worker_info() is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive a fork
        row, rng = self.rows[number], random.Random(f"{self.seed} {self.epoch} {number}")
        drawn = draw_group(row, self.group_size, rng)
        pairs = encode_pairs(self.tokenizer, row.query, [row.passages[i] for i in drawn], self.lengths)
        own = row_scores(row) if self.distil else None
        close = None if self.close is None else self.close[number]
        return Group(pairs, own and [own[i] for i in drawn], close and [close[i] for i in drawn])


def draw_group(row: ContrastiveExample, size: int, rng: random.Random) -> list[int]:
    """Draw a positive and ``size`` - 1 negatives of a row; return their places in its ``passages``.

    Where negatives are too few, all are repeated equally often, or once more.
    """
    positive = rng.randrange(len(row.pos))
    times, rest = divmod(size - 1, len(row.neg))
    negatives = list(range(len(row.neg))) * times + rng.sample(range(len(row.neg)), rest)
    return [positive, *(len(row.pos) + i for i in negatives)]


def row_scores(row: ContrastiveExample) -> list[float] | None:
    """Return a row's score for each of its ``passages``; None where it has none, or negatives from other rows."""
    if row.pos_scores is None or row.neg_scores is None or len(row.neg_scores) != len(row.neg):
        return None
    return [*row.pos_scores, *row.neg_scores]


def encode_pairs(tokenizer: Any, query: str, passages: Sequence[str], lengths: Lengths) -> list[dict[str, list[int]]]:
    """Return the model's inputs for a query with each passage, whose end is cut where the pair is too long."""
    query = cut_text(tokenizer, query, lengths.query)
    columns = tokenizer([query] * len(passages), list(passages), truncation="only_second", max_length=lengths.pair)
    return [dict(zip(columns.keys(), values, strict=True)) for values in zip(*columns.values(), strict=True)]


def collate(groups: Sequence[Group]) -> dict[str, Any]:
    """Lay the pairs of several groups end to end, without padding.

    Returns ``pair``, the model's inputs as flat tensors of shape (tokens,) and ``lengths``, the tokens of each pair;
    and ``teacher_scores`` and ``close_scores``, one number per pair, or None.
    """
    import torch

    pairs = [pair for group in groups for pair in group.pairs]
    keys = [key for key in pairs[0] if key != "attention_mask"]  # which follows from the lengths
    flat: dict[str, Any] = {key: torch.tensor([i for pair in pairs for i in pair[key]]) for key in keys}
    flat["lengths"] = [len(pair["input_ids"]) for pair in pairs]
    own = [score for group in groups for score in group.teacher_scores or ()]
    close = [score for group in groups for score in group.close_scores or ()]
    return {"pair": flat, "teacher_scores": own or None, "close_scores": close or None}


def plan_micro_batches(lengths: Sequence[int], max_tokens: int, multiple: int = 1) -> list[list[int]]:
    """Return the positions of pairs of ``lengths`` tokens in length-bucketed micro-batches, longest first.

    With padding to a multiple of ``multiple``, each has at most ``max_tokens``; a longer pair is alone in its own.
    """
    return list(token_batches([round_up(length, multiple) for length in lengths], max_tokens, len(lengths)))


def round_up(length: int, multiple: int) -> int:
    """Return the least multiple of ``multiple`` that is no less than ``length``."""
    return -(-length // multiple) * multiple
