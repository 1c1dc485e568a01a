"""Statistics equal to scipy's and statsmodels' on fixed tables, and honest on simulated ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from utils.evaluation.statistics import (
    Discordant,
    area_under_curve,
    bootstrap_mean,
    discordant,
    holm,
    mcnemar,
    paired_permutation,
    pairs_for_mean,
    pairs_for_proportions,
    tango,
    wilson,
)


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 20), (7, 20), (20, 20), (151, 200)])
def test_wilson_is_statsmodels(successes: int, trials: int) -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    assert wilson(successes, trials) == pytest.approx(
        proportion.proportion_confint(successes, trials, method="wilson"), abs=1e-9
    )


@pytest.mark.parametrize("table", [(0, 5), (3, 9), (14, 2), (8, 8), (40, 61)])
def test_mcnemar_is_statsmodels(table: tuple[int, int]) -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    expected = tables.mcnemar([[30, table[0]], [table[1], 10]], exact=True).pvalue
    assert mcnemar(Discordant(*table)) == pytest.approx(expected)


@pytest.mark.parametrize("p_values", [[0.01], [0.04, 0.01, 0.03], [0.5, 0.001, 0.02, 0.02, 0.9], [1.0, 1.0]])
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    assert holm(p_values) == pytest.approx(multitest.multipletests(p_values, method="holm")[1])


def test_permutation_test_of_few_pairs_is_exact() -> None:
    # Six differences of one sign: two of the 64 draws of signs are as far from 0.
    assert paired_permutation([2, 3, 4, 5, 6, 7, 9], [1, 2, 3, 4, 5, 6, 9]) == pytest.approx(2 / 64)
    a, b = [3.0, 1, 4, 1, 5, 9, 2], [2.0, 7, 1, 8, 2, 8, 1]
    expected = stats.permutation_test(
        (a, b), lambda x, y, axis: np.mean(x - y, axis), permutation_type="samples", vectorized=True
    )
    assert paired_permutation(a, b) == pytest.approx(expected.pvalue)


def test_permutation_test_agrees_with_the_t_test_on_many_pairs() -> None:
    rng = np.random.default_rng(4)
    a = rng.normal(0.15, 1, 300)
    assert paired_permutation(a, np.zeros(300)) == pytest.approx(stats.ttest_1samp(a, 0).pvalue, abs=0.01)


def test_bootstrap_is_scipys() -> None:
    values = [1, 1, 1, 2, 2, 3, 5, 8, 10, 10]
    level = 1 - 2 * stats.norm.cdf(np.sqrt(10 / 9) * stats.t.ppf(0.025, 9))  # expanded from 95%
    assert 0.975 < level < 0.99
    sample, rng = np.array(values, float), np.random.default_rng(0)
    expected = stats.bootstrap((sample,), np.mean, confidence_level=level, method="percentile", rng=rng)
    assert bootstrap_mean(values) == pytest.approx(expected.confidence_interval)


def paired(both: int, first: int, second: int, neither: int) -> tuple[list[bool], list[bool]]:
    return (
        [True] * (both + first) + [False] * (second + neither),
        [True] * both + [False] * first + [True] * second + [False] * neither,
    )


@pytest.mark.parametrize("table", [(36, 12, 2, 0), (30, 3, 9, 8), (0, 4, 1, 3)])
def test_ends_of_tango_s_interval_are_where_the_score_test_turns(table: tuple[int, int, int, int]) -> None:
    _, b, c, _ = table
    n = sum(table)
    for end in tango(*paired(*table)):

        def unlikely(q: float, end: float = end) -> float:  # of the discordant pairs, given the difference
            return -(b * np.log(q + end) + c * np.log(q) + (n - b - c) * np.log(1 - 2 * q - end))

        bounds = (max(0, -end) + 1e-9, (1 - end) / 2 - 1e-9)
        q = optimize.minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-10}).x
        z = (b - c - n * end) / np.sqrt(n * (2 * q + end * (1 - end)))
        assert abs(z) == pytest.approx(1.959964, abs=1e-4)


def test_tango_s_interval_in_the_corners() -> None:
    z2 = 1.959964**2
    assert tango(*paired(20, 0, 0, 34)) == pytest.approx((-z2 / (54 + z2), z2 / (54 + z2)), abs=1e-6)
    low, high = tango(*paired(0, 9, 0, 0))
    assert 0 < low < high == 1
    low, high = tango(*paired(0, 0, 9, 0))
    assert -1 == low < high < 0


def test_sample_sizes_are_statsmodels() -> None:
    power = pytest.importorskip("statsmodels.stats.power")
    differences = np.random.default_rng(0).normal(0.2, 1, 100)
    effect = differences.mean() / differences.std(ddof=1)
    expected = power.NormalIndPower(ddof=0).solve_power(effect, alpha=0.05, power=0.8, ratio=0)
    assert pairs_for_mean(differences) == float(f"{np.ceil(expected):.2g}")


def test_sample_size_of_proportions_gives_its_power() -> None:
    n = pairs_for_proportions(Discordant(20, 8), 100)
    rng = np.random.default_rng(0)
    draws = rng.multinomial(n, [0.20, 0.08, 0.72], size=2000)
    unique, counts = np.unique(draws[:, :2], axis=0, return_counts=True)
    seen = sum(count for (b, c), count in zip(unique, counts, strict=True) if mcnemar(Discordant(b, c)) < 0.05)
    assert seen / 2000 == pytest.approx(0.8, abs=0.05)


def test_area_under_curve_counts_ties_half() -> None:
    assert area_under_curve([3, 1], [1, 0]) == (2 + 1 + 0.5) / 4
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 40), rng.integers(0, 7, 90)
    assert area_under_curve(a, b) == pytest.approx(metrics.roc_auc_score([1] * 40 + [0] * 90, [*a, *b]))


def test_what_cannot_be_computed_is_none() -> None:
    assert wilson(0, 0) is None
    assert bootstrap_mean([]) is None
    assert bootstrap_mean([3.0]) is None
    assert bootstrap_mean([3.0, 3.0, 3.0]) is None
    assert tango([], []) is None
    assert mcnemar(discordant([], [])) == paired_permutation([], []) == paired_permutation([1, 2], [1, 2]) == 1
    assert pairs_for_mean([0.1, 0.2, -0.3]) is None  # whose sum is not 0, but rounding
    assert pairs_for_mean([1.0, -1.0]) is pairs_for_mean([]) is pairs_for_proportions(Discordant(0, 0), 9) is None
    assert area_under_curve([1.0], []) is None
    assert holm([]) == []


SIMULATIONS = 1000


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.evaluation.statistics.RESAMPLES", 999)


@pytest.mark.usefixtures("few_resamples")
def test_under_the_null_tests_reject_no_more_than_they_say() -> None:
    rng = np.random.default_rng(5)
    rejected = {"McNemar": 0, "permutation": 0}
    for _ in range(SIMULATIONS):
        judged = rng.choice(5, p=[0.5, 0.2, 0.1, 0.1, 0.1], size=(2, 40))
        found = rng.random((2, 40)) < 0.7
        rejected["McNemar"] += mcnemar(discordant(*found)) < 0.05
        rejected["permutation"] += paired_permutation(*judged) < 0.05
    assert max(rejected.values()) / SIMULATIONS <= 0.06, rejected


@pytest.mark.usefixtures("few_resamples")
def test_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(6)
    ranks, shares = np.arange(1, 6), np.array([0.5, 0.2, 0.1, 0.1, 0.1])
    covered = {"Wilson": 0, "Tango": 0, "bootstrap": 0}
    for _ in range(SIMULATIONS):
        first, second = rng.random((2, 100)) < np.array([[0.7], [0.6]])
        judged = rng.choice(ranks, p=shares, size=100)
        wanted = (("Wilson", wilson(int(first.sum()), 100), 0.7), ("Tango", tango(first, second), 0.1))
        for name, interval, value in (*wanted, ("bootstrap", bootstrap_mean(judged), ranks @ shares)):
            assert interval is not None
            covered[name] += interval.low <= value <= interval.high
    assert all(0.93 <= count / SIMULATIONS <= 0.97 for count in covered.values()), covered
