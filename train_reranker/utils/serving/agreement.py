"""Whether what serves a reranker scores and orders as the trained folder does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit
from scipy.stats import kendalltau, rankdata

from utils.data.judged import JudgedPool, rankable
from utils.errors import InputError
from utils.evaluation.metrics import Pool, evaluate, figures, pools_of
from utils.evaluation.paired import PairedDifference, paired
from utils.evaluation.results import MetricFigures, Result

FOLDER, SERVED = "folder", "served"
SHOWN = ("nDCG@10", "MRR")
AGREEING = 0.99  # share of the scores that must agree

# What a server may return for a model's logits. The last is a fault: it saturates, and passages tie.
LOGITS, PROBABILITIES, SIGMOID_TWICE = "logits", "sigmoids of logits", "sigmoids of sigmoids"
SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    LOGITS: lambda logits: logits,
    PROBABILITIES: expit,
    SIGMOID_TWICE: lambda logits: expit(expit(logits)),
}


class Scored(NamedTuple):
    """Pairs with their scores by the folder and by what serves it."""

    pairs: list[tuple[str, str]]
    ours: np.ndarray  # logits of the folder, (pairs,)
    theirs: np.ndarray  # as they are served, (pairs,)
    cut: np.ndarray  # whether a pair is longer than the folder's lengths, (pairs,)


class Bounds(NamedTuple):
    """What still counts as the same."""

    tau: float  # mean Kendall's tau of the queries, at least
    tolerance: float  # between two scores, in standard deviations of the folder's


@dataclass(frozen=True, kw_only=True)
class ServingResult(Result):
    """A trained folder beside what serves it. Shares are 0 to 1; what cannot be computed is None."""

    queries: int
    pairs: int
    scale: str  # of the served scores: one of ``SCALES``
    agreeing: float  # share of the pairs whose scores are within the tolerance
    largest: float  # difference of two scores, in standard deviations of the folder's
    cut: int  # pairs that are longer than the folder's length
    agreeing_cut: float | None  # of those pairs
    tau: float  # Kendall's tau-b, mean over the queries with several passages
    same_top: float  # share of those queries whose best passage is the same
    same_order: float
    metrics: list[MetricFigures]
    differences: dict[str, PairedDifference]  # served less folder, by metric
    faithful: bool
    cause: str = ""  # of the difference, as far as it can be told


def on_scale(name: str, ours: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the folder's logits, (N,), on a scale, and their standard deviation there."""
    scores = SCALES[name](ours.astype(float))
    return scores, float(scores.std())


def differences(name: str, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return how far the served scores are from the folder's on a scale, (N,), in standard deviations of the latter."""
    scores, deviation = on_scale(name, ours)
    return np.abs(scores - theirs) / deviation


def possible_scales(theirs: np.ndarray) -> list[str]:
    """Return the scales that scores can be on: only logits leave 0 to 1."""
    return [LOGITS] if theirs.min() < 0 or theirs.max() > 1 else list(SCALES)


def scale_of(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> str:
    """Return the scale on which the served scores are nearest to the folder's logits, both (N,).

    Two sigmoids must fit, because almost anything is near to scores that hardly differ.
    """
    near = {name: float(np.median(differences(name, ours, theirs))) for name in possible_scales(theirs)}
    if near.get(SIGMOID_TWICE, np.inf) > tolerance:
        near.pop(SIGMOID_TWICE, None)
    return min(near, key=lambda name: near[name])


def measure(judged: Sequence[JudgedPool], scored: Scored, bounds: Bounds, settings: dict[str, Any]) -> ServingResult:
    """Compare the scores and orders of pools, whose pairs are scored in the order of ``metrics.pairs_of``.

    Raises:
        InputError: the folder scores all pairs alike.
    """
    _, ours, theirs, cut = scored
    if np.ptp(ours) == 0:
        raise InputError("the trained folder scores all pairs alike: there is no order to compare; train it again")
    scale = scale_of(ours, theirs, bounds.tolerance)
    apart = differences(scale, ours, theirs)
    agreeing = float(np.mean(apart <= bounds.tolerance))
    agreeing_cut = float(np.mean(apart[cut] <= bounds.tolerance)) if cut.any() else None
    pools = {FOLDER: pools_of(judged, ours), SERVED: pools_of(judged, theirs)}
    tau, same_top, same_order = map(fmean, zip(*_orders(*pools.values()), strict=True))
    ranked = {name: rankable(found) for name, found in pools.items()}
    values = {name: evaluate(found) for name, found in ranked.items()}
    same_scores = scale != SIGMOID_TWICE and min(agreeing, 1.0 if agreeing_cut is None else agreeing_cut) >= AGREEING
    return ServingResult(
        settings=settings, summary="", queries=len(judged), pairs=len(ours), scale=scale, agreeing=agreeing,
        largest=float(apart.max()), cut=int(cut.sum()), agreeing_cut=agreeing_cut, tau=tau, same_top=same_top,
        same_order=same_order, metrics=figures(values, ranked[FOLDER]),
        differences={name: paired(values[SERVED][name], values[FOLDER][name], tests=len(SHOWN)) for name in SHOWN},
        faithful=same_scores and tau >= bounds.tau,
    )  # fmt: skip


def _orders(ours: Sequence[Pool], theirs: Sequence[Pool]) -> list[tuple[float, bool, bool]]:
    """Return Kendall's tau, and whether the top and the whole order are the same, of each pool with an order."""
    found = []
    for one, other in zip(ours, theirs, strict=True):
        if one.size > 1 and np.ptp(one.scores) > 0:
            tau = float(kendalltau(one.scores, other.scores).statistic)  # NaN where all served scores are the same
            ranks, served = rankdata(-one.scores, "min"), rankdata(-other.scores, "min")
            found.append(
                (np.nan_to_num(tau), bool(((ranks == 1) == (served == 1)).all()), bool((ranks == served).all()))
            )
    return found
