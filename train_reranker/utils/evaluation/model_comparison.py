"""What a test of rerankers shows: paired differences between models, slices, and whether the scores separate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from utils.errors import InputError
from utils.evaluation.metrics import RANDOM, Pool, compare, evaluate, rankable
from utils.evaluation.statistics import (
    CONFIDENCE,
    area_under_curve,
    bootstrap_mean,
    holm,
    paired_permutation,
    pairs_for_mean,
)
from utils.schema import ContrastiveExample

MODEL = "model"
SLICES = 4  # of each kind at most
BINS = 10  # of the calibration error


class Difference(NamedTuple):
    """One metric of the tested model less that of a baseline, query by query."""

    metric: str
    baseline: str
    difference: float
    interval: tuple[float, float] | None
    p: float
    p_corrected: float
    queries_needed: int | None

    @property
    def regression(self) -> bool:
        """Whether the model is worse than the baseline, and not by chance."""
        return self.difference < 0 and self.p_corrected < 1 - CONFIDENCE


def assess(examples: Sequence[ContrastiveExample], models: Mapping[str, Sequence[Pool]]) -> dict[str, Any]:
    """Return all that a test's file says of its models: metrics, differences, slices, separation of the scores.

    Args:
        examples: the test data.
        models: pools in the examples' order, by the model's name; ``MODEL`` is the one that is tested.

    Raises:
        InputError: no example has a negative, so that there is nothing to rank.
    """
    kept = [example for example in examples if example.neg]
    if not kept:
        raise InputError("no row of the test data has a negative: there is nothing to rank; add some to neg")
    ranked = {name: rankable(pools) for name, pools in models.items()}
    differences = compare_models(ranked)
    rows = compare(models)
    return {
        "verdict": verdict(rows[0].values[MODEL], rows[0].random, differences, len(kept)),
        "queries": len(kept),
        "metrics": [row._asdict() for row in rows],
        "comparisons": [one._asdict() | {"regression": one.regression} for one in differences],
        "slices": slices(kept, ranked),
        "separation": {name: separation(pools) for name, pools in ranked.items()},
    }


def compare_models(models: Mapping[str, Sequence[Pool]]) -> list[Difference]:
    """Compare the tested model with every baseline on every metric.

    Each metric's values are paired by query and tested by permutation; p-values are corrected by Holm over the
    baselines, for each metric by itself.
    """
    values = {name: evaluate(pools) for name, pools in models.items()}
    baselines = [name for name in models if name != MODEL]
    found = []
    for metric in RANDOM:
        pairs = [np.array(values[MODEL][metric]) - np.array(values[name][metric]) for name in baselines]
        p_values = [paired_permutation(pair, np.zeros(len(pair))) for pair in pairs]
        for name, pair, p, corrected in zip(baselines, pairs, p_values, holm(p_values), strict=True):
            needed = pairs_for_mean(pair, (1 - CONFIDENCE) / len(baselines))
            found.append(Difference(metric, name, float(pair.mean()), bootstrap_mean(pair), p, corrected, needed))
    return found


def slices(examples: Sequence[ContrastiveExample], models: Mapping[str, Sequence[Pool]]) -> list[dict[str, Any]]:
    """Return every model's MRR over queries of like pool size, and of like positive length in words."""
    sizes = [len(example.pos) + len(example.neg) for example in examples]
    lengths = [round(fmean(len(text.split()) for text in example.pos)) for example in examples]
    values = {name: evaluate(pools)["MRR"] for name, pools in models.items()}
    expected = [RANDOM["MRR"](pool.positives, pool.size) for pool in models[MODEL]]
    rows = []
    for kind, measured in (("passages in the pool", sizes), ("words of the positive", lengths)):
        for low, high in ranges(measured):
            chosen = [i for i, value in enumerate(measured) if low <= value <= high]
            rows.append(
                {
                    "kind": kind,
                    "low": low,
                    "high": high,
                    "queries": len(chosen),
                    "values": {name: fmean(mrr[i] for i in chosen) for name, mrr in values.items()},
                    "intervals": {name: bootstrap_mean([mrr[i] for i in chosen]) for name, mrr in values.items()},
                    "random": fmean(expected[i] for i in chosen),
                }
            )
    return rows


