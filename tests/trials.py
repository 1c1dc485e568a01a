"""Judged sources out of ranks, and results of them, for the tests of evaluation and report."""

from __future__ import annotations

from typing import Any

import numpy as np

from utils.data.first_stage import FIRST, HYBRID, LEXICAL, RankedPools
from utils.data.rows import pools_of_rows
from utils.evaluation.ablation_results import RunContext, ablation_result
from utils.evaluation.metrics import Pool
from utils.evaluation.reranker_results import orders_of, reranker_test_result
from utils.evaluation.results import AblationResult, RerankerTestResult
from utils.evaluation.verdict import MODEL
from utils.labelling.record import JudgedSource, Trial
from utils.schema import BridgeEntity, ContrastiveExample, Outcome, Verdict

BUDGET = 4
NASTY = '</script><script>alert(1)</script><img src="http://x.test/y.png"> & $x_1$ \'"'


def trial(rank: int | None, error: bool = False) -> Trial:
    """A trial that finds its first usable candidate at a rank, or none, or ends in an error at once."""
    if error:
        verdicts = [Verdict(Outcome.ERROR, NASTY)]
    else:
        verdicts = [Verdict(Outcome.UNUSABLE, "no")] * ((rank or BUDGET + 1) - 1)
        verdicts = [*verdicts, Verdict(Outcome.USABLE, NASTY)] if rank else verdicts
    return Trial([f"d{i}" for i in range(BUDGET)], verdicts)


def sources(**ranks: list[Any]) -> list[JudgedSource]:
    """Sources with one arm's rank each: a number, None for no success, "error"."""
    found = []
    for i, row in enumerate(zip(*ranks.values(), strict=True)):
        trials = {
            arm: trial(None if rank == "error" else rank, rank == "error") for arm, rank in zip(ranks, row, strict=True)
        }
        found.append(JudgedSource(str(i), BridgeEntity("e", "t", NASTY, f"query {i}"), trials))
    return found


def result_of(results: list[JudgedSource], arms: list[str], **context: Any) -> AblationResult:
    """The result of an ablation with the baseline "base"."""
    settings, documents = {"seed": 1, "name": NASTY}, {"d0": NASTY, "0": NASTY}
    context = {"settings": settings, "documents": documents} | context
    return ablation_result(results, arms, "base", budget=BUDGET, context=RunContext(**context))


def reranker_test(shift: float = 1.0, queries: int = 30) -> RerankerTestResult:
    """A model whose positives score higher by ``shift`` than a baseline's and the first stage's, on drawn scores."""
    rng = np.random.default_rng(0)
    rows = [
        ContrastiveExample(f"q{i}", ["p " * (1 + i % 7)], [f"n{k}" for k in range(2 + i % 3)]) for i in range(queries)
    ]
    pools = pools_of_rows(rows)
    noise = [rng.normal(size=len(pool.passages)) for pool in pools]
    scores = {MODEL: np.concatenate([scores + shift * (np.arange(len(scores)) == 0) for scores in noise])}
    scores["baseline"] = np.concatenate(noise)
    first = {name: [rng.normal(size=len(one)) for one in noise] for name in (FIRST, LEXICAL, HYBRID)}
    return result_from(RankedPools(pools, "tiny", False, first), scores)


def result_from(test: RankedPools, scores: dict[str, np.ndarray]) -> RerankerTestResult:
    """What a test with these scores shows."""
    return reranker_test_result(test, *orders_of(test, scores), {"test_data": "test.jsonl"})


def simulated(kind: str, seed: int, queries: int = 60, size: int = 20) -> tuple[list[Pool], list[Pool]]:
    """Pools of a fair first stage, and of a reranker that is useful, useless or harmful, on drawn scores."""
    rng = np.random.default_rng(seed)
    signal = {"useful": 1.5, "useless": 0.0, "harmful": -1.5}[kind]
    first, model = [], []
    for _ in range(queries):
        grades = np.zeros(size, dtype=int)
        grades[rng.choice(size, rng.integers(1, 4), replace=False)] = rng.integers(1, 3)
        first.append(Pool(grades, (grades > 0) + rng.normal(size=size)))
        model.append(Pool(grades, signal * (grades > 0) + rng.normal(size=size)))
    return first, model
