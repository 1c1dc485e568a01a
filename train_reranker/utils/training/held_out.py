"""Whether training helps: the held-out queries' metrics along the way, the best step, and the verdict at the end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.data.split import Labelled, Split, split_examples
from utils.errors import InputError
from utils.evaluation import metrics
from utils.evaluation.statistics import CONFIDENCE, bootstrap_mean
from utils.files import write_json
from utils.schema import ContrastiveExample

FILE, CURVE = "evaluation.json", "evaluation.png"
METRICS = ("MRR", "nDCG@10")
FEWEST_QUERIES, MOST_QUERIES = 20, 500
FEWEST_PAIRS = 6  # of fewer, even a difference in one direction throughout is not significant (2 · ½⁵ > 0.05)
BETTER, NO_DIFFERENCE, WORSE = "better", "no difference", "worse"


class Difference(NamedTuple):
    """A paired difference of means, with its confidence interval; the ends are None where it cannot be computed."""

    mean: float
    low: float | None
    high: float | None
    confidence: float

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` where the interval leaves 0 out, else ``no difference``."""
        if self.low is None or self.high is None:
            return NO_DIFFERENCE
        return BETTER if self.low > 0 else WORSE if self.high < 0 else NO_DIFFERENCE

    def __str__(self) -> str:
        """Say it with its interval and verdict."""
        ends = "no interval" if self.low is None or self.high is None else f"{self.low:+.3f}, {self.high:+.3f}"
        return f"{self.mean:+.3f} [{ends}]: {self.verdict}"


class Point(NamedTuple):
    """The metrics at one step: means over the queries, and the reciprocal rank of each query."""

    step: int
    MRR: float
    nDCG_10: float
    ranks: list[float]


def hold_out(rows: Sequence[ContrastiveExample], fraction: float, seed: int, keep_negatives: bool = False) -> Split:
    """Take a share of the rows for evaluation, as :func:`utils.data.split.split_examples` does.

    At most about ``MOST_QUERIES`` rows are taken. If fewer than ``FEWEST_QUERIES`` can be, none is held out.
    """
    fraction = min(fraction, MOST_QUERIES / max(1, len(rows)))
    labelled = [Labelled(row.query, row.query, row) for row in rows]
    split = split_examples(labelled, fraction, random.Random(seed), keep_negatives)
    if len(split.test) < FEWEST_QUERIES:
        return Split(list(rows), [], 0, 0, 0, split.wanted)
    return split


def shortfall(split: Split) -> str | None:
    """Say why far fewer rows are held out than wanted, what that means, and what to do; None if they are not."""
    if len(split.test) >= 0.9 * split.wanted:
        return None
    ranking = sum(bool(row.neg) for row in (*split.train, *split.test))
    if split.wanted < FEWEST_QUERIES:
        reason = f"too few rows to show anything would be held out ({split.wanted}, and {FEWEST_QUERIES} are needed)"
    elif ranking < split.wanted:
        reason = f"only {ranking} rows have a negative to rank against"
    else:
        reason = f"holding out {split.wanted} would lose too many others, which share queries, positives or negatives"
    if split.test:
        return f"only {len(split.test)} rows are held out: {reason}; name --eval_data to test on more"
    return f"no evaluation, so whether this training helps stays unknown: {reason}; name --eval_data, or give more rows"


def paired_difference(ours: Sequence[float], theirs: Sequence[float], comparisons: int = 1) -> Difference:
    """Return the mean of ``ours`` - ``theirs`` with its bootstrap interval over the pairs.

    The interval holds at 95% for ``comparisons`` of them together (Bonferroni): the best of several checkpoints looks
    better than it is on the queries that it was chosen by.
    """
    differences = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    mean, confidence = float(differences.mean()), 1 - (1 - CONFIDENCE) / max(1, comparisons)
    if len(differences) < FEWEST_PAIRS:
        return Difference(mean, None, None, confidence)
    low, high = bootstrap_mean(differences, confidence) or (mean, mean)  # all alike, as often as there are pairs
    return Difference(mean, low, high, confidence)


