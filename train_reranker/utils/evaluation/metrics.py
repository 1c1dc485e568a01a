"""Ranking metrics of a reranker on query/pos/neg pools, each beside what a random order would get."""

import functools
import itertools
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, Self

import numpy as np

from utils.data.first_stage import without_ties
from utils.data.judged import JudgedPool, rankable
from utils.evaluation.results import MetricFigures
from utils.evaluation.statistics import area_under_curve, bootstrap_mean
from utils.files import replacing


class Pool(NamedTuple):
    """One query's passages: a grade and a score for each, and what no order of them can bring back."""

    grades: np.ndarray  # whole numbers, (N,); above 0 is relevant, 0 also where nothing was judged
    scores: np.ndarray  # higher is better, (N,)
    missed: tuple[int, ...] = ()  # grades of the relevant documents that are not in the pool

    @classmethod
    def of(cls, positives: int, scores: np.ndarray) -> Self:
        """Return a pool whose first ``positives`` passages are relevant, with grade 1, and the others are not."""
        return cls(np.repeat([1, 0], [positives, len(scores) - positives]), scores)

    @property
    def size(self) -> int:
        """How many passages there are."""
        return len(self.scores)

    @property
    def relevant(self) -> int:
        """How many of the passages are relevant."""
        return int(np.sum(self.grades > 0))

    @property
    def ideal(self) -> np.ndarray:
        """The grades of all relevant documents, also of those that are missed, best first."""
        grades = np.append(self.grades[self.grades > 0], self.missed)
        return np.sort(grades)[::-1]


@functools.cache
def harmonic(n: int) -> float:
    """Return 1 + 1/2 + … + 1/n."""
    return float(np.sum(1 / np.arange(1, n + 1)))


@functools.cache
def random_reciprocal_rank(relevant: int, size: int) -> float:
    """Return the expected 1/rank of the first relevant of ``size`` passages in random order, 0 if none is."""
    if not relevant:
        return 0.0
    ranks = np.arange(1, size - relevant + 2)  # those that the first relevant one may have
    left = size + 1 - ranks  # passages from a rank on
    none_above = np.cumprod(np.append(1.0, (left - relevant)[:-1] / left[:-1]))
    return float(np.sum(none_above * relevant / left / ranks))


def random_average_precision(pool: Pool) -> float:
    """Return the expected average precision of a random order.

    A relevant passage at rank r has, on average, (r − 1)(R − 1)/(n − 1) other relevant ones above it.
    """
    above = (pool.relevant - 1) / max(1, pool.size - 1)
    found = harmonic(pool.size) / pool.size
    return (found + above * (1 - found)) * pool.relevant / len(pool.ideal)


def random_ndcg(pool: Pool, cutoff: int) -> float:
    """Return the expected nDCG at a cutoff of a random order; a passage's gain is its grade."""
    expected = dcg(np.full(pool.size, np.maximum(pool.grades, 0).mean()), cutoff)
    return expected / dcg(pool.ideal, cutoff)


def dcg(grades: np.ndarray, cutoff: int) -> float:
    """Return the discounted cumulative gain of grades in rank order (Järvelin and Kekäläinen, 2002), linear gains."""
    top = np.maximum(grades[:cutoff], 0)
    return float((top / np.log2(np.arange(2, len(top) + 2))).sum())


class Metric(NamedTuple):
    """How a metric is computed, and its expected value for a pool in random order."""

    measure: str | Callable[[Pool], float]  # in ir-measures' notation, or a function
    expected: Callable[[Pool], float]


def pairs_of(judged: Sequence[JudgedPool]) -> list[tuple[str, str]]:
    """Return all (query, passage) pairs, pool by pool."""
    return [(pool.query, passage) for pool in judged for passage in pool.passages]


