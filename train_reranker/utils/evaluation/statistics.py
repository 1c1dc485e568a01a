"""What a sample can say: intervals, paired tests, their correction, and how large a sample would have to be.

What cannot be computed, for too few or all-equal values, is None, never a number that looks like one. Samples are
arrays of shape (N,), paired ones in the same order; ``confidence`` and ``alpha`` are above 0 and below 1.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy  # which loads its packages when they are used
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
POWER = 0.8
RESAMPLES = 9999
VALUES_AT_ONCE = 4_000_000  # bounds memory: resamples are drawn in batches of about this many values
SEED = 0  # the same data give the same figures


class Interval(NamedTuple):
    """A confidence interval, both ends included."""

    low: float
    high: float


class Discordant(NamedTuple):
    """The pairs on which two methods differ: only the first succeeded, only the second did."""

    first: int
    second: int


def wilson(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval | None:
    """Return the score interval of a proportion (Wilson, 1927), within 0 to 1; None without a trial."""
    if not trials:
        return None
    interval = scipy.stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return Interval(float(interval.low), float(interval.high))


def bootstrap_mean(values: ArrayLike, confidence: float = CONFIDENCE) -> Interval | None:
    """Return the expanded percentile bootstrap interval of a mean (Hesterberg, The American Statistician 69, 2015).

    For few values the percentile interval (Efron, 1979) is too narrow, by what a t interval is wider than a normal one
    and by the factor √(n/(n−1)); its quantiles are moved out by both. None for fewer than two values, or equal ones.
    """
    sample = np.asarray(values, dtype=float)
    n = len(sample)
    if n < 2 or np.ptp(sample) == 0:
        return None
    tail = scipy.stats.norm.sf(math.sqrt(n / (n - 1)) * scipy.stats.t.isf((1 - confidence) / 2, n - 1))
    options = {"confidence_level": 1 - 2 * tail, "method": "percentile"} | _resampling(n)
    return Interval(*map(float, scipy.stats.bootstrap((sample,), np.mean, **options).confidence_interval))


def _resampling(values: int) -> dict[str, Any]:
    batch = max(1, min(RESAMPLES, VALUES_AT_ONCE // values))
    return {"n_resamples": RESAMPLES, "batch": batch, "rng": np.random.default_rng(SEED)}


def discordant(first: ArrayLike, second: ArrayLike) -> Discordant:
    """Count the pairs that differ, of two samples of truth values."""
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    return Discordant(int(np.sum(a & ~b)), int(np.sum(b & ~a)))


def mcnemar(pairs: Discordant) -> float:
    """Return the two-sided p of the exact McNemar test (McNemar, 1947): the discordant pairs are a fair coin's."""
    differing = sum(pairs)
    return float(scipy.stats.binomtest(pairs.first, differing).pvalue) if differing else 1.0


def tango(first: ArrayLike, second: ArrayLike, confidence: float = CONFIDENCE) -> Interval | None:
    """Return the score interval of the difference of two paired proportions, first − second, within −1 to 1.

    It holds all differences that a score test of the discordant pairs does not reject (Tango, Statistics in Medicine
    17, 1998, 891-908). None without a pair.
    """
    n, (b, c) = len(np.asarray(first)), discordant(first, second)
    if not n:
        return None
    observed, critical = (b - c) / n, float(scipy.stats.norm.isf((1 - confidence) / 2))

    def rejected(difference: float) -> float:
        """Above 0 where the test rejects; q is the most likely share of the second's pairs, given the difference."""
        linear = (2 * n - b + c) * difference - b - c
        constant = -c * difference * (1 - difference)
        q = (math.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n)
        variance = n * (2 * q + difference * (1 - difference))
        return (b - c - n * difference) ** 2 - critical**2 * variance

    def end(limit: float) -> float:
        near = observed + 1e-9 * (limit - observed)
        inside = rejected(near) < 0 < rejected(limit)
        return float(scipy.optimize.brentq(rejected, near, limit)) if inside else limit

    return Interval(end(-1.0), end(1.0))


def paired_permutation(first: ArrayLike, second: ArrayLike) -> float:
    """Return the two-sided p of the permutation test for paired values: each difference's sign is a coin's.

    The statistic is the mean difference (Pitman, 1937). Exact for few differing pairs, else from ``RESAMPLES`` draws,
    the observed signs counted among them (Phipson and Smyth, 2010).
    """
    differences = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    differences = differences[differences != 0]  # equal pairs have no sign to draw
    if len(differences) < 2:
        return 1.0
    options = {"permutation_type": "samples", "vectorized": True} | _resampling(len(differences))
    return float(scipy.stats.permutation_test((differences,), np.mean, **options).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for how many there are (Holm, 1979), in the order given, at most 1."""
    corrected = [1.0] * len(p_values)
    largest = 0.0
    for rank, position in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[position]))
        corrected[position] = largest
    return corrected


def pairs_for_mean(differences: ArrayLike, alpha: float = 1 - CONFIDENCE) -> int | None:
    """Return how many pairs a two-sided test needs to detect a mean difference as large as the observed one.

    By the normal approximation, n = ((z₁₋α/₂ + z_power) · sd / mean)², to two digits, as it is no more exact than what
    was observed. None without a difference, or without spread.
    """
    sample = np.asarray(differences, dtype=float)
    if len(sample) < 2 or abs(sample.mean()) < 1e-12 or sample.std() == 0:  # a sum of 0, rounded
        return None
    z = float(scipy.stats.norm.isf([alpha / 2, 1 - POWER]).sum())
    return _two_digits((z * float(sample.std(ddof=1) / sample.mean())) ** 2)


def pairs_for_proportions(pairs: Discordant, trials: int, alpha: float = 1 - CONFIDENCE) -> int | None:
    """Return how many pairs McNemar's test needs to detect a difference as large as the observed one.

    By Connor (1987, Biometrics 43, 207-211), from the shares of discordant ones among ``trials`` observed pairs, to two
    digits. None without a difference.
    """
    if not trials or pairs.first == pairs.second:
        return None
    differing, difference = sum(pairs) / trials, abs(pairs.first - pairs.second) / trials
    level, strength = map(float, scipy.stats.norm.isf([alpha / 2, 1 - POWER]))
    spread = level * math.sqrt(differing) + strength * math.sqrt(differing - difference**2)
    return _two_digits((spread / difference) ** 2)


def _two_digits(count: float) -> int:
    return round(float(f"{math.ceil(count):.2g}"))


def area_under_curve(positives: ArrayLike, negatives: ArrayLike) -> float | None:
    """Return the chance that a positive's score, of shape (P,), is above a negative's, of (N,); ties count half.

    It is the area under the ROC curve (Mann and Whitney, 1947). None without one of both.
    """
    sample, others = np.asarray(positives, dtype=float), np.sort(np.asarray(negatives, dtype=float))
    if not len(sample) or not len(others):
        return None
    below, up_to = (np.searchsorted(others, sample, side) for side in ("left", "right"))
    return float(np.mean(below + up_to) / 2 / len(others))
