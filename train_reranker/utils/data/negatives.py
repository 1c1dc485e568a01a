"""Negatives for rows that have too few."""

from __future__ import annotations

import random
from collections.abc import Sequence

from utils.data.rows import _positives_by_query
from utils.data.split import canonical
from utils.errors import InputError
from utils.schema import ContrastiveExample


def fill_negatives(examples: Sequence[ContrastiveExample], wanted: int, rng: random.Random) -> list[ContrastiveExample]:
    """Give every example at least ``wanted`` negatives, from other examples' passages.

    A passage of the example's own is never taken, nor a positive of its query in another row. FlagEmbedding repeats the
    row's own negatives instead, which makes a group of four out of one hard negative seen three times, and fails on a
    row that has none.

    Raises:
        InputError: all passages together are too few to fill a group.
    """
    if all(len(example.neg) >= wanted for example in examples):
        return list(examples)
    passages: dict[str, str] = {}
    for example in examples:
        for passage in example.passages:
            passages.setdefault(canonical(passage), passage)
    texts, positives = list(passages), _positives_by_query(examples)

    def complete(example: ContrastiveExample) -> ContrastiveExample:
        own = positives[canonical(example.query)] | set(map(canonical, example.neg))
        missing = wanted - len(example.neg)
        # The own passages that a draw can hit are few: this many draws hold enough others, if there are any.
        drawn = rng.sample(texts, min(len(texts), missing + len(own)))
        others = [text for text in drawn if text not in own][:missing]
        if len(others) < missing:
            raise InputError(
                f"too few passages to fill groups of {wanted + 1}: give more rows, a smaller --train_group_size, "
                "or --negative_fill repeat"
            )
        return example._replace(neg=[*example.neg, *(passages[text] for text in others)])

    return [example if len(example.neg) >= wanted else complete(example) for example in examples]
