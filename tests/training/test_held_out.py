"""Evaluation while training: the split, the comparison with the base, and what is made of it."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import train_reranker
from trainings import evaluations, train_evaluated, write_rows
from utils.data.judged import pools_of_rows
from utils.errors import EXIT_REGRESSION
from utils.evaluation.paired import BETTER, NO_DIFFERENCE, WORSE, PairedDifference
from utils.schema import ContrastiveExample
from utils.training import held_out
from utils.training.held_out import Evaluation, EvaluationHistory

pytestmark = pytest.mark.usefixtures("one_thread")


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
    scores = open_reranker(trained, max_length=32, half=False).score(metrics.pairs_of(pools_of_rows(rows)))
    (row, *_) = metrics.compare({"model": metrics.pools_of(pools_of_rows(rows), scores)})
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
