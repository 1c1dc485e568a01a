"""From trials to evidence: pairing, errors, saved calls, the sentence, and corners where nothing can be computed."""

from __future__ import annotations

import math
import random

import pytest

from trials import BUDGET, result_of, sources
from utils.evaluation.arm_results import TrialPairs, against, arm_comparisons, arm_figures
from utils.evaluation.statistics import Discordant, bootstrap_mean, mcnemar, paired_permutation, wilson
from utils.labelling.record import JudgedSource


def differences(results: list[JudgedSource], arm: str) -> list[int]:
    """Of each pair with the baseline: candidates judged by the arm less those by the baseline."""
    pairs = zip(*TrialPairs.of(results, arm, "base").attempts, strict=True)
    return [ours - theirs for ours, theirs in pairs]


def test_error_leaves_a_source_out_of_both_sides_of_its_comparison_alone() -> None:
    results = sources(base=[1, 2, 3, 4, "error"], a=[1, 1, "error", 1, 1], b=[2, 2, 2, 2, 2])
    base, a, b = arm_figures(results, ["base", "a", "b"], BUDGET)
    assert [(one.sources, one.errors) for one in (base, a, b)] == [(4, 1), (4, 1), (5, 0)]
    with_a, with_b = arm_comparisons(results, [("a", "base"), ("b", "base")])
    assert (with_a.sources, with_a.left_out) == (3, 2)
    assert differences(results, "a") == [0, -1, -3]
    assert (with_b.sources, with_b.left_out) == (4, 1)
    assert differences(results, "b") == [1, 0, -1, -2]
    assert with_a.judged_difference == pytest.approx(-4 / 3)
    assert with_a.calls_saved_per_thousand == pytest.approx(4000 / 3)


def test_figures_are_those_of_the_statistics() -> None:
    rng = random.Random(0)
    base = [rng.choice([1, 2, 3, 4, None]) for _ in range(60)]
    a = [rng.choice([1, 1, 2, None]) for _ in range(60)]
    results = sources(base=base, a=a, b=base)
    _, one, _ = arm_figures(results, ["base", "a", "b"], BUDGET)
    found = [rank for rank in a if rank]
    assert one.success_interval == wilson(len(found), 60)
    assert one.attempts_interval == bootstrap_mean(found)
    shares = [sum(rank <= budget for rank in found) / 60 for budget in range(1, BUDGET + 1)]
    assert [point.rate for point in one.within] == pytest.approx(shares)
    compared, same = arm_comparisons(results, against(["base", "a", "b"], "base"))
    judged = [[rank or BUDGET for rank in ranks] for ranks in (a, base)]
    p = paired_permutation(*judged)
    assert (compared.judged_p, compared.judged_p_corrected) == (p, 2 * p)
    only = [sum(bool(x) > bool(y) for x, y in zip(*pair, strict=True)) for pair in ((a, base), (base, a))]
    assert compared.success_p == mcnemar(Discordant(*only))
    assert (same.judged_difference, same.judged_p, same.judged_interval) == (0, 1, None)


def test_summary_says_what_was_seen_and_how_much_it_saves() -> None:
    results = sources(base=[4, 3, 4, 3, 4] * 12, a=[1, 1, 2, 1, 1] * 12, b=[4, 4, None, 4, 4] * 12, c=[4, 3] * 30)
    said = result_of(results, ["base", "a", "b", "c"]).summary
    assert "a needs 2.40 fewer candidates per source than base" in said
    assert "2,400 teacher calls saved per thousand sources" in said
    assert "b is worse than " in said
    assert "No significant difference from base for c" in said


def test_interval_ends_are_ordered_and_finite() -> None:
    results = sources(base=[1, 2, 3, 4, None] * 9, a=[1, 1, 2, 2, 4] * 9)
    (row,) = result_of(results, ["base", "a"]).comparisons
    for key in ("success_interval", "judged_interval", "calls_saved_interval"):
        low, high = getattr(row, key)
        assert low < high
        assert math.isfinite(low + high)
