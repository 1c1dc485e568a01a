"""Splitting: nothing is shared with the others, and little is lost to both."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from auditing import changed, clean_rows, passage, write
from tools import split_data
from utils.data.rows import canonical, read_examples
from utils.data.split import SPLIT_FILES, Labelled, split_examples
from utils.errors import InputError
from utils.schema import ContrastiveExample
from utils.training import held_out


def test_split_has_nothing_in_common() -> None:
    rng = random.Random(5)
    texts = [f"text {i}" for i in range(900)]
    labelled = []
    for i in range(240):
        pos, *neg = rng.sample(texts, 3)
        entity = f"Entity {i // 3}" if i % 2 else f"entity {i // 3}"
        labelled.append(Labelled(texts[i], entity, ContrastiveExample(f"q{i}", [pos], neg)))
    split = split_examples(labelled, 0.1, 1)
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


SEEDS = [seed if seed < 2 else pytest.param(seed, marks=pytest.mark.slow) for seed in range(20)]


@pytest.mark.parametrize("seed", SEEDS)
def test_planted_leaks_are_on_one_side(seed: int) -> None:
    rng = random.Random(seed)
    labelled = [
        Labelled(passage(rng), f"entity {i}", ContrastiveExample(f"q{i}", [passage(rng)], [passage(rng), passage(rng)]))
        for i in range(150)
    ]
    leaks: list[tuple[str, str]] = []  # texts that must not be on two sides
    same: list[tuple[str, str]] = []  # queries of one entity
    for i in range(0, 45, 3):
        other, one = labelled[100 + i].example, [labelled[number].example for number in (i, i + 1, i + 2)]
        labelled[i] = labelled[i]._replace(example=one[0]._replace(neg=[other.pos[0], one[0].neg[0]]))
        leaks.append((other.pos[0], other.pos[0]))
        copy = changed(other.pos[0], rng)
        labelled[i + 1] = labelled[i + 1]._replace(example=one[1]._replace(pos=[copy]))
        leaks.append((other.pos[0], copy))
        labelled[i + 2] = labelled[i + 2]._replace(entity=f"Entity  {100 + i}")
        same.append((other.query, one[2].query))
    split = split_examples(labelled, 0.2, seed)
    assert len(split.test) >= 20
    sides = [{text for row in side for text in (row.query, *row.passages)} for side in (split.train, split.test)]
    for first, second in (*leaks, *same):
        assert not ({first, second} & sides[0] and {first, second} & sides[1])


def test_questions_of_one_source_stay_together() -> None:
    labelled = [
        Labelled(f"source {i // 2}", f"entity {i}", ContrastiveExample(f"q{i}", [f"p{i}"], [f"n{i}"]))
        for i in range(80)
    ]
    split = split_examples(labelled, 0.25, 1)
    held_out, trained = ({int(row.query[1:]) // 2 for row in side} for side in (split.test, split.train))
    assert (len(split.test), len(split.train)) == (20, 60)
    assert not held_out & trained


def test_other_rows_change_little_of_what_is_held_out() -> None:
    data = [row for n in range(20) for row in _topic(n, 10)] + drawn(200, 300, 3)
    tests = [
        {row.query for row in held_out.hold_out(some, 0.1, seed=1).test}
        for some in (data, data[:55] + data[60:], [*reversed(data), *apart(10)])
    ]
    assert len(tests[0]) == 40
    assert all(len(tests[0] & other) >= 28 for other in tests)


def test_nothing_is_split_from_nothing() -> None:
    assert split_examples([], 0.2, random.Random(1)) == ([], [], 0, 0, 0, 0)


def rows(count: int) -> list[ContrastiveExample]:
    return [
        ContrastiveExample(f"q{i // 2}", [f"p{i}"], [f"n{i}", f"n{i + 1}"], [1.0], [0.5, 0.25]) for i in range(count)
    ]


def texts(side: Sequence[ContrastiveExample]) -> set[str]:
    return {text for row in side for text in (row.query, *row.passages)}


def test_held_out_rows_share_nothing_with_the_others() -> None:
    split = held_out.hold_out(rows(300), 0.1, seed=1)
    assert 30 <= len(split.test) <= 32
    assert not texts(split.train) & texts(split.test)
    assert len(split.train) + len(split.test) + split.dropped == 300
    assert split.pruned > 0
    assert all(len(row.neg) == len(row.neg_scores or []) for row in split.train)  # scores go with their passages
    assert split == held_out.hold_out(rows(300), 0.1, seed=1) != held_out.hold_out(rows(300), 0.1, seed=2)


def drawn(count: int, passages: int, negatives: int, positives: int = 1) -> list[ContrastiveExample]:
    """Rows whose passages are drawn from the same few."""
    rng, found = random.Random(count), []
    for i in range(count):
        own = [f"passage {n}" for n in rng.sample(range(passages), positives + negatives)]
        found.append(ContrastiveExample(f"question {i}", own[:positives], own[positives:]))
    return found


def answers(count: int, passages: int, steps: Sequence[int]) -> list[ContrastiveExample]:
    """Questions that have one of few answers, with other answers as negatives."""
    return [
        ContrastiveExample(f"question {i}", [f"answer {i % passages}"], [f"answer {(i + n) % passages}" for n in steps])
        for i in range(count)
    ]


def apart(count: int, more: Sequence[str] = (), positive: str | None = None) -> list[ContrastiveExample]:
    """Rows that share no more than is said."""
    return [ContrastiveExample(f"question {i}", [positive or f"pos {i}"], [f"neg {i}", *more]) for i in range(count)]


# Name: rows, how many must be held out, and how many may be lost.
SHAPES: dict[str, tuple[Callable[[], list[ContrastiveExample]], int, int]] = {
    "few passages": (lambda: drawn(2000, 500, 7), 200, 40),
    "as many passages as rows": (lambda: drawn(10_000, 10_000, 15), 500, 0),
    "three positives": (lambda: drawn(1000, 1000, 7, positives=3), 100, 20),
    "ten answers for all": (lambda: answers(300, 10, (1, 2, 3)), 30, 30),
    "a hundred answers": (lambda: answers(2000, 100, (1, 5, 9, 20, 30, 40, 50)), 200, 0),
    "nothing shared": (lambda: apart(1000), 100, 0),
    "one negative for all": (lambda: apart(1000, ["shared"]), 100, 0),
    "one positive for all": (lambda: apart(1000, positive="shared"), 0, 0),
    "one query for all": (lambda: [row._replace(query="the same") for row in apart(1000)], 0, 0),
    "groups of their own": (lambda: [row for n in range(20) for row in _topic(n, 50)], 100, 0),
    "no row but one": (lambda: apart(1), 0, 0),
}


def _topic(number: int, count: int) -> list[ContrastiveExample]:
    """Rows whose passages no other topic has."""
    return [
        row._replace(
            query=f"{number} {row.query}", pos=[f"{number} {row.pos[0]}"], neg=[f"{number} {n}" for n in row.neg]
        )
        for row in answers(count, count, (1, 2, 3))
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_little_is_lost_to_what_is_held_out(shape: str) -> None:
    made, wanted, most_lost = SHAPES[shape]
    data = made()
    split = held_out.hold_out(data, 0.1, seed=3)
    assert abs(len(split.test) - wanted) <= wanted / 50
    assert split.dropped <= most_lost
    assert len(split.train) + len(split.test) + split.dropped == len(data)
    assert not texts(split.train) & texts(split.test)
    assert all(row.neg for row in split.test)
    assert split == held_out.hold_out(data, 0.1, seed=3)
    reported = held_out.shortfall(split)
    assert (reported is None) == (wanted > 0)
    assert reported is None or "--eval_data" in reported


def test_whole_components_go_first() -> None:
    tangle = drawn(500, 60, 5)
    topics = [row for n in range(20) for row in _topic(n, 5)]
    split = held_out.hold_out(tangle + topics, 0.1, seed=1)
    assert len(split.test) == 60
    assert (split.dropped, split.pruned, split.thinned) == (0, 0, 0)
    assert all(row in topics for row in split.test)


def test_texts_that_differ_in_white_space_case_or_normal_form_are_the_same() -> None:
    data = [row._replace(pos=[f"caf\u00e9 {row.pos[0]}"]) for row in apart(400)]
    data += [
        row._replace(query=f" {row.query}".upper(), pos=[f"Cafe\u0301{row.pos[0][4:]}\n"], neg=[f"{i}"])
        for i, row in enumerate(data)
    ]
    split = held_out.hold_out(data, 0.1, seed=1)
    assert len(split.test) == 80
    assert not set(map(canonical, texts(split.train))) & set(map(canonical, texts(split.test)))
    assert canonical(data[0].pos[0]) == canonical(data[400].pos[0]) == f"caf\u00e9 {data[0].pos[0][5:]}"


def test_few_rows_are_all_trained_on() -> None:
    split = held_out.hold_out(rows(100), 0.1, seed=1)
    assert split == (rows(100), [], 0, 0, 0, 10)
    assert "would be held out (10, and 20 are needed)" in str(held_out.shortfall(split))


@pytest.mark.parametrize("count", [21, 24, 100])
def test_some_row_is_left_to_train_on(count: int) -> None:
    split = held_out.hold_out(apart(count), 0.999, seed=1)
    assert (len(split.train), len(split.test)) == (1, count - 1)
    shared = [row._replace(pos=["shared"]) for row in apart(count)]
    assert held_out.hold_out(shared, 0.95, seed=1).train


def test_rows_that_rank_nothing_are_not_held_out() -> None:
    bare = [row._replace(neg=[], neg_scores=None) for row in rows(300)]
    assert held_out.hold_out(bare, 0.1, seed=1) == (bare, [], 0, 0, 0, 30)
    reported = held_out.shortfall(held_out.hold_out([*bare, *rows(2)], 0.1, seed=1))
    assert "only 2 rows have a negative to rank against" in str(reported)
    mixed = [row._replace(neg=[], neg_scores=None) if i % 4 == 0 else row for i, row in enumerate(rows(600))]
    split = held_out.hold_out(mixed, 0.1, seed=1)
    assert len(split.test) >= 40
    assert all(row.neg for row in split.test)
    assert len(split.train) + len(split.test) + split.dropped == 600


def test_own_rows_are_split_into_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    data = str(write(tmp_path / "rows.jsonl", clean_rows(random.Random(0), 60)))
    split_data.main([data, "--output_dir", "mine", "--test_fraction", "0.25"])
    train, test, sample = (read_examples([Path("mine") / name]) for name in SPLIT_FILES)
    assert (len(train), len(test), len(sample)) == (45, 15, 10)
    assert {row.query for row in train + test} == {row.query for row in read_examples([data])}
    assert not texts(train) & texts(test)
    out = capsys.readouterr().out
    assert "train 45, test 15, dropped for the split 0, passages pruned 0; 15 queries to test on" in out
    assert "can show only large gains: hold out 50 or more" in caplog.text
    assert "python train_reranker.py --train_data mine/train_data.jsonl --output_dir ./output_mine" in out
    before = {path.name: path.read_bytes() for path in Path("mine").iterdir()}
    with pytest.raises(InputError, match="already exists: choose another --output_dir"):
        split_data.main([data, "--output_dir", "mine"])
    assert before == {path.name: path.read_bytes() for path in Path("mine").iterdir()}


def test_what_cannot_be_held_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = clean_rows(random.Random(0), 60)

    def split(negatives: int, fraction: str) -> None:
        some = [row if number < negatives else row | {"neg": []} for number, row in enumerate(rows)]
        split_data.main(
            [str(write(tmp_path / "rows.jsonl", some)), "--output_dir", "mine", "--test_fraction", fraction]
        )

    with pytest.raises(InputError, match="nothing can be held out: only 0 rows have a negative"):
        split(0, "0.2")
    with pytest.raises(InputError, match="nothing can be held out: --test_fraction is 0"):
        split(60, "0")
    assert not [*tmp_path.glob("mine/*.jsonl")]
    split(3, "0.5")
    assert "only 3 rows have a negative to rank against" in caplog.text