def pools_of(judged: Sequence[JudgedPool], scores: np.ndarray) -> list[Pool]:
    """Return the pools with their scores, of shape (pairs,) in the order of :func:`pairs_of`."""
    ends = np.cumsum([len(pool.passages) for pool in judged])
    cut = np.split(scores, ends[:-1])
    return [Pool(one.grades, each, one.missed) for one, each in zip(judged, cut, strict=True)]


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
            qrels.append(Qrel(str(query), name, int(pool.grades[i])))
            run.append(ScoredDoc(str(query), name, float(score)))
        qrels += [Qrel(str(query), f"missed-{i}", grade) for i, grade in enumerate(pool.missed)]
    return qrels, run


def write_trec(folder: Path, judged: Sequence[JudgedPool], orders: Mapping[str, Sequence[Pool]]) -> None:
    """Write ``qrels.txt`` and each order's ``<name>.run``, so that other tools can check the figures.

    Queries and documents have the set's own ids; those of rows are numbered. The scores are made different, so that
    every tool sees the order that was evaluated, however it breaks ties.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = rankable(judged)
    queries = [pool.query_id or str(number) for number, pool in enumerate(kept)]
    own = [name for pool in kept for name in pool.ids or [""] * len(pool.passages)]
    for order, pools in orders.items():
        qrels, run = trec(rankable(pools))
        names = {(doc.query_id, doc.doc_id): name or doc.doc_id for doc, name in zip(run, own, strict=True)}
        with replacing(folder / "qrels.txt") as out:
            for qrel in qrels:
                name = names.get((qrel.query_id, qrel.doc_id), qrel.doc_id)
                out.write(f"{queries[int(qrel.query_id)]} 0 {name} {qrel.relevance}\n")
        tag = re.sub(r"\W+", "-", order)
        with replacing(folder / f"{tag}.run") as out:
            for query, found in itertools.groupby(run, key=lambda doc: doc.query_id):
                docs = sorted(found, key=lambda doc: (np.float32(doc.score), doc.doc_id), reverse=True)  # as trec_eval
                scores = without_ties(np.array([doc.score for doc in docs], dtype=np.float32)).tolist()
                for rank, (doc, score) in enumerate(zip(docs, scores, strict=True), 1):
                    out.write(f"{queries[int(query)]} Q0 {names[query, doc.doc_id]} {rank} {score!r} {tag}\n")


def pairwise_accuracy(pool: Pool) -> float:
    """Return the share of (relevant, other) pairs whose relevant passage scores higher.

    A tie counts half; without any pair it is 0.5.
    """
    area = area_under_curve(pool.scores[pool.grades > 0], pool.scores[pool.grades <= 0])
    return 0.5 if area is None else area


METRICS = {
    "MRR": Metric("RR", lambda pool: random_reciprocal_rank(pool.relevant, pool.size)),
    "nDCG@5": Metric("nDCG@5", lambda pool: random_ndcg(pool, 5)),
    "nDCG@10": Metric("nDCG@10", lambda pool: random_ndcg(pool, 10)),
    "MAP": Metric("AP", random_average_precision),
    "P@1": Metric("P@1", lambda pool: pool.relevant / pool.size),
    "pairwise accuracy": Metric(pairwise_accuracy, lambda pool: 0.5),
}


def compare(models: Mapping[str, Sequence[Pool]]) -> list[MetricFigures]:
    """Return each metric's figures over the pools that can be ranked; all models, by name, have the same pools."""
    ranked = {name: rankable(pools) for name, pools in models.items()}
    return figures({name: evaluate(pools) for name, pools in ranked.items()}, next(iter(ranked.values())))


def figures(values: Mapping[str, Mapping[str, Sequence[float]]], pools: Sequence[Pool]) -> list[MetricFigures]:
    """Return each metric's figures by each pool's values, by model and metric."""
    rows = []
    for metric in METRICS:
        means = {name: fmean(found[metric]) for name, found in values.items()}
        intervals = {name: bootstrap_mean(found[metric]) for name, found in values.items()}
        rows.append(MetricFigures(metric, means, intervals, fmean(at_random(metric, pools))))
    return rows


def at_random(metric: str, pools: Sequence[Pool]) -> list[float]:
    """Return a metric's expected value for each pool in random order, 0 for an empty one."""
    return [METRICS[metric].expected(pool) if pool.size else 0.0 for pool in pools]
