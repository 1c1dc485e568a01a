"""Validating, filling and splitting examples."""

from __future__ import annotations

import random

from utils.data.split import Labelled, split_examples
from utils.schema import ContrastiveExample


def test_split_has_nothing_in_common() -> None:
    rng = random.Random(5)
    texts = [f"text {i}" for i in range(900)]
    labelled = []
    for i in range(240):
        pos, *neg = rng.sample(texts, 3)
        entity = f"Entity {i // 3}" if i % 2 else f"entity {i // 3}"
        labelled.append(Labelled(texts[i], entity, ContrastiveExample(f"q{i}", [pos], neg)))
    split = split_examples(labelled, 0.1, random.Random(1))
    by_query = {one.example.query: one for one in labelled}
    assert len(split.test) == 24
    assert len(split.train) + len(split.test) + split.dropped == len(labelled)
    assert split.dropped <= 24
    sides = []
    for side in (split.train, split.test):
        entities = {by_query[example.query].entity.casefold() for example in side}
        sources = {by_query[example.query].source for example in side}
        passages = {text for example in side for text in example.passages}
        sides.append((entities, sources | passages))
    assert not sides[0][0] & sides[1][0]
    assert not sides[0][1] & sides[1][1]


def test_nothing_is_split_from_nothing() -> None:
    assert split_examples([], 0.2, random.Random(1)) == ([], [], 0, 0, 0, 0)
