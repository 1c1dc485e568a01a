"""Labelled examples split into training and test files."""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from utils.data import hold_out
from utils.data.hold_out import Links
from utils.data.rows import canonical, without
from utils.files import write_jsonl
from utils.schema import ContrastiveExample

MOST_LOST = 0.1  # largest share of rows that may be lost to both sides
SPLIT_FILES = ("train_data.jsonl", "test_data.jsonl", "test_data_sample.jsonl")


class Labelled(NamedTuple):
    """An example with its source document's text and its bridge entity's name."""

    source: str
    entity: str
    example: ContrastiveExample


class Split(NamedTuple):
    """Training and test examples that share nothing, and what that cost."""

    train: list[ContrastiveExample]
    test: list[ContrastiveExample]
    dropped: int  # examples on neither side, because they are linked to both
    pruned: int  # passages removed from training examples because the test set has them
    thinned: int  # negatives removed from test pools because training examples need them
    wanted: int  # test examples requested


def split_examples(
    labelled: Sequence[Labelled], test_fraction: float, rng: random.Random, keep_negatives: bool = False
) -> Split:
    """Split examples so that no query, entity or document, as source or passage, is on both sides.

    Held out is ``test_fraction`` of them, each with a negative, preferring those with few links to others. A passage
    on both sides is removed from the training examples, or from the test pool where it is a training example's source
    or positive. At most ``MOST_LOST`` of all examples (of fewer than 20: two) are lost to both sides, and no more than
    are held out; where that is impossible, fewer are held out, or none. Texts are compared in their
    :func:`utils.data.rows.canonical` form. With ``keep_negatives``, a training example without negatives is lost, too.
    """
    ids: dict[str, int] = {}  # by raw text too, so that each long text is normalised once

    def key(text: str) -> int:
        if text not in ids:
            ids[text] = ids.setdefault(canonical(text), len(ids))
        return ids[text]

    def links(one: Labelled) -> Links:
        needed = frozenset((key(one.source), key(one.example.query), key(f"\0 {one.entity}")))
        positives, negatives = (frozenset(map(key, texts)) for texts in (one.example.pos, one.example.neg))
        return Links(needed, positives, negatives - needed - positives)

    rows = [links(one) for one in labelled]
    wanted = math.ceil(test_fraction * len(rows))
    most_lost = max(2, int(MOST_LOST * len(rows)))
    found = hold_out.hold_out(rows, wanted, most_lost, rng, keep_negatives)
    tested = [number for number in sorted(found.pools) if found.pools[number]]
    trained = [number for number in range(len(rows)) if number not in found.pools and number not in found.lost]
    # A training row takes precedence over a pool's negative, a held-out row over another's passage.
    stood_on = {key for number in trained for key in rows[number].core} - found.taken
    test = [without(labelled[number].example, lambda text: key(text) in stood_on) for number in tested]
    shown = found.taken | {key(text) for example in test for text in example.neg}
    train = [without(labelled[number].example, lambda text: key(text) in shown) for number in trained]
    pruned, thinned = (
        sum(len(labelled[number].example.passages) for number in numbers) - sum(len(one.passages) for one in kept)
        for numbers, kept in ((trained, train), (tested, test))
    )
    return Split(train, test, len(rows) - len(train) - len(test), pruned, thinned, wanted)


def write_split(folder: Path, split: Split, sample: int = 10) -> dict[str, int]:
    """Write ``train_data.jsonl``, ``test_data.jsonl`` and a sample of the latter; return the counts."""
    files = dict(zip(SPLIT_FILES, (split.train, split.test, split.test[:sample]), strict=True))
    for name, examples in files.items():
        write_jsonl(folder / name, (example.row() for example in examples))
    return {
        "train": len(split.train),
        "test": len(split.test),
        "dropped for the split": split.dropped,
        "passages pruned": split.pruned + split.thinned,
    }
