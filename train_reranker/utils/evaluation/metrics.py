"""Ranking metrics of a reranker on query/pos/neg pools, each beside what a random order would get."""

import functools
import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from utils.evaluation.results import MetricFigures
from utils.evaluation.statistics import area_under_curve, bootstrap_mean
from utils.files import replacing
from utils.schema import ContrastiveExample


class Pool(NamedTuple):
    """One query's passages: how many are positive, and a score for each, positives first."""

    positives: int
    scores: np.ndarray

    @property
    def size(self) -> int:
        """How many passages there are."""
        return len(self.scores)


@functools.cache
def harmonic(n: int) -> float:
    """Return 1 + 1/2 + … + 1/n."""
    return float(np.sum(1 / np.arange(1, n + 1)))


@functools.cache
def random_reciprocal_rank(positives: int, size: int) -> float:
    """Return the expected 1/rank of the first positive of ``size`` passages in random order."""
    ranks = np.arange(1, size - positives + 2)  # those that the first positive may have
    left = size + 1 - ranks  # passages from a rank on
    none_above = np.cumprod(np.append(1.0, (left - positives)[:-1] / left[:-1]))
    return float(np.sum(none_above * positives / left / ranks))


def random_average_precision(positives: int, size: int) -> float:
    """Return the expected average precision of a random order.

    A positive at rank r has, on average, (r − 1)(R − 1)/(n − 1) other positives above it.
    """
    above = (positives - 1) / max(1, size - 1)
    return harmonic(size) / size + above * (1 - harmonic(size) / size)


def random_ndcg(positives: int, size: int, cutoff: int) -> float:
    """Return the expected nDCG at a cutoff of a random order, with gain 1 for positives."""
    discounts = 1 / np.log2(np.arange(2, cutoff + 2))
    return float(positives / size * discounts[:size].sum() / discounts[:positives].sum())


class Metric(NamedTuple):
    """How a metric is computed, and its expected value for R positives among n passages in random order."""

    measure: str | Callable[[Pool], float]  # in ir-measures' notation, or a function
    expected: Callable[[int, int], float]


def pairs_of(examples: Sequence[ContrastiveExample]) -> list[tuple[str, str]]:
    """Return all (query, passage) pairs in order: each example's positives, then its negatives."""
    return [(example.query, passage) for example in examples for passage in (*example.pos, *example.neg)]


def pools_of(examples: Sequence[ContrastiveExample], scores: np.ndarray) -> list[Pool]:
    """Cut scores, of shape (pairs,) in the order of :func:`pairs_of`, into the examples' pools."""
    ends = np.cumsum([len(example.pos) + len(example.neg) for example in examples])
    cut = np.split(scores, ends[:-1])
    return [Pool(len(example.pos), pool) for example, pool in zip(examples, cut, strict=True)]


def evaluate(pools: Sequence[Pool], seed: int = 0) -> dict[str, list[float]]:
    """Return each metric's value for each pool, in order; MRR, nDCG, MAP and P@1 come from ir-measures.

    ``seed`` draws the order of equal scores: trec_eval breaks ties by document id, and a model that scores all passages
    alike must not profit from their names.
    """
    import ir_measures

    qrels, run = trec(pools, seed)
    parsed = {ir_measures.parse_measure(m.measure): name for name, m in METRICS.items() if isinstance(m.measure, str)}
    values = {name: [math.nan if isinstance(m.measure, str) else m.measure(pool) for pool in pools]
              for name, m in METRICS.items()}  # fmt: skip
    for value in ir_measures.iter_calc(list(parsed), qrels, run):
        values[parsed[value.measure]][int(value.query_id)] = value.value
    return values


def trec(pools: Sequence[Pool], seed: int = 0) -> tuple[list[Any], list[Any]]:
    """Return ir-measures' ``Qrel`` and ``ScoredDoc`` records of all pools; ``seed`` breaks ties."""
    from ir_measures import Qrel, ScoredDoc

    rng = random.Random(seed)
    qrels, run = [], []
    for query, pool in enumerate(pools):
        names = [f"{i:06d}" for i in range(pool.size)]
        rng.shuffle(names)
        for i, (name, score) in enumerate(zip(names, pool.scores, strict=True)):
            qrels.append(Qrel(str(query), name, int(i < pool.positives)))
            run.append(ScoredDoc(str(query), name, float(score)))
    return qrels, run


def write_trec(folder: Path, models: Mapping[str, Sequence[Pool]]) -> None:
    """Write ``qrels.txt`` and each model's ``<name>.run``, so that other tools can check the figures.

    Queries that have a negative are numbered from 0 in the data's order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, pools in models.items():
        qrels, run = trec(rankable(pools))
        with replacing(folder / "qrels.txt") as out:
            out.writelines(f"{qrel.query_id} 0 {qrel.doc_id} {qrel.relevance}\n" for qrel in qrels)
        ranked = sorted(run, key=lambda doc: (int(doc.query_id), -doc.score))
        with replacing(folder / f"{name}.run") as out:
            for query, docs in itertools.groupby(ranked, key=lambda doc: doc.query_id):
                out.writelines(f"{query} Q0 {doc.doc_id} {n} {doc.score!r} {name}\n" for n, doc in enumerate(docs, 1))


def rankable(pools: Sequence[Pool]) -> list[Pool]:
    """Return the pools that have a negative; there is nothing to rank in the others."""
    return [pool for pool in pools if pool.size > pool.positives]


def pairwise_accuracy(pool: Pool) -> float:
    """Return the share of (positive, negative) pairs whose positive scores higher; a tie counts half."""
    area = area_under_curve(pool.scores[: pool.positives], pool.scores[pool.positives :])
    return math.nan if area is None else area


METRICS = {
    "MRR": Metric("RR", random_reciprocal_rank),
    "nDCG@5": Metric("nDCG@5", lambda positives, size: random_ndcg(positives, size, 5)),
    "nDCG@10": Metric("nDCG@10", lambda positives, size: random_ndcg(positives, size, 10)),
    "MAP": Metric("AP", random_average_precision),
    "P@1": Metric("P@1", lambda positives, size: positives / size),
    "pairwise accuracy": Metric(pairwise_accuracy, lambda positives, size: 0.5),
}


def compare(models: Mapping[str, Sequence[Pool]]) -> list[MetricFigures]:
    """Return each metric's figures over the pools that have a negative; all models, by name, have the same pools."""
    values = {name: evaluate(rankable(pools)) for name, pools in models.items()}
    shapes = [(pool.positives, pool.size) for pool in rankable(next(iter(models.values())))]
    rows = []
    for metric, (_, expected) in METRICS.items():
        means = {name: fmean(found[metric]) for name, found in values.items()}
        intervals = {name: bootstrap_mean(found[metric]) for name, found in values.items()}
        rows.append(MetricFigures(metric, means, intervals, fmean(expected(*shape) for shape in shapes)))
    return rows
