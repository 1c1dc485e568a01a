"""Evaluation while training: the comparison with the base, at home and abroad, and what is made of it."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import numpy as np
import pytest

import train_reranker
from trainings import evaluations, train_evaluated, write_rows
from utils.data.judged import JudgedPool
from utils.data.rows import pools_of_rows
from utils.errors import EXIT_REGRESSION, InputError
from utils.evaluation.paired import BETTER, NO_DIFFERENCE, WORSE, PairedDifference
from utils.schema import ContrastiveExample
from utils.training.history import (
    CURVE,
    FILE,
    GUARD,
    HELD_OUT,
    METRICS,
    EvaluatedSet,
    Evaluation,
    EvaluationHistory,
    draw_curve,
)
from utils.training.settings import TrainingSettings

pytestmark = pytest.mark.usefixtures("one_thread")


def evaluation(step: int, values: Sequence[float]) -> Evaluation:
    return Evaluation(step, fmean(values), fmean(values), list(values))


def compared(name: str, best: Sequence[float], base: Sequence[float], steps: int = 1) -> EvaluationHistory:
    """Return a history whose best of several steps, and its base, have these values on the queries of one set."""
    history = EvaluationHistory([], [])
    one = history.sets[name] = EvaluatedSet(METRICS[name], [])
    one.best = evaluation(1, best)
    one.points = [evaluation(0, base), *[one.best] * steps]
    return history


def compare(best: Sequence[float], base: Sequence[float], steps: int = 1) -> PairedDifference:
    """Compare the best of several steps with the base, by the reciprocal ranks of held-out queries."""
    return compared(HELD_OUT, best, base, steps).differences()[HELD_OUT]


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
    base = np.linspace(0.2, 0.8, 30)
    home = {HELD_OUT: compare(base + shift, base)}
    assert gate(home) == 0
    assert gate(home, fail_on_regression=True) == on_regression
    assert gate(home, fail_unless_better=True) == unless_better
    assert gate({}, fail_on_regression=True) == 0
    assert gate({}, fail_unless_better=True) == EXIT_REGRESSION  # unknown is not better
    # A gain at home is none with a loss abroad; no gain is needed there.
    gained = {HELD_OUT: compare(base + 0.1, base)}
    assert gate(gained | {GUARD: home[HELD_OUT]}, fail_on_regression=True) == on_regression
    assert gate(gained | {GUARD: home[HELD_OUT]}, fail_unless_better=True) == on_regression
    assert gate({GUARD: gained[HELD_OUT]}, fail_unless_better=True) == EXIT_REGRESSION


def test_a_loss_abroad_is_told_where_nothing_is_held_out(caplog: pytest.LogCaptureFixture) -> None:
    base = np.linspace(0.2, 0.8, 30)
    assert gate({GUARD: compare(base - 0.1, base)}, fail_on_regression=True) == EXIT_REGRESSION
    assert "worse abroad, not compared at home, for there are no held-out queries" in caplog.text


def gate(differences: dict[str, PairedDifference], **flags: bool) -> int:
    chosen = {"fail_on_regression": False, "fail_unless_better": False} | flags
    return train_reranker.exit_code(differences, argparse.Namespace(**chosen))


GOOD, BAD = [2.0, 1.0, 0.0], [0.0, 1.0, 2.0]  # scores of a pool whose first passage is relevant


def pools(count: int) -> list[JudgedPool]:
    return pools_of_rows(ContrastiveExample(f"q{i}", ["p"], ["n", "m"]) for i in range(count))


def test_history_keeps_the_best_and_is_resumed(tmp_path: Path) -> None:
    history = EvaluationHistory(pools(30))
    for step, scores in ((0, BAD), (10, GOOD), (20, BAD)):
        history.add(step, np.tile(scores, 30))
        assert history.best == (10 if step else None)
    assert [one.MRR for one in history.sets[HELD_OUT].points] == pytest.approx([1 / 3, 1, 1 / 3])
    assert history.since_best == 1
    assert history.summary() == (
        "MRR of 30 held-out queries: base 0.333, final 1.000 (step 10), difference +0.667, corrected p <0.001: better"
    )
    history.write(tmp_path)
    again = EvaluationHistory(pools(30))
    again.restore(tmp_path / FILE)
    assert [one.points for one in again.sets.values()] == [one.points for one in history.sets.values()]
    assert again.best == 10
    assert again.since_best == 1
    draw_curve(again, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_better_at_home_and_worse_abroad_is_a_verdict(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    history = EvaluationHistory(pools(30), pools(20))
    for step, home, abroad in ((0, BAD, GOOD), (10, GOOD, BAD), (20, BAD, GOOD)):
        history.add(step, np.concatenate([np.tile(home, 30), np.tile(abroad, 20)]))
    assert history.best == 10  # chosen at home
    assert history.sets[GUARD].best is not None
    assert history.sets[GUARD].best.step == 10
    assert str(history.summary()).endswith(": worse\nverdict: better at home, worse abroad")
    train_reranker.report(SimpleNamespace(output=tmp_path, model=tmp_path, settings=TrainingSettings()), history)
    assert "BETTER AT HOME, WORSE ABROAD" in caplog.text
    assert "--mix_with_base auto" in caplog.text
    history.write(tmp_path)
    value = json.loads((tmp_path / FILE).read_text())
    assert value["verdict"] == "better at home, worse abroad"
    assert [point["nDCG_10"] for point in value["guard"]["points"]] == pytest.approx([1, 0.5, 1])
    draw_curve(history, tmp_path / "curve.png")
    again = EvaluationHistory(pools(30), pools(20))
    again.restore(tmp_path / FILE)
    assert again.differences() == history.differences()
    with pytest.raises(InputError, match="is of 30 held-out and 20 guard queries, not 30 held-out and 19 guard"):
        EvaluationHistory(pools(30), pools(19)).restore(tmp_path / FILE)
    (tmp_path / FILE).write_text('{"points": []}')
    with pytest.raises(InputError, match="is missing or damaged: name another checkpoint"):
        EvaluationHistory(pools(30)).restore(tmp_path / FILE)


def test_without_held_out_rows_the_last_step_is_kept() -> None:
    history = EvaluationHistory([], pools(20))
    for step, scores in ((0, GOOD), (10, GOOD), (20, BAD)):
        history.add(step, np.tile(scores, 20))
    assert (history.best, history.since_best) == (20, 0)
    assert str(history.summary()).endswith("verdict: worse abroad")


def test_the_share_of_the_base_is_chosen_by_both_sets() -> None:
    history = EvaluationHistory(pools(30), pools(30))
    for step in (0, 10):
        history.add(step, np.tile(BAD, 60))
    for share, right in ((0.0, 0), (0.25, 20), (0.5, 40), (0.75, 40)):
        history.add_mix(share, np.concatenate([np.tile(GOOD, right), np.tile(BAD, 60 - right)]))
    assert history.mix is not None
    assert history.mix.share == 0.75  # of equal ones the larger
    assert history.mix.mean == pytest.approx((1 + (10 + 20 * 0.5) / 30) / 2)
    home, abroad = history.differences().values()
    assert home.p_corrected == pytest.approx(min(1, 4 * home.p))  # one step and three more shares
    assert abroad.p_corrected == pytest.approx(min(1, 4 * abroad.p))
    assert "final 1.000 (step 10, mixed with 0.75 of the base)" in str(history.summary())


@pytest.mark.parametrize(("sign", "least", "most"), [(1, 0, 1), (-1, 19, 20)])
def test_planted_forgetting_is_found_abroad_and_nothing_else(sign: int, least: int, most: int) -> None:
    """Of 200 guard queries, a quarter is of a kind whose passages the tuned model ranks as before, or inverted."""
    flagged = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        signal = np.tile([1.0, 0.0, 0.0], (200, 1))
        kept = np.where(np.arange(200) < 50, sign, 1)[:, None]
        history = EvaluationHistory([], pools(200))
        history.add(0, (signal + rng.normal(0, 0.7, signal.shape)).ravel())
        history.add(1, (kept * signal + rng.normal(0, 0.7, signal.shape)).ravel())
        flagged += history.differences()[GUARD].outcome == WORSE
    assert least <= flagged <= most


def test_a_gain_is_reported_logged_and_drawn(trained: Path) -> None:
    found = evaluations(trained)
    assert [point["step"] for point in found["points"]] == [0, 4, 8, 12, 14]
    assert found["queries"] == 24
    assert found["difference"]["outcome"] == "better"
    assert found["best"]["MRR"] == max(point["MRR"] for point in found["points"])
    assert (trained / CURVE).read_bytes().startswith(b"\x89PNG")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (log,) = trained.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(log)).Reload()
    assert [event.step for event in events.Scalars("eval/MRR")] == [0, 4, 8, 12, 14]
    assert events.Scalars("eval/nDCG@10")


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
