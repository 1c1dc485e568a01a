"""The advice is right on simulated scores, its gain is what fresh queries give, and exit codes follow it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trials import reranker_test, simulated
from utils.data.first_stage import FIRST, LEXICAL
from utils.evaluation import statistics
from utils.evaluation.fusion import WEIGHTS, Fusion, cross_fit, ndcg
from utils.evaluation.metrics import Pool, dcg
from utils.evaluation.paired import PairedDifference, correct, paired
from utils.evaluation.results import Advice, RerankerTestResult
from utils.evaluation.statistics import Interval
from utils.evaluation.verdict import FUSED, MODEL, advise, failures, summary

DEPTHS = [5, 10, 20]


@pytest.mark.parametrize(("kind", "right"), [("useful", True), ("useless", False), ("harmful", False)])
def test_advice_is_right_in_95_of_100_simulations_and_its_gain_unbiased(
    kind: str, right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 999)
    fresh = ndcg(*simulated(kind, 1000, queries=2000), DEPTHS).mean(2)
    advised, covered, errors = 0, 0, []
    for seed in range(100):
        first, model = simulated(kind, seed)
        fusion = cross_fit(first, model)
        before, alone, fused = (list(map(_ndcg, pools)) for pools in (first, model, fusion.pools))
        loss, gain = correct([paired(alone, before, tests=2), paired(fused, before, tests=2)])
        advised += advise(loss, gain, fusion).rerank
        expected = fresh[WEIGHTS.index(fusion.weight), DEPTHS.index(fusion.depth)] - fresh[0, 0]
        errors.append((gain.difference or 0.0) - expected)
        low, high = gain.interval or Interval(expected, expected)
        covered += low - 1e-9 <= expected <= high + 1e-9
    assert (advised if right else 100 - advised) >= 95
    assert covered >= 85  # the interval is of what the folds chose, and they differ
    # The best of the curve would be too good by 0.01 of a useful or a useless reranker.
    assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(100) + 1e-9


def _ndcg(pool: Pool) -> float:
    return dcg(pool.grades[np.argsort(-pool.scores)], 10) / dcg(pool.ideal, 10)


def found(difference: float, p: float = 0.001) -> PairedDifference:
    return PairedDifference(100, difference, Interval(difference - 0.01, difference + 0.01), p, p, 50)


@pytest.mark.parametrize(
    ("alone", "fused", "weight", "advice"),
    [
        (found(-0.1), found(0.1), 0.4, Advice(True, 0.4, 10)),
        (found(0.1), found(0.2), 1.0, Advice(True, 1.0, 10)),
        (found(0.1), found(0.1, 0.3), 0.4, Advice(True, 1.0, 50)),  # the model alone is the safer choice
        (found(0.2), found(0.1), 0.4, Advice(True, 1.0, 50)),  # and where it gains more
        (found(-0.1), found(0.0, 1.0), 0.0, Advice(False, 0.0, 10)),
        (found(0.0, 1.0), found(0.1), 0.0, Advice(True, 0.1, 10)),  # only some of the folds would rerank, and gain
    ],
)
def test_advice_follows_the_differences(
    alone: PairedDifference, fused: PairedDifference, weight: float, advice: Advice
) -> None:
    assert advise(alone, fused, Fusion(weight, 10, [], [10, 50], np.zeros((11, 2)))) == advice


def result_with(**differences: PairedDifference) -> RerankerTestResult:
    """A result whose main differences are replaced: "alone", "fused" and "baseline"."""
    result, changed = reranker_test(queries=6), []
    pairs = {"alone": (MODEL, FIRST), "fused": (FUSED, FIRST), "baseline": (MODEL, "baseline")}
    for one in result.comparisons:
        for name, (order, baseline) in pairs.items():
            if (one.order, one.baseline) == (order, baseline) and name in differences:
                values = {key: value for key, value in vars(differences[name]).items() if key != "outcome"}
                one = replace(one, **values)
        changed.append(one)
    return replace(result, comparisons=changed)


@pytest.mark.parametrize(
    ("alone", "fused", "baseline", "regression", "not_better"),
    [
        (0.1, 0.2, 0.1, [], []),
        (-0.1, 0.2, 0.1, [], []),  # the fusion makes up for it
        (-0.1, 0.0, 0.1, ["model"], ["model + first stage"]),
        (0.0, 0.0, 0.1, [], ["model + first stage"]),
        (0.1, 0.0, 0.0, [], ["model"]),
        (0.1, 0.2, -0.1, ["model"], ["model"]),
    ],
)
def test_exit_codes_follow_the_verdict(
    alone: float, fused: float, baseline: float, regression: list[str], not_better: list[str]
) -> None:
    differences = {"alone": alone, "fused": fused, "baseline": baseline}
    result = result_with(**{name: found(value, 0.001 if value else 1.0) for name, value in differences.items()})
    assert [one.order for one in failures(result, unless_better=False)] == regression
    assert [one.order for one in failures(result, unless_better=True)] == not_better


def test_summary_says_what_to_do() -> None:
    result = result_with(alone=found(-0.1), fused=found(0.031), baseline=found(0.2))
    text = summary(replace(result, advice=Advice(True, 0.6, 50)))
    assert (
        "Rerank the first 50 with weight 0.6: MRR +0.031 [+0.021, +0.041] over the first stage (cross-fitted)." in text
    )
    assert "By itself the model ranks significantly worse than the first stage: -0.100" in text
    assert "The model is better than baseline: +0.200" in text
    alone = result_with(alone=found(0.2), fused=found(0.1, 0.5), baseline=found(0.0, 1.0))
    text = summary(replace(alone, advice=Advice(True, 1.0, 50)))
    assert "Rerank all 50 with the model alone: MRR +0.200" in text
    assert "No significant difference from baseline" in text
    unhelpful = replace(alone, advice=Advice(False, 0.0, 5))
    assert "Too few queries to tell whether reranking helps: no significant gain, even fused" in summary(unhelpful)
    text = summary(replace(unhelpful, queries=50))
    assert "Do not rerank with this model: even fused, no significant gain" in text
    assert "takes about 50 queries" in text
    # The interval is of one comparison, the outcome of all.
    assert "(MRR +0.100 [+0.090, +0.110], corrected p 0.500, cross-fitted" in text


def test_summary_names_an_order_without_a_model_that_is_better() -> None:
    result = reranker_test(queries=6)
    assert "which needs no reranker" not in summary(replace(result, metrics=_with(result, LEXICAL, 0.0)))
    text = summary(replace(result, metrics=_with(result, LEXICAL, 1.5)))
    assert "BM25 alone, which needs no reranker, reaches 1.500." in text


def _with(result: RerankerTestResult, order: str, value: float) -> list:
    return [replace(row, values=dict.fromkeys(row.values, 0.5) | {order: value}) for row in result.metrics]


def test_a_perfect_first_stage_shows_nothing() -> None:
    result = reranker_test(queries=6)
    assert "so they cannot show a gain" in summary(replace(result, metrics=_with(result, FIRST, 1.0)))
    assert "so they cannot show a gain" not in summary(replace(result, metrics=_with(result, FIRST, 0.99)))
