"""Whether training helps: metrics on held-out queries along the way, the best step, its comparison with the base."""

import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.data.judged import pools_of_rows
from utils.data.split import Labelled, Split, split_examples
from utils.errors import InputError
from utils.evaluation import metrics
from utils.evaluation.paired import ALPHA, PairedDifference, paired
from utils.files import replacing, write_json
from utils.report.plots import new_figure
from utils.report.text import p_value
from utils.schema import ContrastiveExample

FILE, CURVE = "evaluation.json", "evaluation.png"
METRICS = ("MRR", "nDCG@10")
FEWEST_QUERIES, MOST_QUERIES = 20, 500


class Evaluation(NamedTuple):
    """The metrics at one step: means over the queries, and the reciprocal rank of each query."""

    step: int
    MRR: float
    nDCG_10: float
    ranks: list[float]


def hold_out(rows: Sequence[ContrastiveExample], fraction: float, seed: int, keep_negatives: bool = False) -> Split:
    """Hold out a share of the rows, at most about ``MOST_QUERIES``, or none where it is below ``FEWEST_QUERIES``."""
    fraction = min(fraction, MOST_QUERIES / max(1, len(rows)))
    labelled = [Labelled(row.query, row.query, row) for row in rows]
    split = split_examples(labelled, fraction, random.Random(seed), keep_negatives)
    return split if len(split.test) >= FEWEST_QUERIES else Split(list(rows), [], 0, 0, 0, split.wanted)


def shortfall(split: Split) -> str | None:
    """Say why far fewer rows are held out than asked for, what that means, and what to do; None if they are not."""
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


class EvaluationHistory:
    """The evaluations of one training, kept in its folder so that a resumed run continues them."""

    def __init__(self, examples: Sequence[ContrastiveExample]) -> None:
        """Hold the held-out examples; those without a negative rank nothing and are left out."""
        self.examples = [example for example in examples if example.neg]
        self.evaluations: list[Evaluation] = []
        self.best: Evaluation | None = None
        self.since_best = 0

    def add(self, step: int, scores: np.ndarray) -> Evaluation:
        """Evaluate ``scores``, (pairs,) in the order of ``metrics.pairs_of``.

        Step 0 is the base model, with which the best of the others is compared.
        """
        values = metrics.evaluate(metrics.pools_of(pools_of_rows(self.examples), scores))
        mrr, ndcg = (float(np.mean(values[metric])) for metric in METRICS)
        new = Evaluation(step, mrr, ndcg, values["MRR"])
        self.evaluations = [*(earlier for earlier in self.evaluations if earlier.step < step), new]
        if step and (self.best is None or (new.MRR, new.nDCG_10) > (self.best.MRR, self.best.nDCG_10)):
            self.best, self.since_best = new, 0
        elif step:
            self.since_best += 1
        return new

    def difference(self) -> PairedDifference | None:
        """Compare the best step's reciprocal ranks with the base model's; None before both are known.

        Corrected for the number of steps (Bonferroni): the best of several looks better than it is on the queries that
        it was chosen by.
        """
        if self.best is None or self.evaluations[0].step != 0:
            return None
        tests = len(self.evaluations) - 1
        return paired(self.best.ranks, self.evaluations[0].ranks, tests=tests, confidence=1 - ALPHA / max(1, tests))

    def write(self, folder: Path) -> None:
        """Write the evaluations as JSON."""
        difference, points = self.difference(), [one._asdict() for one in self.evaluations]
        value = {"queries": len(self.examples), "points": points, "best": self.best and self.best._asdict()}
        write_json(folder / FILE, value | {"difference": difference and asdict(difference)})

    def restore(self, value: dict[str, Any], path: Path, step: int) -> None:
        """Take over what an interrupted run has written to ``path``; an InputError if it is of other queries.

        Evaluations after ``step`` are forgotten, but not the best: the folder holds its model.
        """
        if value["queries"] != len(self.examples):
            raise InputError(
                f"{path} is of {value['queries']} queries, not {len(self.examples)}: resume with the same data"
            )
        self.evaluations = [Evaluation(**one) for one in value["points"] if one["step"] <= step]
        self.best = Evaluation(**value["best"]) if value["best"] else None
        best = max((e.step for e in self.evaluations if self.best and e.MRR >= self.best.MRR and e.step), default=step)
        self.since_best = sum(one.step > best for one in self.evaluations)

    def summary(self) -> str | None:
        """Return the line that says whether the training helped; None where that is unknown."""
        if (found := self.difference()) is None or self.best is None:
            return None
        ends = f" [{found.interval.low:+.3f}, {found.interval.high:+.3f}]" if found.interval else ""
        return (
            f"MRR of {len(self.examples)} held-out queries: base {self.evaluations[0].MRR:.3f}, best "
            f"{self.best.MRR:.3f} (step {self.best.step}), difference {found.difference:+.3f}{ends}, corrected p "
            f"{p_value(found.p_corrected)}: {found.outcome}"
        )


def draw_curve(history: EvaluationHistory, path: Path) -> None:
    """Draw both metrics over the steps, with the base model's dashed and the best step marked."""
    figure, axes = new_figure(4)
    steps, mrr, ndcg, _ = zip(*history.evaluations, strict=True)
    for values, metric in zip((mrr, ndcg), METRICS, strict=True):
        (line,) = axes.plot(steps, values, marker="o", label=metric)
        axes.axhline(values[0], color=line.get_color(), linestyle="--", linewidth=0.8)
    if history.best:
        axes.axvline(history.best.step, color="grey", linewidth=0.8, label=f"best: step {history.best.step}")
    axes.set(xlabel="step", ylabel=f"{len(history.examples)} held-out queries", ylim=(0, 1.02))
    axes.legend()
    with replacing(path, "wb") as out:
        figure.savefig(out, format="png", dpi=120)
