"""Evaluation while training: the split, the verdict, and what the numbers are worth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from utils.schema import ContrastiveExample
from utils.training import evaluation
from utils.training.evaluation import BETTER, NO_DIFFERENCE, WORSE, History


def rows(count: int) -> list[ContrastiveExample]:
    return [
        ContrastiveExample(f"q{i // 2}", [f"p{i}"], [f"n{i}", f"n{i + 1}"], [1.0], [0.5, 0.25]) for i in range(count)
    ]


def test_held_out_rows_share_nothing_with_the_others() -> None:
    split = evaluation.hold_out(rows(300), 0.1, seed=1)
    assert 30 <= len(split.test) <= 32
    sides = [{t for row in side for t in (row.query, *row.pos, *row.neg)} for side in (split.train, split.test)]
    assert not sides[0] & sides[1]
    assert len(split.train) + len(split.test) + split.dropped == 300
    assert split.pruned > 0
    assert all(len(row.neg) == len(row.neg_scores or []) for row in split.train)  # scores go with their passages
    assert split == evaluation.hold_out(rows(300), 0.1, seed=1) != evaluation.hold_out(rows(300), 0.1, seed=2)


def test_few_rows_are_all_trained_on() -> None:
    assert evaluation.hold_out(rows(100), 0.1, seed=1) == (rows(100), [], 0, 0)


def test_rows_that_rank_nothing_are_not_held_out() -> None:
    bare = [row._replace(neg=[], neg_scores=None) for row in rows(300)]
    assert evaluation.hold_out(bare, 0.1, seed=1) == (bare, [], 0, 0)
    mixed = [row._replace(neg=[], neg_scores=None) if i % 4 == 0 else row for i, row in enumerate(rows(600))]
    split = evaluation.hold_out(mixed, 0.1, seed=1)
    assert len(split.test) >= 40
    assert all(row.neg for row in split.test)
    assert len(split.train) + len(split.test) + split.dropped == 600


def test_one_query_is_no_evidence() -> None:
    difference = evaluation.paired_difference([1.0], [0.5])
    assert (difference.verdict, difference.low) == (NO_DIFFERENCE, None)
    assert "no interval" in str(difference)


@pytest.mark.parametrize(("shift", "verdict"), [(0.1, BETTER), (0.0, NO_DIFFERENCE), (-0.1, WORSE)])
def test_verdict_follows_the_interval(shift: float, verdict: str) -> None:
    rng = np.random.default_rng(0)
    base = rng.random(200)
    difference = evaluation.paired_difference(base + shift + rng.normal(0, 0.1, 200), base)
    assert difference.verdict == verdict
    assert difference.low < difference.mean < difference.high


def test_best_of_many_needs_a_wider_interval() -> None:
    rng = np.random.default_rng(0)
    ours, base = rng.random(100), rng.random(100)
    one, ten = (evaluation.paired_difference(ours, base, comparisons=n) for n in (1, 10))
    assert ten.low < one.low < one.high < ten.high
    assert ten.confidence == pytest.approx(0.995)


def test_history_keeps_the_best_and_is_resumed(tmp_path: Path) -> None:
    examples = [ContrastiveExample(f"q{i}", ["p"], ["n", "m"]) for i in range(30)]
    good, bad = np.tile([2.0, 1.0, 0.0], 30), np.tile([0.0, 1.0, 2.0], 30)
    history = History(examples)
    for step, scores in ((0, bad), (10, good), (20, bad)):
        point = history.add(step, scores)
        assert history.is_best(point) == (step == 10)
    assert [point.MRR for point in history.points] == pytest.approx([1 / 3, 1, 1 / 3])
    assert history.since_best == 1
    assert history.summary() == (
        "MRR of 30 held-out queries: base 0.333, best 1.000 (step 10), difference +0.667 [+0.667, +0.667]: better"
    )
    history.write(tmp_path)
    again = History(examples)
    again.restore(json.loads((tmp_path / evaluation.FILE).read_text()), tmp_path)
    again.rewind(10)
    assert again.best == history.best
    assert [point.step for point in again.points] == [0, 10]
    assert again.since_best == 0
    evaluation.draw_curve(again, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
