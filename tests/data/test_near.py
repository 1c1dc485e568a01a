"""Near-duplicates are found, and filled-in forms, translations of words, and other texts on a topic are not."""

from __future__ import annotations

import random

import numpy as np
import pytest

from utils.data.near import SIMILAR, near_groups, sketch, text_groups
from utils.data.rows import canonical

WORDS = [f"word{i}" for i in range(2000)]


def passage(rng: random.Random, sentences: int = 6) -> list[str]:
    return [" ".join(rng.choices(WORDS, k=12)).capitalize() + "." for _ in range(sentences)]


def changed(sentences: list[str], rng: random.Random) -> str:
    """Return the passage with one sentence replaced by another."""
    at = rng.randrange(len(sentences))
    return " ".join([*sentences[:at], *passage(rng, 1), *sentences[at + 1 :]])


def test_a_passage_with_a_changed_sentence_is_found_among_others() -> None:
    rng = random.Random(0)
    passages = [passage(rng) for _ in range(400)]
    originals, copies = [" ".join(one) for one in passages], [changed(one, rng) for one in passages]
    group = text_groups([*originals, *copies])
    assert sum(group[a] == group[b] for a, b in zip(originals, copies, strict=True)) >= 398
    assert len({group[one] for one in originals}) == 400


def test_equal_texts_up_to_case_and_space_have_one_group() -> None:
    group = text_groups(["A  lake", "a lake\n", "A lake.", "a lane"])
    assert group["A  lake"] == group["a lake\n"] == group["A lake."] != group["a lane"]


def test_forms_filled_in_are_no_duplicates() -> None:
    towns = [
        f"what is the population of the town of {name} in the year 1900?" for name in ("Arden", "Belmont", "Elgin")
    ]
    assert len(set(text_groups(towns).values())) == 3


def test_no_short_texts_are_one_by_chance() -> None:
    assert len(set(text_groups(f"answer {i}" for i in range(5000)).values())) == 5000


def test_scripts_without_spaces_are_compared_by_characters() -> None:
    text = "湖水清澈见底，周围群山环绕，每年夏天都有许多游客来到这里划船、钓鱼和露营，冬天则可以滑雪。"
    other = "这座城市建于十四世纪，以纺织业闻名，城墙至今保存完好，是该地区最受欢迎的旅游目的地之一呢。"
    group = text_groups([text, text.replace("冬天则可以滑雪", "春天适合赏花"), other])
    assert len(set(group.values())) == 2
    assert group[text] != group[other]


def test_a_sketch_estimates_the_share_of_common_wording() -> None:
    rng = random.Random(1)
    sentences = passage(rng, 40)
    whole, most = (sketch(canonical(" ".join(one))) for one in (sentences, sentences[:30]))
    assert abs(np.mean(whole == most) - 0.75) < 0.15


def test_groups_are_closed_and_few_sketches_are_no_trouble() -> None:
    assert near_groups(np.zeros((0, 126), np.uint8)).tolist() == []
    assert near_groups(np.zeros((1, 126), np.uint8)).tolist() == [0]
    rng = random.Random(2)
    sentences = passage(rng, 12)
    chain = [" ".join(sentences[i : i + 8]) for i in (0, 2, 4)]  # the ends share a third, neighbours 60%
    first, middle, last = (sketch(canonical(one)) for one in chain)
    assert np.mean(first == last) < SIMILAR < np.mean(first == middle)
    assert near_groups(np.array([first, last])).tolist() == [0, 1]
    assert near_groups(np.array([first, middle, last])).tolist() == [0, 0, 0]


@pytest.mark.parametrize("count", [3, 40])
def test_many_equal_sketches_are_one_group(count: int) -> None:
    assert set(near_groups(np.repeat(sketch("a" * 50)[None], count, 0)).tolist()) == {0}
