"""Are the tests and intervals honest? Simulates ablations and counts how often a test rejects, an interval covers.

    python benchmarks/simulations.py           # about two minutes; prints a table, writes benchmarks/results/

Under the null, 5% tests must reject in at most 6% of 1,000 simulations; intervals of 95% must cover in 93% to 97%.
Attempts are drawn as the demo's ablation has them: mostly 1, with a tail, and the budget for sources without success.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "train_reranker"))

import numpy as np

from utils.evaluation import statistics
from utils.evaluation.statistics import Interval, bootstrap_mean, discordant, mcnemar, paired_permutation, tango, wilson
from utils.files import write_json
from utils.report.text import percent, table

SIMULATIONS = 1000
RANKS = np.arange(1, 11)
SHARES = np.array([0.45, 0.2, 0.1, 0.07, 0.05, 0.04, 0.03, 0.02, 0.02, 0.02])
MEAN = float(RANKS @ SHARES)
SUCCESS = 0.8  # a source's chance to have a usable candidate


def attempts(rng: np.random.Generator, sources: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the attempts of two arms that are equally good, correlated as arms on the same source are."""
    shared = rng.random(sources) < 0.5
    first, second = rng.choice(RANKS, p=SHARES, size=(2, sources))
    return first, np.where(shared, first, second)


def successes(rng: np.random.Generator, sources: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the successes of two arms that are equally good, correlated as arms on the same source are."""
    shared = rng.random(sources) < 0.5
    first, second = rng.random((2, sources)) < SUCCESS
    return first, np.where(shared, first, second)


def covers(interval: Interval | None, value: float) -> bool:
    """Whether an interval holds the true value; one that cannot be computed does not."""
    return interval is not None and interval.low <= value <= interval.high


def simulate(sources: int) -> dict[str, float]:
    """Return shares of simulations: rejected under the null by each test, covered by each interval."""
    rng = np.random.default_rng(sources)
    counts = dict.fromkeys(("McNemar", "permutation", "Wilson", "Tango", "bootstrap", "bootstrap, paired"), 0)
    for _ in range(SIMULATIONS):
        judged, found = attempts(rng, sources), successes(rng, sources)
        counts["McNemar"] += mcnemar(discordant(*found)) < 0.05
        counts["permutation"] += paired_permutation(*judged) < 0.05
        counts["Wilson"] += covers(wilson(int(found[0].sum()), sources), SUCCESS)
        counts["Tango"] += covers(tango(*found), 0.0)
        counts["bootstrap"] += covers(bootstrap_mean(judged[0]), MEAN)
        counts["bootstrap, paired"] += covers(bootstrap_mean(judged[0] - judged[1]), 0.0)
    return {name: count / SIMULATIONS for name, count in counts.items()}


def main() -> None:
    """Simulate for several numbers of sources."""
    # Fewer resamples than a report takes: they add noise of their own, and cost what the simulations cost.
    statistics.RESAMPLES = 1999
    rows = {sources: simulate(sources) for sources in (50, 100, 200)}
    names = list(next(iter(rows.values())))
    cells = [[name, *(percent(rows[sources][name]) for sources in rows)] for name in names]
    print(f"{SIMULATIONS} simulations: tests rejected under the null (first two), intervals covered the true value")
    print(table(cells, ["", *(f"{sources} sources" for sources in rows)]))
    write_json(ROOT / "benchmarks" / "results" / "simulations.json", rows)


if __name__ == "__main__":
    main()
