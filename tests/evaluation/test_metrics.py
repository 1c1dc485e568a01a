"""Metrics against values worked out by hand, and the random order against shuffles."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest

from utils.data.judged import JudgedPool
from utils.data.rows import pools_of_rows
from utils.evaluation.metrics import (
    METRICS,
    Pool,
    compare,
    evaluate,
    harmonic,
    pools_of,
    random_reciprocal_rank,
    rankable,
    write_trec,
)
from utils.schema import ContrastiveExample


def test_values_by_hand() -> None:
    # Ranking: negative (3), positive (2), negative (1), positive (0).
    values = {metric: value[0] for metric, value in evaluate([Pool.of(2, np.array([2.0, 0.0, 3.0, 1.0]))]).items()}
    assert values["MRR"] == 1 / 2
    assert values["P@1"] == 0
    assert values["MAP"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    dcg, ideal = 1 / math.log2(3) + 1 / math.log2(5), 1 + 1 / math.log2(3)
    assert values["nDCG@10"] == pytest.approx(dcg / ideal)
    assert values["pairwise accuracy"] == 1 / 4


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("positives", "size"), [(1, 2), (2, 5), (1, 6), (4, 6), (1, 12)])
def test_random_order_is_the_mean_over_all_orders(metric: str, positives: int, size: int) -> None:
    # What matters is which ranks the positives take: all such sets are equally likely.
    pools = []
    for ranks in itertools.combinations(range(size), positives):
        others = [rank for rank in range(size) if rank not in ranks]
        pools.append(Pool.of(positives, -np.array([*ranks, *others], dtype=float)))
    assert np.mean(evaluate(pools)[metric]) == pytest.approx(METRICS[metric].expected(pools[0]), abs=1e-9)


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_random_reciprocal_rank_is_exact(size: int) -> None:
    for positives in range(1, size + 1):
        ways = [math.comb(size - rank, positives - 1) for rank in range(1, size + 1)]
        exact = sum(Fraction(count, rank) for rank, count in enumerate(ways, 1)) / math.comb(size, positives)
        assert random_reciprocal_rank(positives, size) == pytest.approx(float(exact), rel=1e-14)


def test_random_reciprocal_rank_of_large_pools() -> None:
    n = 100_000
    assert random_reciprocal_rank(1, n) == pytest.approx(harmonic(n) / n, rel=1e-12)
    assert random_reciprocal_rank(2, n) == pytest.approx(2 * (harmonic(n - 1) / (n - 1) - 1 / n), rel=1e-12)
    # So many positives that each rank has one by a toss: the sum of 2^-r / r.
    assert random_reciprocal_rank(n // 2, n) == pytest.approx(math.log(2), abs=1e-5)
    assert random_reciprocal_rank(n - 1, n) == pytest.approx(1 - 1 / n + 1 / n / 2, rel=1e-12)
    assert random_reciprocal_rank(n, n) == 1


def test_a_pool_of_many_positives_is_ranked() -> None:
    scores = np.concatenate([np.arange(1.0, 6001), np.arange(0.5, 6000)])  # each positive above its own negative
    rows = {row.metric: row for row in compare({"model": [Pool.of(6000, scores)]})}
    assert rows["pairwise accuracy"].values["model"] == pytest.approx((6000 * 6001 / 2) / 6000**2)
    assert rows["MRR"].values["model"] == 1
    assert rows["MRR"].random == pytest.approx(math.log(2), abs=1e-4)


def test_one_score_for_all_is_no_better_than_random() -> None:
    pools = [Pool.of(1, np.zeros(4))] * 4000
    rows = {row.metric: row for row in compare({"model": pools})}
    for metric, row in rows.items():
        assert row.values["model"] == pytest.approx(row.random, abs=0.03), metric


def test_pools_follow_the_pairs_and_empty_negatives_rank_nothing() -> None:
    examples = [ContrastiveExample("a", ["p"], ["n", "m"]), ContrastiveExample("b", ["p", "q"], [])]
    pools = pools_of(pools_of_rows(examples), np.arange(5.0))
    assert [pool.scores.tolist() for pool in pools] == [[0, 1, 2], [3, 4]]
    assert compare({"model": pools})[0].values["model"] == pytest.approx(1 / 3)  # of the first pool alone


def drawn_pools(count: int = 60) -> list[Pool]:
    """Pools of unequal size with drawn scores, some of them equal."""
    rng = np.random.default_rng(3)
    shapes = [(int(rng.integers(1, 3)), int(rng.integers(3, 9))) for _ in range(count)]
    return [Pool.of(positives, np.round(rng.normal(size=size), 1)) for positives, size in shapes]


def test_random_order_is_ten_thousand_shuffles_to_three_decimals() -> None:
    # The mean over pools of unequal size, as a table has it; MRR and P@1 are worked out here, without ir-measures.
    rng = np.random.default_rng(0)
    pools = drawn_pools(150)
    shapes = [(pool.relevant, pool.size) for pool in pools]
    first = np.empty((10_000, len(shapes)))
    for column, (positives, size) in enumerate(shapes):
        ranks = rng.random((10_000, size)).argsort(axis=1).argsort(axis=1)[:, :positives]
        first[:, column] = ranks.min(axis=1) + 1
    expected = {metric: np.mean([METRICS[metric].expected(pool) for pool in pools]) for metric in ("MRR", "P@1")}
    assert np.mean(1 / first) == pytest.approx(expected["MRR"], abs=1e-3)
    assert np.mean(first == 1) == pytest.approx(expected["P@1"], abs=1e-3)


@pytest.mark.parametrize("own", [False, True], ids=["rows", "own ids"])
def test_trec_files_give_the_same_figures_on_irmeasures_command_line(own: bool, tmp_path: Path) -> None:
    pools = [*drawn_pools(), Pool.of(1, np.zeros(1))]  # the last ranks nothing and is left out
    pools[3] = pools[3]._replace(grades=pools[3].grades * 3, missed=(2, 1))
    judged = [JudgedPool("", [""] * pool.size, pool.grades, pool.missed) for pool in pools]
    if own:  # which sort the other way round
        judged = [one._replace(query_id=f"q{i}", ids=[f"d{-k}" for k in range(len(one.passages))])
                  for i, one in enumerate(judged)]  # fmt: skip
    write_trec(tmp_path, judged, {"model": pools, "a + b": [pool._replace(scores=-pool.scores) for pool in pools]})
    ours = {row.metric: row.values["model"] for row in compare({"model": pools})}
    measures = {name: metric.measure for name, metric in METRICS.items() if isinstance(metric.measure, str)}
    command = [sys.executable, "-m", "ir_measures", "--places", "9", str(tmp_path / "qrels.txt")]
    done = subprocess.run(
        [*command, str(tmp_path / "model.run"), *measures.values()], capture_output=True, text=True, check=True
    )
    theirs = dict(line.split("\t") for line in done.stdout.splitlines())
    for metric, measure in measures.items():
        assert ours[metric] == pytest.approx(float(theirs[measure]), abs=1e-8), metric
    assert (tmp_path / "a-b.run").read_text().startswith("q0 Q0 d" if own else "0 Q0 0")


def test_grades_and_missed_documents_count() -> None:
    pool = Pool(np.array([0, 2, 1]), np.array([3.0, 2.0, 1.0]), missed=(3,))
    (ndcg,) = evaluate([pool])["nDCG@10"]
    assert ndcg == pytest.approx((2 / math.log2(3) + 1 / 2) / (3 + 2 / math.log2(3) + 1 / 2))
    orders = [pool._replace(scores=np.array(order, dtype=float)) for order in itertools.permutations(range(3))]
    for metric, values in evaluate(orders).items():
        assert np.mean(values) == pytest.approx(METRICS[metric].expected(pool), abs=1e-9), metric


def test_a_pool_without_anything_relevant_is_all_zeros() -> None:
    pool = Pool(np.array([0, 0]), np.array([2.0, 1.0]), missed=(1,))
    assert rankable([pool]) == [pool]
    values = {metric: value for metric, (value,) in evaluate([pool]).items()}
    assert values.pop("pairwise accuracy") == 0.5
    assert set(values.values()) == {0.0}
    assert all(METRICS[metric].expected(pool) == 0 for metric in values)


def test_metrics_are_those_of_sentence_transformers() -> None:
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

    pools = [pool._replace(scores=pool.scores + np.arange(pool.size) / 1e4) for pool in drawn_pools()]  # no ties
    scores = {(str(i), str(j)): s for i, pool in enumerate(pools) for j, s in enumerate(pool.scores)}
    samples = [
        {
            "query": str(i),
            "positive": [str(j) for j in range(pool.relevant)],
            "negative": [str(j) for j in range(pool.relevant, pool.size)],
        }
        for i, pool in enumerate(pools)
    ]

    def predict(pairs: list[tuple[str, str]], **_: object) -> np.ndarray:
        return np.array([scores[tuple(pair)] for pair in pairs])

    evaluate_model = CrossEncoderRerankingEvaluator(samples, at_k=10, write_csv=False, show_progress_bar=False)
    theirs = evaluate_model(MagicMock(predict=predict))
    ours = {row.metric: row.values["model"] for row in compare({"model": pools})}
    assert ours["MAP"] == pytest.approx(theirs["map"])
    assert ours["MRR"] == pytest.approx(theirs["mrr@10"])
    assert ours["nDCG@10"] == pytest.approx(theirs["ndcg@10"])
