"""Negatives for rows that have too few."""

import random
from collections.abc import Sequence

from utils.data.rows import canonical, positives_by_query
from utils.errors import InputError
from utils.schema import ContrastiveExample


def fill_negatives(examples: Sequence[ContrastiveExample], wanted: int, rng: random.Random) -> list[ContrastiveExample]:
    """Give every example at least ``wanted`` negatives, drawn from other examples' passages.

    Never drawn are the example's own passages, and positives of its query in other rows. FlagEmbedding repeats the
    row's own negatives instead: a group of four may then show one negative three times, and a row without any fails.

    Raises:
        InputError: there are too few passages in all to fill a group.
    """
    if all(len(example.neg) >= wanted for example in examples):
        return list(examples)
    passages: dict[str, str] = {}
    for example in examples:
        for passage in example.passages:
            passages.setdefault(canonical(passage), passage)
    texts, positives = list(passages), positives_by_query(examples)

    def complete(example: ContrastiveExample) -> ContrastiveExample:
        own = positives[canonical(example.query)] | set(map(canonical, example.neg))
        missing = wanted - len(example.neg)
        # A draw can hit each own passage once at most, so this many draws contain enough others, if they exist.
        drawn = rng.sample(texts, min(len(texts), missing + len(own)))
        others = [text for text in drawn if text not in own][:missing]
        if len(others) < missing:
            raise InputError(
                f"too few passages to fill groups of {wanted + 1}: give more rows, a smaller --train_group_size, "
                "or --negative_fill repeat"
            )
        return example._replace(neg=[*example.neg, *(passages[text] for text in others)])

    return [example if len(example.neg) >= wanted else complete(example) for example in examples]
