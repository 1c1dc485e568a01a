"""Judged sources out of ranks, and results of them, for the tests of evaluation and report."""

from __future__ import annotations

from typing import Any

import numpy as np

from utils.evaluation.ablation_results import RunContext, ablation_result
from utils.evaluation.metrics import Pool
from utils.evaluation.reranker_results import MODEL, reranker_test_result
from utils.evaluation.results import AblationResult, RerankerTestResult
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
    """A model whose positives score higher by ``shift`` than a baseline's, on drawn scores."""
    rng = np.random.default_rng(0)
    examples = [ContrastiveExample(f"q{i}", ["p " * (1 + i % 7)], ["n"] * (2 + i % 3)) for i in range(queries)]
    noise = [rng.normal(size=1 + len(example.neg)) for example in examples]
    pools = {
        name: [Pool.of(1, scores + by * (np.arange(len(scores)) == 0)) for scores in noise]
        for name, by in ((MODEL, shift), ("baseline", 0.0))
    }
    return reranker_test_result(examples, pools, {"test_data": "test.jsonl"})
