"""Rows to groups, groups to token ids, token ids to ragged batches and length-bucketed micro-batches."""

import math
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from utils.models.devices import token_batches
from utils.models.lengths import Lengths, cut_text
from utils.schema import ContrastiveExample

PARTS = 8  # what a batch is divided into where shapes are to recur


class Group(NamedTuple):
    """The encoded pairs of one row: a positive, or graded ones, then negatives; and numbers for each pair."""

    pairs: list[dict[str, list[int]]]
    grades: list[int] | None = None  # 0 for negatives
    teacher_scores: list[float] | None = None  # the row's own, to distil from; NaN where it has none
    close_scores: list[float] | None = None  # of the reranker to stay close to


@dataclass
class TrainingGroups:
    """A map-style dataset whose item is the tokenised group of one row, as :func:`draw_group` draws it.

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
        grades = (row.pos_grades or [1] * len(row.pos)) + [0] * len(row.neg)
        own = [row_scores(row)[i] for i in drawn] if self.distil else None
        close = [self.close[number][i] for i in drawn] if self.close else None
        return Group(pairs, [grades[i] for i in drawn], own, close)


def draw_group(row: ContrastiveExample, size: int, rng: random.Random) -> list[int]:
    """Draw a group of a row: a positive, then ``size`` - 1 negatives; return their places in its ``passages``.

    Of a row with grades, up to half of the group are positives. Where negatives are too few, all are repeated equally
    often, or once more.
    """
    positives = rng.sample(range(len(row.pos)), min(len(row.pos), size // 2 if row.pos_grades else 1))
    times, rest = divmod(size - len(positives), len(row.neg))
    negatives = list(range(len(row.neg))) * times + rng.sample(range(len(row.neg)), rest)
    return [*positives, *(len(row.pos) + i for i in negatives)]


def row_scores(row: ContrastiveExample) -> list[float]:
    """Return a row's score for each of its ``passages``; NaN for negatives from other rows, or where it has none."""
    own = [] if row.pos_scores is None or row.neg_scores is None else [*row.pos_scores, *row.neg_scores]
    return own + [math.nan] * (len(row.passages) - len(own))


def encode_pairs(tokenizer: Any, query: str, passages: Sequence[str], lengths: Lengths) -> list[dict[str, list[int]]]:
    """Return the model's inputs for a query with each passage, whose end is cut where the pair is too long."""
    query = cut_text(tokenizer, query, lengths.query)
    columns = tokenizer([query] * len(passages), list(passages), truncation="only_second", max_length=lengths.pair)
    return [dict(zip(columns.keys(), values, strict=True)) for values in zip(*columns.values(), strict=True)]


def collate(groups: Sequence[Group]) -> dict[str, Any]:
    """Lay the pairs of several groups end to end, without padding.

    Returns ``pair``, the model's inputs as flat tensors of shape (tokens,) and ``lengths``, the tokens of each pair;
    and one number per pair as ``grades``, and as ``teacher_scores`` and ``close_scores`` if they are given, else None.
    """
    import torch

    pairs = [pair for group in groups for pair in group.pairs]
    keys = [key for key in pairs[0] if key != "attention_mask"]  # which follows from the lengths
    flat: dict[str, Any] = {key: torch.tensor([i for pair in pairs for i in pair[key]]) for key in keys}
    flat["lengths"] = [len(pair["input_ids"]) for pair in pairs]
    numbers = zip(*(group[1:] for group in groups), strict=True)
    columns = [[one for values in kind for one in values or ()] or None for kind in numbers]
    return {"pair": flat, **dict(zip(Group._fields[1:], columns, strict=True))}


def plan_micro_batches(
    lengths: Sequence[int], max_tokens: int, multiple: int = 1, overhead: int = 0
) -> list[list[int]]:
    """Return the positions of pairs of ``lengths`` tokens in length-bucketed micro-batches, longest first.

    With padding to a multiple of ``multiple``, each has at most ``max_tokens``; a longer pair is alone in its own.
    Where a micro-batch costs as much as ``overhead`` tokens beside its own, the plan is the cheapest of those that are
    made of eighths of the batch: their shapes recur, and a GPU's libraries work out how to compute each shape once.
    """
    widths = [round_up(length, multiple) for length in lengths]
    if not overhead:
        return list(token_batches(widths, max_tokens, len(lengths)))
    order = sorted(range(len(widths)), key=lambda i: -widths[i])
    size = max(1, min(len(order) // PARTS, max_tokens // max(widths, default=1)))
    starts = range(0, len(order), size)
    cheapest: dict[int, tuple[int, list[list[int]]]] = {len(order): (0, [])}  # from each start: its tokens and its plan
    for start in reversed(starts):
        ends = [min(end, len(order)) for end in range(start + size, len(order) + size, size)]
        fitting = [end for end in ends if widths[order[start]] * (end - start) <= max_tokens] or ends[:1]
        tokens = {end: widths[order[start]] * (end - start) + overhead + cheapest[end][0] for end in fitting}
        end = min(fitting, key=tokens.__getitem__)
        cheapest[start] = tokens[end], [order[start:end], *cheapest[end][1]]
    return cheapest[0][1]


def round_up(length: int, multiple: int) -> int:
    """Return the least multiple of ``multiple`` that is no less than ``length``."""
    return -(-length // multiple) * multiple
