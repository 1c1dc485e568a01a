"""What a test of rerankers shows: every order's metrics, paired differences, slices, and whether scores separate."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import scipy

from utils.data.first_stage import FIRST, HYBRID, LEXICAL, RankedPools
from utils.data.judged import JudgedPool, judged_share, missed, rankable
from utils.evaluation.fusion import WEIGHTS, Fusion, cross_fit
from utils.evaluation.metrics import METRICS, Pool, at_random, evaluate, figures, pools_of
from utils.evaluation.paired import correct, paired
from utils.evaluation.results import Curves, Histogram, ModelComparison, RerankerTestResult, Separation, Slice
from utils.evaluation.statistics import area_under_curve, bootstrap_mean
from utils.evaluation.verdict import FUSED, MODEL, advise, compared_with_first, summary
from utils.evaluation.wins_and_losses import wins_and_losses

SLICES = 4  # of each kind at most
BINS = 10  # of the calibration error


def orders_of(test: RankedPools, scores: Mapping[str, np.ndarray]) -> tuple[dict[str, list[Pool]], Fusion]:
    """Return the pools of every order by its name, and the fusion of the tested model with the first stage.

    Args:
        test: the pools, and their orders before reranking.
        scores: of each model by name, (pairs,) in the order of ``metrics.pairs_of``; ``MODEL`` is the one tested.
    """
    models = {name: pools_of(test.pools, values) for name, values in scores.items()}
    stages = {name: pools_of(test.pools, np.concatenate(values)) for name, values in test.orders.items()}
    fusion = cross_fit(stages[FIRST], models[MODEL])
    return {**models, FUSED: fusion.pools, **stages}, fusion


def reranker_test_result(
    test: RankedPools, orders: Mapping[str, Sequence[Pool]], fusion: Fusion, settings: dict[str, Any]
) -> RerankerTestResult:
    """Return what a test has shown, of the orders and the fusion that :func:`orders_of` returns."""
    ranked = {name: rankable(pools) for name, pools in orders.items()}
    values = {name: evaluate(pools) for name, pools in ranked.items()}
    models = [name for name in orders if name not in (*test.orders, FUSED)]
    kept = rankable(test.pools)
    main = "nDCG@10" if test.graded else "MRR"
    by_main = {name: values[name][main] for name in (*models, FIRST)}
    read = [(FUSED, FIRST), (MODEL, FIRST), *((MODEL, name) for name in models if name != MODEL)]
    result = RerankerTestResult(
        settings=settings, summary="", queries=len(kept),
        metrics=figures(values, ranked[FIRST]),
        comparisons=compare_orders(values, models),
        slices=slices(kept, by_main, at_random(main, ranked[FIRST])),
        separation={name: found for name in models if (found := separation(ranked[name]))},
        main_metric=main,
        first_stage=test.first_stage, judged=judged_share(test.pools), missed=missed(test.pools), curves=curves(fusion),
        examples=wins_and_losses(
            kept,
            {name: [pool.scores for pool in pools] for name, pools in ranked.items()},
            {name: found[main] for name, found in values.items()},
            read,
        ),
    )  # fmt: skip
    result = replace(result, advice=advise(*compared_with_first(result), fusion))
    return replace(result, summary=summary(result))


def compare_orders(values: Mapping[str, Mapping[str, Sequence[float]]], models: Sequence[str]) -> list[ModelComparison]:
    """Compare the tested model with every baseline and the first stage, and with the latter what else could be used.

    Args:
        values: each query's, by order and metric.
        models: names of the orders that are single models.

    Returns:
        For each metric a comparison of every pair, with p-values corrected by Holm over the pairs.
    """
    pairs = [(MODEL, name) for name in models if name != MODEL]
    pairs += [(name, FIRST) for name in (MODEL, FUSED, LEXICAL, HYBRID) if name in values]
    found = []
    for metric in METRICS:
        differences = [paired(values[a][metric], values[b][metric], tests=len(pairs)) for a, b in pairs]
        for (order, baseline), one in zip(pairs, correct(differences), strict=True):
            measured = {key: value for key, value in vars(one).items() if key != "outcome"}
            found.append(ModelComparison(**measured, metric=metric, order=order, baseline=baseline))
    return found


def curves(fusion: Fusion) -> Curves:
    """Return the curves through the best weight and depth; where that is not to rerank, the weights' is of all."""
    weight, depth = fusion.weight, fusion.depth if fusion.weight else fusion.depths[-1]
    alone, fused = fusion.table[-1].tolist(), fusion.table[WEIGHTS.index(weight)].tolist()
    by_weight = fusion.table[:, fusion.depths.index(depth)].tolist()
    return Curves(fusion.depths, alone, fused, weight, list(WEIGHTS), by_weight, depth)


def slices(
    pools: Sequence[JudgedPool], values: Mapping[str, Sequence[float]], expected: Sequence[float]
) -> list[Slice]:
    """Return the orders' means over queries with pools of similar size, and with positives of similar length.

    ``values`` are each query's, by order, ``expected`` a random order's. Queries without a positive in their pool are
    left out.
    """
    found = []
    places = [i for i, pool in enumerate(pools) if (pool.grades > 0).any()]
    sizes = [len(pools[i].passages) for i in places]
    positives = [np.flatnonzero(pools[i].grades > 0) for i in places]
    lengths = [
        round(fmean(len(pools[i].passages[p].split()) for p in of)) for i, of in zip(places, positives, strict=True)
    ]
    for kind, measured in (("passages in the pool", sizes), ("words of the positive", lengths)):
        for low, high in ranges(measured) if measured else ():
            chosen = [i for i, value in enumerate(measured) if low <= value <= high]
            these = {name: [found[places[i]] for i in chosen] for name, found in values.items()}
            means = {name: fmean(found) for name, found in these.items()}
            random = fmean(expected[places[i]] for i in chosen)
            intervals = {name: bootstrap_mean(found) for name, found in these.items()}
            found.append(Slice(kind, low, high, len(chosen), means, intervals, random))
    return found


def ranges(values: Sequence[int]) -> list[tuple[int, int]]:
    """Cut whole numbers into at most ``SLICES`` ranges of about equally many, none empty; each is (lowest, highest)."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, SLICES + 1)[1:], method="inverted_cdf"))
    lows = [min(values), *(min(value for value in values if value > edge) for edge in edges[:-1])]
    return list(zip(lows, map(int, edges), strict=True))


def separation(pools: Sequence[Pool]) -> Separation | None:
    """Return how well a model's scores separate positives from negatives; None if no pool has both."""
    both = [pool for pool in pools if 0 < pool.relevant < pool.size]
    if not both:
        return None
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