class History:
    """The evaluations of one training, kept in its folder so that a resumed run goes on with them."""

    def __init__(self, examples: Sequence[ContrastiveExample]) -> None:
        """Hold the held-out examples; those without a negative rank nothing and are left out."""
        self.examples = [example for example in examples if example.neg]
        self.points: list[Point] = []
        self.best: Point | None = None
        self.since_best = 0

    def add(self, step: int, scores: np.ndarray) -> Point:
        """Rank the examples' passages by ``scores``, (pairs,) in the order of ``metrics.pairs_of``; note the result.

        Step 0 is the base model, which is never the best: it is what the best is compared with.
        """
        values = metrics.evaluate(metrics.pools_of(self.examples, scores))
        mrr, ndcg = (float(np.mean(values[metric])) for metric in METRICS)
        point = Point(step, mrr, ndcg, values["MRR"])
        self.points = [*(p for p in self.points if p.step < step), point]
        if step and (self.best is None or (point.MRR, point.nDCG_10) > (self.best.MRR, self.best.nDCG_10)):
            self.best, self.since_best = point, 0
        elif step:
            self.since_best += 1
        return point

    def is_best(self, point: Point) -> bool:
        """Tell whether a point is the best until now."""
        return point is self.best

    def difference(self) -> Difference | None:
        """Compare the best step's reciprocal ranks with the base model's; None before both are there."""
        if self.best is None or self.points[0].step != 0:
            return None
        return paired_difference(self.best.ranks, self.points[0].ranks, comparisons=len(self.points) - 1)

    def rewind(self, step: int) -> None:
        """Forget the points after ``step``. The best stays, for the folder holds its model."""
        self.points = [point for point in self.points if point.step <= step]
        best = max((p.step for p in self.points if self.best and p.MRR >= self.best.MRR and p.step), default=step)
        self.since_best = sum(point.step > best for point in self.points)

    def write(self, folder: Path) -> None:
        """Write the evaluations as JSON."""
        difference = self.difference()
        value = {
            "queries": len(self.examples),
            "points": [point._asdict() for point in self.points],
            "best": self.best and self.best._asdict(),
            "difference": difference and difference._asdict() | {"verdict": difference.verdict},
        }
        write_json(folder / FILE, value)

    def restore(self, value: dict[str, Any], where: Path) -> None:
        """Take the evaluations over that an interrupted run has written.

        Raises:
            InputError: they are of other queries.
        """
        if value["queries"] != len(self.examples):
            raise InputError(
                f"{where} is of {value['queries']} queries, not {len(self.examples)}: resume with the same data"
            )
        self.points = [Point(**point) for point in value["points"]]
        self.best = Point(**value["best"]) if value["best"] else None

    def summary(self) -> str:
        """Return the one line that says what the training was good for."""
        difference = self.difference()
        assert difference is not None
        assert self.best is not None
        base = self.points[0]
        return (
            f"MRR of {len(self.examples)} held-out queries: base {base.MRR:.3f}, best {self.best.MRR:.3f} "
            f"(step {self.best.step}), difference {difference}"
        )


def draw_curve(history: History, path: Path) -> None:
    """Draw both metrics over the steps, with the base model's dashed and the best step marked."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    steps = [point.step for point in history.points]
    for values, metric in zip(
        ([p.MRR for p in history.points], [p.nDCG_10 for p in history.points]), METRICS, strict=True
    ):
        (line,) = axes.plot(steps, values, marker="o", label=metric)
        axes.axhline(values[0], color=line.get_color(), linestyle="--", linewidth=0.8)
    if history.best:
        axes.axvline(history.best.step, color="grey", linewidth=0.8, label=f"best: step {history.best.step}")
    axes.set(xlabel="step", ylabel=f"{len(history.examples)} held-out queries", ylim=(0, 1.02))
    axes.legend()
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", dpi=120)
    pyplot.close(figure)
    temporary.replace(path)
