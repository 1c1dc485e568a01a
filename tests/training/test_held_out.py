"""Evaluation while training: the split, the comparison with the base, and what is made of it."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import train_reranker
from trainings import evaluations, train_evaluated, write_rows
from utils.data.rows import canonical
from utils.errors import EXIT_REGRESSION
from utils.evaluation.paired import BETTER, NO_DIFFERENCE, WORSE, PairedDifference
from utils.schema import ContrastiveExample
from utils.training import held_out
from utils.training.held_out import Evaluation, EvaluationHistory

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_rows_to_distil_from_keep_a_negative() -> None:
    shared = [row._replace(neg=["shared"]) for row in apart(1000)]
    assert held_out.hold_out(shared, 0.1, 1, keep_negatives=True).test == []
    split = held_out.hold_out(drawn(2000, 500, 7), 0.1, 1, keep_negatives=True)
    assert len(split.test) >= 196
    assert all(row.neg for row in split.train)


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


def compare(best: Sequence[float], base: Sequence[float], steps: int = 1) -> PairedDifference:
    """Compare the best of several steps with the base, by the reciprocal ranks of the queries."""
    history = EvaluationHistory([])
    history.best = Evaluation(1, 0.0, 0.0, list(best))
    history.evaluations = [Evaluation(0, 0.0, 0.0, list(base)), *([history.best] * steps)]
    found = history.difference()
    assert found is not None
    return found


def test_few_queries_are_no_evidence() -> None:
    assert compare([1.0], [0.5]).interval is None
    assert {compare([1.0] * n, [0.5] * n).outcome for n in range(1, 6)} == {NO_DIFFERENCE}


@pytest.mark.parametrize(("shift", "outcome"), [(0.1, BETTER), (0.0, NO_DIFFERENCE), (-0.1, WORSE)])
def test_outcome_agrees_with_the_interval(shift: float, outcome: str) -> None:
    rng = np.random.default_rng(0)
    base = rng.random(200)
    found = compare(base + shift + rng.normal(0, 0.1, 200), base)
    assert found.outcome == outcome
    assert found.interval is not None
    assert found.interval.low < found.difference < found.interval.high
    assert (found.interval.low <= 0 <= found.interval.high) == (outcome == NO_DIFFERENCE)


def test_best_of_many_needs_a_wider_interval() -> None:
    rng = np.random.default_rng(0)
    ours, base = rng.random(100), rng.random(100)
    one, ten = compare(ours, base), compare(ours, base, steps=10)
    assert one.interval
    assert ten.interval
    assert ten.interval.low < one.interval.low < one.interval.high < ten.interval.high
    assert ten.p_corrected == min(1, 10 * one.p_corrected)


@pytest.mark.parametrize(
    ("shift", "on_regression", "unless_better"),
    [(0.1, 0, 0), (0.0, 0, EXIT_REGRESSION), (-0.1, *[EXIT_REGRESSION] * 2)],
)
def test_flags_fail_on_a_loss_or_on_all_but_a_gain(shift: float, on_regression: int, unless_better: int) -> None:
    difference = compare(np.linspace(0.2, 0.8, 30) + shift, np.linspace(0.2, 0.8, 30))

    def gate(difference: PairedDifference | None, **flags: bool) -> int:
        chosen = {"fail_on_regression": False, "fail_unless_better": False} | flags
        return train_reranker.exit_code(difference, argparse.Namespace(**chosen))

    assert gate(difference) == 0
    assert gate(difference, fail_on_regression=True) == on_regression
    assert gate(difference, fail_unless_better=True) == unless_better
    assert gate(None, fail_on_regression=True) == 0
    assert gate(None, fail_unless_better=True) == EXIT_REGRESSION  # unknown is not better


def test_history_keeps_the_best_and_is_resumed(tmp_path: Path) -> None:
    examples = [ContrastiveExample(f"q{i}", ["p"], ["n", "m"]) for i in range(30)]
    good, bad = np.tile([2.0, 1.0, 0.0], 30), np.tile([0.0, 1.0, 2.0], 30)
    history = EvaluationHistory(examples)
    for step, scores in ((0, bad), (10, good), (20, bad)):
        new = history.add(step, scores)
        assert (new is history.best) == (step == 10)
    assert [one.MRR for one in history.evaluations] == pytest.approx([1 / 3, 1, 1 / 3])
    assert history.since_best == 1
    assert history.summary() == (
        "MRR of 30 held-out queries: base 0.333, best 1.000 (step 10), difference +0.667, corrected p <0.001: better"
    )
    history.write(tmp_path)
    again = EvaluationHistory(examples)
    # As an earlier version wrote it.
    value = json.loads((tmp_path / held_out.FILE).read_text())
    value["difference"] = {"mean": 2 / 3, "low": 2 / 3, "high": 2 / 3, "confidence": 0.975, "verdict": "better"}
    again.restore(value, tmp_path, 10)
    assert again.best == history.best
    assert [one.step for one in again.evaluations] == [0, 10]
    assert again.since_best == 0
    held_out.draw_curve(again, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_gain_is_reported_logged_and_drawn(trained: Path) -> None:
    found = evaluations(trained)
    assert [point["step"] for point in found["points"]] == [0, 4, 8, 12, 14]
    assert found["queries"] == 24
    assert found["difference"]["outcome"] == "better"
    assert found["best"]["MRR"] == max(point["MRR"] for point in found["points"])
    assert (trained / held_out.CURVE).read_bytes().startswith(b"\x89PNG")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (log,) = trained.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(log)).Reload()
    assert [event.step for event in events.Scalars("eval/MRR")] == [0, 4, 8, 12, 14]
    assert events.Scalars("eval/nDCG@10")


def test_folder_holds_the_best_model(trained: Path, data: Path) -> None:
    from utils.data.rows import read_examples
    from utils.evaluation import metrics
    from utils.scoring import open_reranker

    found = evaluations(trained)
    rows = held_out.hold_out(read_examples([data]), 0.1, 42).test
    scores = open_reranker(trained, max_length=32, half=False).score(metrics.pairs_of(rows))
    (row, *_) = metrics.compare({"model": metrics.pools_of(rows, scores)})
    assert row.values["model"] == pytest.approx(found["best"]["MRR"], abs=1e-3)


def test_shuffled_labels_are_no_gain(
    tiny_reranker: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(0)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for row in rows:
        texts = [*row["pos"], *row["neg"]]
        rng.shuffle(texts)
        row |= {"pos": texts[:1], "neg": texts[1:]}
    shuffled = write_rows(tmp_path / "shuffled.jsonl", rows)
    assert train_evaluated(tiny_reranker, shuffled, tmp_path / "out", "--fail_unless_better") == EXIT_REGRESSION
    assert "no difference" in capsys.readouterr().out


def test_a_loss_is_reported_and_exits_3(
    trained: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    wrong = write_rows(tmp_path / "wrong.jsonl", [row | {"pos": row["neg"][:1], "neg": row["pos"]} for row in rows])
    flags = ("--eval_data", str(data), "--patience", "2", "--save_steps", "0", "--fail_on_regression")
    assert train_evaluated(trained, wrong, tmp_path / "out", *flags) == EXIT_REGRESSION
    assert "WORSE THAN ITS BASE" in caplog.text
    assert "share a query or passage with --eval_data" in caplog.text
    points = evaluations(tmp_path / "out")["points"]
    assert len(points) == 4  # the base, the first, and two that were no better