def ranges(values: Sequence[int]) -> list[tuple[int, int]]:
    """Cut whole numbers into at most ``SLICES`` ranges of like many, none empty; each is (lowest, highest) in it."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, SLICES + 1)[1:], method="inverted_cdf"))
    found, below = [], min(values) - 1
    for edge in edges:
        inside = [value for value in values if below < value <= edge]
        found.append((min(inside), max(inside)))
        below = int(edge)
    return found


def separation(pools: Sequence[Pool]) -> dict[str, Any]:
    """Return whether scores tell positives from negatives: over all pairs, within queries, and as probabilities.

    ``auc`` is the chance that any positive scores above any negative, of whatever query; ``gap`` the mean difference
    of the positives' and negatives' means within a query, in the scores' unit; ``calibration_error`` the expected
    calibration error (Naeini et al., 2015) of the scores' sigmoids in ``BINS`` bins, 0 to 1.
    """
    positives = np.concatenate([pool.scores[: pool.positives] for pool in pools]).astype(float)
    negatives = np.concatenate([pool.scores[pool.positives :] for pool in pools]).astype(float)
    gaps = [float(pool.scores[: pool.positives].mean() - pool.scores[pool.positives :].mean()) for pool in pools]
    return {
        "auc": area_under_curve(positives, negatives),
        "positive_mean": float(positives.mean()),
        "negative_mean": float(negatives.mean()),
        "gap": fmean(gaps),
        "gap_interval": bootstrap_mean(gaps),
        "calibration_error": calibration_error(positives, negatives),
        "histogram": histogram(positives, negatives),
    }


def calibration_error(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Return the mean distance of predicted and observed shares of positives, over bins of the scores' sigmoid."""
    from scipy.special import expit

    predicted = expit(np.concatenate([positives, negatives]))
    label = np.repeat([1.0, 0.0], [len(positives), len(negatives)])
    bins = np.minimum((predicted * BINS).astype(int), BINS - 1)
    distances = np.abs([np.sum(predicted[bins == b] - label[bins == b]) for b in range(BINS)])
    return float(distances.sum() / len(label))


def histogram(positives: np.ndarray, negatives: np.ndarray, bins: int = 30) -> dict[str, list[float]]:
    """Return both kinds' shares in bins of like width, with the bins' edges (one more than bins)."""
    edges = np.histogram_bin_edges(np.concatenate([positives, negatives]), bins)
    counts = {"positives": positives, "negatives": negatives}
    shares = {name: (np.histogram(scores, edges)[0] / len(scores)).tolist() for name, scores in counts.items()}
    return {"edges": edges.tolist(), **shares}


def verdict(mrr: float, random: float, differences: Sequence[Difference], queries: int) -> str:
    """Say in a sentence or two what the test has shown, and no more than that."""
    sentences = [f"MRR {mrr:.3f} over {queries} queries, where a random order would have {random:.3f}."]
    for found in differences:
        if found.metric != "MRR":
            continue
        ends = f" (95% interval {found.interval[0]:+.3f} to {found.interval[1]:+.3f})" if found.interval else ""
        if found.p_corrected >= 1 - CONFIDENCE or not found.difference:
            more = f"; about {found.queries_needed:,} queries would show it" if found.queries_needed else ""
            sentences.append(f"No difference from {found.baseline} was seen: {found.difference:+.3f}{ends}{more}.")
        else:
            how = "better" if found.difference > 0 else "worse"
            sentences.append(f"It is {how} than {found.baseline} by {abs(found.difference):.3f}{ends}.")
    return " ".join(sentences)
