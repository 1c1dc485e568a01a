"""What a test of rerankers shows: paired differences between models, slices, and whether the scores separate."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import scipy

from utils.errors import InputError
from utils.evaluation.metrics import METRICS, Pool, compare, evaluate, random_reciprocal_rank, rankable
from utils.evaluation.paired import NO_DIFFERENCE, correct, paired
from utils.evaluation.results import Histogram, MetricFigures, ModelComparison, RerankerTestResult, Separation, Slice
from utils.evaluation.statistics import area_under_curve, bootstrap_mean
from utils.schema import ContrastiveExample

MODEL = "model"
SLICES = 4  # of each kind at most
BINS = 10  # of the calibration error


def reranker_test_result(
    examples: Sequence[ContrastiveExample], models: Mapping[str, Sequence[Pool]], settings: dict[str, Any]
) -> RerankerTestResult:
    """Return what a test has shown: metrics, differences, slices, separation; InputError if no example has a negative.

    ``models`` are pools in the examples' order, by the model's name; ``MODEL`` is the one that is tested.
    """
    kept = [example for example in examples if example.neg]
    if not kept:
        raise InputError("no row of the test data has a negative: there is nothing to rank; add some to neg")
    ranked = {name: rankable(pools) for name, pools in models.items()}
    values = {name: evaluate(pools) for name, pools in ranked.items()}
    rows, comparisons = compare(models), compare_models(values)
    return RerankerTestResult(
        settings=settings,
        summary=summary(rows[0], comparisons, len(kept)),
        queries=len(kept),
        metrics=rows,
        comparisons=comparisons,
        slices=slices(kept, {name: of["MRR"] for name, of in values.items()}),
        separation={name: separation(pools) for name, pools in ranked.items()},
    )


def compare_models(values: Mapping[str, Mapping[str, Sequence[float]]]) -> list[ModelComparison]:
    """Compare the tested model with every baseline on every metric, by each query's values by model and metric.

    P-values are corrected by Holm over the baselines, for each metric by itself.
    """
    baselines = [name for name in values if name != MODEL]
    found = []
    for metric in METRICS:
        pairs = [paired(values[MODEL][metric], values[name][metric], tests=len(baselines)) for name in baselines]
        for name, pair in zip(baselines, correct(pairs), strict=True):
            measured = {key: value for key, value in vars(pair).items() if key != "outcome"}
            found.append(ModelComparison(**measured, metric=metric, baseline=name))
    return found


def slices(examples: Sequence[ContrastiveExample], values: Mapping[str, Sequence[float]]) -> list[Slice]:
    """Return every model's MRR over queries with pools of similar size, and with positives of similar length.

    ``values`` are each query's reciprocal ranks, by model.
    """
    sizes = [len(example.pos) + len(example.neg) for example in examples]
    lengths = [round(fmean(len(text.split()) for text in example.pos)) for example in examples]
    expected = [random_reciprocal_rank(len(one.pos), size) for one, size in zip(examples, sizes, strict=True)]
    found = []
    for kind, measured in (("passages in the pool", sizes), ("words of the positive", lengths)):
        for low, high in ranges(measured):
            chosen = [i for i, value in enumerate(measured) if low <= value <= high]
            mrr = {name: [ranks[i] for i in chosen] for name, ranks in values.items()}
            means, random = {name: fmean(ranks) for name, ranks in mrr.items()}, fmean(expected[i] for i in chosen)
            intervals = {name: bootstrap_mean(ranks) for name, ranks in mrr.items()}
            found.append(Slice(kind, low, high, len(chosen), means, intervals, random))
    return found


def ranges(values: Sequence[int]) -> list[tuple[int, int]]:
    """Cut whole numbers into at most ``SLICES`` ranges of about equally many, none empty; each is (lowest, highest)."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, SLICES + 1)[1:], method="inverted_cdf"))
    lows = [min(values), *(min(value for value in values if value > edge) for edge in edges[:-1])]
    return list(zip(lows, map(int, edges), strict=True))


def separation(pools: Sequence[Pool]) -> Separation:
    """Return how well a model's scores separate positives from negatives."""
    both = [pool for pool in pools if 0 < pool.relevant < pool.size]
    cut = [[pool.scores[kind].astype(float) for kind in (pool.grades > 0, pool.grades <= 0)] for pool in both]
    positives, negatives = (np.concatenate(kind) for kind in zip(*cut, strict=True))
    gaps = [float(ours.mean() - others.mean()) for ours, others in cut]
    return Separation(
        auc=area_under_curve(positives, negatives),
        positive_mean=float(positives.mean()), negative_mean=float(negatives.mean()),
        gap=fmean(gaps), gap_interval=bootstrap_mean(gaps),
        calibration_error=calibration_error(positives, negatives), histogram=histogram(positives, negatives),
    )  # fmt: skip


def calibration_error(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Return the mean distance of predicted and observed shares of positives, over bins of the scores' sigmoid."""
    predicted = scipy.special.expit(np.concatenate([positives, negatives]))
    label = np.repeat([1.0, 0.0], [len(positives), len(negatives)])
    bins = np.minimum((predicted * BINS).astype(int), BINS - 1)
    distances = np.abs([np.sum(predicted[bins == b] - label[bins == b]) for b in range(BINS)])
    return float(distances.sum() / len(label))


def histogram(positives: np.ndarray, negatives: np.ndarray, bins: int = 30) -> Histogram:
    """Return the shares of both kinds in bins of equal width."""
    edges = np.histogram_bin_edges(np.concatenate([positives, negatives]), bins)
    shares = [(np.histogram(scores, edges)[0] / len(scores)).tolist() for scores in (positives, negatives)]
    return Histogram(edges.tolist(), *shares)


def summary(mrr: MetricFigures, comparisons: Sequence[ModelComparison], queries: int) -> str:
    """Say in a sentence or two what the test has shown, and no more than that."""
    sentences = [f"MRR {mrr.values[MODEL]:.3f} over {queries} queries; a random order would have {mrr.random:.3f}."]
    for found in (one for one in comparisons if one.metric == mrr.metric):
        ends = f" (95% interval {found.interval.low:+.3f} to {found.interval.high:+.3f})" if found.interval else ""
        if found.outcome == NO_DIFFERENCE:
            more = f"; detecting it takes about {found.pairs_needed:,} queries" if found.pairs_needed else ""
            sentences.append(f"No significant difference from {found.baseline}: {found.difference:+.3f}{ends}{more}.")
        else:
            by = abs(found.difference or 0)
            sentences.append(f"The model is {found.outcome} than {found.baseline} by {by:.3f}{ends}.")
    return " ".join(sentences)
