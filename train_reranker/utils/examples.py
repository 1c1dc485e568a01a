"""Contrastive examples: read and validate them, fill their negatives, split them without a leak."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utils import jsonl
from utils.cli import InputError, find_input
from utils.schema import ContrastiveExample

SPLIT_FILES = ("train_data.jsonl", "test_data.jsonl", "test_data_sample.jsonl")


def parse_example(row: dict[str, Any], where: str) -> ContrastiveExample:
    """Return the example that one row of a data file holds; ``neg`` may be missing, other keys are left alone.

    Raises:
        InputError: ``query`` is no text, or ``pos``, ``neg`` or their scores are no lists of what they should hold;
            begins with ``where``.
    """
    query = row.get("query")
    if not isinstance(query, str) or not query.strip():
        raise InputError(f'{where}: "query" must be a text that is not empty')
    texts: dict[str, list[str]] = {}
    for key in ("pos", "neg"):
        passages = row.get(key, [] if key == "neg" else None)
        passages = [] if passages is None and key == "neg" else passages
        if not isinstance(passages, list) or not all(isinstance(p, str) and p.strip() for p in passages):
            raise InputError(f'{where}: "{key}" must be a list of texts, none of them empty')
        texts[key] = passages
    if not texts["pos"]:
        raise InputError(f'{where}: "pos" must hold at least one text')
    scores: dict[str, list[float] | None] = {}
    for key in ("pos", "neg"):
        values = row.get(f"{key}_scores")
        if values is not None and (
            not isinstance(values, list)
            or len(values) != len(texts[key])
            or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        ):
            raise InputError(f'{where}: "{key}_scores" must hold one number for each text of "{key}"')
        scores[key] = values
    return ContrastiveExample(query, texts["pos"], texts["neg"], scores["pos"], scores["neg"])


def read_examples(paths: Iterable[str | Path], what: str = "training data") -> list[ContrastiveExample]:
    """Return the examples of JSONL files, or of all ``*.jsonl`` and ``*.json`` files of folders, in order.

    Raises:
        InputError: a path is not there, a row is malformed (file and line are named), or there is no row at all.
    """
    examples: list[ContrastiveExample] = []
    for path in paths:
        found = find_input(path, what, "name a JSONL file of query/pos/neg rows, or make one with `make data`")
        files = sorted(f for f in found.iterdir() if f.suffix in (".jsonl", ".json")) if found.is_dir() else [found]
        for file in files:
            examples += [parse_example(row, f"{file}, line {number}") for number, row in jsonl.read(file)]
    if not examples:
        raise InputError(f"{what} {', '.join(map(str, paths))} holds no row of query, pos and neg")
    return examples


def fill_negatives(examples: Sequence[ContrastiveExample], wanted: int, rng: random.Random) -> list[ContrastiveExample]:
    """Give every example at least ``wanted`` negatives, from other examples' passages.

    A passage of the example's own is never taken. FlagEmbedding repeats the row's own negatives instead, which
    makes a group of four out of one hard negative seen three times, and fails on a row that has none.

    Raises:
        InputError: all passages together are too few to fill a group.
    """
    passages = list(dict.fromkeys(p for example in examples for p in (*example.pos, *example.neg)))
    return [
        example
        if len(example.neg) >= wanted
        else example._replace(neg=example.neg + _others(example, passages, wanted, rng))
        for example in examples
    ]


def _others(example: ContrastiveExample, passages: Sequence[str], wanted: int, rng: random.Random) -> list[str]:
    """Draw distinct passages that are not the example's own until it has ``wanted`` negatives."""
    own = {*example.pos, *example.neg}
    missing = wanted - len(example.neg)
    # The own passages that a draw can hit are few: this many draws hold enough others, if there are any.
    drawn = rng.sample(passages, min(len(passages), missing + len(own)))
    others = [passage for passage in drawn if passage not in own][:missing]
    if len(others) < missing:
        raise InputError(
            f"too few passages to fill groups of {wanted + 1}: give more rows, or a smaller --train_group_size"
        )
    return others


class Labelled(NamedTuple):
    """An example with what it came from: the source document's text and the bridge entity's name."""

    source: str
    entity: str
    example: ContrastiveExample

    @property
    def texts(self) -> set[str]:
        """All documents that the example has to do with: its source and its passages."""
        return {self.source, *self.example.pos, *self.example.neg}


class Split(NamedTuple):
    """Training and test examples with nothing in common, and what that cost the training side."""

    train: list[ContrastiveExample]
    test: list[ContrastiveExample]
    dropped: int  # training examples whose source or only positives stand in the test set
    pruned: int  # passages taken out of other training examples for the same reason


def split_examples(labelled: Sequence[Labelled], test_fraction: float, rng: random.Random) -> Split:
    """Split examples so that no document, whether source or passage, and no entity stands on both sides.

    Entities are drawn until ``test_fraction`` of the examples is reached. Their examples are the test set, left whole
    so that its pools stay what retrieval gave; whatever they share with the others is taken out of the others.
    """
    rows_of: dict[str, list[int]] = {}
    for row, one in enumerate(labelled):
        rows_of.setdefault(one.entity.casefold(), []).append(row)
    entities = list(rows_of)
    rng.shuffle(entities)
    in_test: set[int] = set()
    for entity in entities:
        if len(in_test) >= test_fraction * len(labelled):
            break
        in_test.update(rows_of[entity])
    tested = {text for row in in_test for text in labelled[row].texts}
    train, dropped, pruned = [], 0, 0
    for row, one in enumerate(labelled):
        if row in in_test:
            continue
        kept = without(one.example, tested)
        if one.source in tested or not kept.pos:
            dropped += 1
        else:
            pruned += len(one.example.pos) + len(one.example.neg) - len(kept.pos) - len(kept.neg)
            train.append(kept)
    return Split(train, [labelled[row].example for row in sorted(in_test)], dropped, pruned)


def without(example: ContrastiveExample, texts: set[str]) -> ContrastiveExample:
    """Return the example without such passages, and without their scores."""
    kept: dict[str, Any] = {}
    for key in ("pos", "neg"):
        passages, scores = getattr(example, key), getattr(example, f"{key}_scores")
        places = [i for i, passage in enumerate(passages) if passage not in texts]
        kept[key] = [passages[i] for i in places]
        kept[f"{key}_scores"] = None if scores is None else [scores[i] for i in places]
    return example._replace(**kept)


def write_split(folder: Path, split: Split, sample: int = 10) -> dict[str, int]:
    """Write ``train_data.jsonl``, ``test_data.jsonl`` and a sample of the latter; returns the counts to report."""
    files = dict(zip(SPLIT_FILES, (split.train, split.test, split.test[:sample]), strict=True))
    for name, examples in files.items():
        jsonl.write(folder / name, (example.row() for example in examples))
    return {
        "train": len(split.train),
        "test": len(split.test),
        "dropped for the split": split.dropped,
        "passages pruned": split.pruned,
    }
