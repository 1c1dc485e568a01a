"""Statistics equal to scipy's and statsmodels' on fixed tables, and honest on simulated ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from utils.evidence.statistics import (
    Discordant,
    area_under_curve,
    bootstrap_mean,
    discordant,
    holm,
    mcnemar,
    newcombe,
    paired_permutation,
    pairs_for_mean,
    pairs_for_proportions,
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
    expected = stats.bootstrap((np.array(values, float),), np.mean, rng=np.random.default_rng(0)).confidence_interval
    assert bootstrap_mean(values) == pytest.approx((expected.low, expected.high))


def test_newcombe_by_the_paper() -> None:
    # Newcombe (1998), method 10, and two corners that are one-sample intervals put together.
    def pairs(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
        a = [True] * (both + first) + [False] * (second + neither)
        b = [True] * both + [False] * first + [True] * second + [False] * neither
        return np.array(a), np.array(b)

    assert newcombe(*pairs(36, 12, 2, 0)) == pytest.approx((0.0569, 0.3404), abs=5e-5)
    one_sided = 3.841459 / (9 + 3.841459)  # 1 − the lower end of 9 of 9
    assert newcombe(*pairs(0, 9, 0, 0)) == pytest.approx((1 - one_sided * 2**0.5, 1), abs=1e-6)
    assert newcombe(*pairs(0, 0, 0, 54)) == pytest.approx((-0.0664, 0.0664), abs=5e-5)


def test_sample_sizes_are_statsmodels() -> None:
    power = pytest.importorskip("statsmodels.stats.power")
    differences = np.random.default_rng(0).normal(0.2, 1, 100)
    effect = differences.mean() / differences.std(ddof=1)
    expected = power.NormalIndPower(ddof=0).solve_power(effect, alpha=0.05, power=0.8, ratio=0)
    assert pairs_for_mean(differences) == np.ceil(expected)


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
    assert newcombe([], []) is None
    assert mcnemar(discordant([], [])) == paired_permutation([], []) == paired_permutation([1, 2], [1, 2]) == 1
    assert pairs_for_mean([1.0, -1.0]) is pairs_for_mean([]) is pairs_for_proportions(Discordant(0, 0), 9) is None
    assert area_under_curve([1.0], []) is None
    assert holm([]) == []


SIMULATIONS = 1000


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.evidence.statistics.RESAMPLES", 999)


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
    covered = {"Wilson": 0, "Newcombe": 0, "bootstrap": 0}
    for _ in range(SIMULATIONS):
        first, second = rng.random((2, 100)) < np.array([[0.7], [0.6]])
        judged = rng.choice(ranks, p=shares, size=100)
        wanted = (("Wilson", wilson(int(first.sum()), 100), 0.7), ("Newcombe", newcombe(first, second), 0.1))
        for name, interval, value in (*wanted, ("bootstrap", bootstrap_mean(judged), ranks @ shares)):
            assert interval is not None
            covered[name] += interval.low <= value <= interval.high
    assert all(0.93 <= count / SIMULATIONS <= 0.97 for count in covered.values()), covered
