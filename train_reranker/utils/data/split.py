"""Labelled examples split into training and test files."""

from __future__ import annotations

import math
import random
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utils.data import hold_out
from utils.data.hold_out import Links
from utils.files import write_jsonl
from utils.schema import ContrastiveExample

MOST_LOST = 0.1  # of the rows, so that others can be held out
SPLIT_FILES = ("train_data.jsonl", "test_data.jsonl", "test_data_sample.jsonl")


class Labelled(NamedTuple):
    """An example with what it came from: the source document's text and the bridge entity's name."""

    source: str
    entity: str
    example: ContrastiveExample


class Split(NamedTuple):
    """Training and test examples with nothing in common, and what that cost."""

    train: list[ContrastiveExample]
    test: list[ContrastiveExample]
    dropped: int  # examples on neither side, for both would have them
    pruned: int  # passages taken out of training examples because the test set has them
    thinned: int  # negatives taken out of test pools because training examples stand on them
    wanted: int  # test examples that were asked for


def split_examples(
    labelled: Sequence[Labelled], test_fraction: float, rng: random.Random, keep_negatives: bool = False
) -> Split:
    """Split examples so that no query, entity or document, whether source or passage, stands on both sides.

    ``test_fraction`` of them are held out, all with a negative, chosen so that little is linked to them. What both
    sides have is taken out of the training examples, or of the test pools where a training example stands on it: a
    source or a positive. At most ``MOST_LOST`` of all examples (of fewer than 20: two) are lost to both sides, and no
    more than are held out; where that cannot be, fewer are held out, or none. Texts that :func:`canonical`
    makes the same are one text. ``keep_negatives`` counts a training example as lost that keeps no negative.
    """
    ids: dict[str, int] = {}  # of texts as they are, so that a long one is looked at once

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
    # A row to train on goes before a pool's negative, a held-out row before a passage of another.
    stood_on = {key for number in trained for key in rows[number].core} - found.taken
    test = [without(labelled[number].example, lambda text: key(text) in stood_on) for number in tested]
    shown = found.taken | {key(text) for example in test for text in example.neg}
    train = [without(labelled[number].example, lambda text: key(text) in shown) for number in trained]
    pruned, thinned = (
        sum(len(labelled[number].example.passages) for number in numbers) - sum(len(one.passages) for one in kept)
        for numbers, kept in ((trained, train), (tested, test))
    )
    return Split(train, test, len(rows) - len(train) - len(test), pruned, thinned, wanted)


def canonical(text: str) -> str:
    """Return what texts have in common that differ in white space, case or Unicode's normal form alone."""
    return " ".join(unicodedata.normalize("NFC", text.casefold()).split())


def without(example: ContrastiveExample, unwanted: Callable[[str], bool]) -> ContrastiveExample:
    """Return the example without such passages, and without their scores."""
    kept: dict[str, Any] = {}
    for key in ("pos", "neg"):
        passages, scores = getattr(example, key), getattr(example, f"{key}_scores")
        places = [i for i, passage in enumerate(passages) if not unwanted(passage)]
        kept[key] = [passages[i] for i in places]
        kept[f"{key}_scores"] = None if scores is None else [scores[i] for i in places]
    return example._replace(**kept)


def write_split(folder: Path, split: Split, sample: int = 10) -> dict[str, int]:
    """Write ``train_data.jsonl``, ``test_data.jsonl`` and a sample of the latter; returns the counts to report."""
    files = dict(zip(SPLIT_FILES, (split.train, split.test, split.test[:sample]), strict=True))
    for name, examples in files.items():
        write_jsonl(folder / name, (example.row() for example in examples))
    return {
        "train": len(split.train),
        "test": len(split.test),
        "dropped for the split": split.dropped,
        "passages pruned": split.pruned + split.thinned,
    }
