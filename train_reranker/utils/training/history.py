"""Whether training helps: evaluations along the way, the best step, its comparison with the base, and the verdict.

At home, on held-out rows, the model should be better than its base; abroad, on guard queries of another origin, no
worse.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from utils.data.judged import JudgedPool, rankable
from utils.errors import InputError
from utils.evaluation import metrics
from utils.evaluation.paired import ALPHA, PairedDifference, difference_text, paired
from utils.files import replacing, write_json
from utils.report.plots import new_figure
from utils.report.text import p_value

FILE, CURVE = "evaluation.json", "evaluation.png"
HELD_OUT, GUARD = "held-out", "guard"
PLACES = {HELD_OUT: "at home", GUARD: "abroad"}
METRICS = {HELD_OUT: "MRR", GUARD: "nDCG@10"}  # that models are compared by; a guard's grades may be more than two


class Evaluation(NamedTuple):
    """The metrics of one model on one set: means over the queries, and each query's value of the set's own metric."""

    step: int
    MRR: float
    nDCG_10: float
    values: list[float]


class Mix(NamedTuple):
    """A share of the base's weights, and the evaluation of the model that it makes, by the name of the set."""

    share: float
    evaluations: dict[str, Evaluation]

    @property
    def mean(self) -> float:
        """The mean of the sets' metrics, by which the share is chosen."""
        return fmean(self.means.values())

    @property
    def means(self) -> dict[str, float]:
        """Each set's metric."""
        return {f"{name} {METRICS[name]}": fmean(one.values) for name, one in self.evaluations.items()}


@dataclass
class EvaluatedSet:
    """A set of queries, and the evaluations of one training on it."""

    metric: str
    pools: Sequence[JudgedPool]
    points: list[Evaluation] = field(default_factory=list)
    best: Evaluation | None = None  # of the step that is kept
    mixed: Evaluation | None = None  # of that step's weights averaged with the base's

    def evaluate(self, step: int, scores: np.ndarray) -> Evaluation:
        """Evaluate scores, (pairs,) in the order of ``metrics.pairs_of``."""
        values = metrics.evaluate(metrics.pools_of(self.pools, scores))
        return Evaluation(step, fmean(values["MRR"]), fmean(values["nDCG@10"]), values[self.metric])

    @property
    def final(self) -> Evaluation | None:
        """The evaluation of the model that is written."""
        return self.mixed or self.best

    def difference(self, tests: int) -> PairedDifference | None:
        """Compare the final model with the base, query by query; None before both are known.

        Corrected for the models (Bonferroni) that the final one was chosen from by this set: it looks better than it
        is on the queries that it was chosen by.
        """
        if self.final is None or not self.points or self.points[0].step != 0:
            return None
        confidence = 1 - ALPHA / max(1, tests)
        return paired(self.final.values, self.points[0].values, tests=tests, confidence=confidence)

    def to_json(self, tests: int) -> dict[str, Any]:
        """Return what the file holds of this set."""
        difference, points = self.difference(tests), [one._asdict() for one in self.points]
        value = {"queries": len(self.pools), "metric": self.metric, "points": points}
        for name in ("best", "mixed"):
            value[name] = (one := getattr(self, name)) and one._asdict()
        return value | {"difference": difference and asdict(difference)}


class EvaluationHistory:
    """The evaluations of one training, kept in its folder so that a resumed run continues them."""

    def __init__(self, held_out: Sequence[JudgedPool], guard: Sequence[JudgedPool] = ()) -> None:
        """Hold both sets; queries whose passages all have the same grade rank nothing and are left out."""
        self.sets: dict[str, EvaluatedSet] = {}
        for name, pools in ((HELD_OUT, held_out), (GUARD, guard)):
            if ranking := rankable(pools):
                self.sets[name] = EvaluatedSet(METRICS[name], ranking)
        self.since_best = 0
        self.mixes: list[Mix] = []

    @property
    def pools(self) -> list[JudgedPool]:
        """The pools of all sets."""
        return [pool for one in self.sets.values() for pool in one.pools]

    @property
    def best(self) -> int | None:
        """The step whose model is kept: the best on the held-out rows, or the last where there are none."""
        best = next(iter(self.sets.values())).best
        return best and best.step

    def evaluate(self, step: int, scores: np.ndarray) -> dict[str, Evaluation]:
        """Evaluate scores, (pairs,) in the order of ``metrics.pairs_of(self.pools)``, on each set."""
        ends = np.cumsum([sum(len(pool.passages) for pool in one.pools) for one in self.sets.values()])
        parts = np.split(scores, ends[:-1])
        return {name: one.evaluate(step, part) for (name, one), part in zip(self.sets.items(), parts, strict=True)}

    def add(self, step: int, scores: np.ndarray) -> dict[str, Evaluation]:
        """Add the evaluation of a step; step 0 is the base model, with which the best of the others is compared."""
        new = self.evaluate(step, scores)
        self._take(step, new)
        return new

    def _take(self, step: int, new: Mapping[str, Evaluation]) -> None:
        for name, one in self.sets.items():
            one.points.append(new[name])
        if step and self._is_best(new):
            self.since_best = 0
            for name, one in self.sets.items():
                one.best = new[name]
        elif step:
            self.since_best += 1

    def _is_best(self, new: Mapping[str, Evaluation]) -> bool:
        if HELD_OUT not in self.sets or (best := self.sets[HELD_OUT].best) is None:
            return True
        return (new[HELD_OUT].MRR, new[HELD_OUT].nDCG_10) > (best.MRR, best.nDCG_10)

    def add_mix(self, share: float, scores: np.ndarray) -> Mix:
        """Add and return the evaluation of the kept step's weights, mixed with this share of the base's."""
        self.mixes.append(new := Mix(share, self.evaluate(self.best or 0, scores)))
        for name, one in self.sets.items():
            one.mixed = self.mix.evaluations[name] if self.mix else None
        return new

    @property
    def mix(self) -> Mix | None:
        """The mix with the best mean of the sets' metrics; of equal ones, that with the larger share of the base."""
        return max(self.mixes, key=lambda mix: (mix.mean, mix.share), default=None)

    def _tests(self, name: str) -> int:
        """Return how many models the final one was chosen from by a set: steps by held-out rows, shares by both."""
        steps = len(self.sets[name].points) - 1 if name == HELD_OUT else 1
        return steps + max(0, len(self.mixes) - 1)

    def differences(self) -> dict[str, PairedDifference]:
        """Compare the final model with the base on each set; a set without a known base or final model is left out."""
        found = {name: one.difference(self._tests(name)) for name, one in self.sets.items()}
        return {name: one for name, one in found.items() if one is not None}

    def write(self, folder: Path) -> None:
        """Write the evaluations as JSON."""
        sets = {name: one.to_json(self._tests(name)) for name, one in self.sets.items()}
        tried = [{"share": mix.share, "mean": mix.mean, **mix.means} for mix in self.mixes]
        value = sets.get(HELD_OUT, {}) | {GUARD: sets.get(GUARD), "verdict": verdict(self.differences())}
        write_json(folder / FILE, value | {"mix": self.mix and {"share": self.mix.share, "tried": tried}})

    def restore(self, path: Path) -> None:
        """Take over the evaluations that a checkpoint holds; an InputError if they are of other queries, or none."""
        try:
            value = json.loads(path.read_bytes())
            written = {name: value[GUARD] if name == GUARD else value for name in self.sets}
            theirs = " and ".join(f"{one['queries']} {name}" for name, one in written.items())
            points = [[Evaluation(**point) for point in one["points"]] for one in written.values()]
        except (OSError, ValueError, TypeError, KeyError):
            raise InputError(f"{path} is missing or damaged: name another checkpoint with --resume") from None
        if theirs != (ours := " and ".join(f"{len(one.pools)} {name}" for name, one in self.sets.items())):
            raise InputError(f"{path} is of {theirs} queries, not {ours}: resume with the same data")
        for found in zip(*points, strict=True):
            self._take(found[0].step, dict(zip(written, found, strict=True)))

    def summary(self) -> str | None:
        """Return a line for each set that says whether the training helped there; None where that is unknown."""
        differences = self.differences()
        lines = [self._line(name, found) for name, found in differences.items()]
        if GUARD in differences:
            lines.append(f"verdict: {verdict(differences)}")
        return "\n".join(lines) or None

    def _line(self, name: str, found: PairedDifference) -> str:
        one = self.sets[name]
        assert one.final is not None
        share = f", mixed with {self.mix.share:g} of the base" if self.mix else ""
        return (
            f"{one.metric} of {len(one.pools)} {name} queries: base {fmean(one.points[0].values):.3f}, final "
            f"{fmean(one.final.values):.3f} (step {self.best}{share}), difference {difference_text(found)}, "
            f"corrected p {p_value(found.p_corrected)}: {found.outcome}"
        )


def verdict(differences: Mapping[str, PairedDifference]) -> str:
    """Return in words what the comparisons with the base say, by set; nothing where there are none."""
    return ", ".join(f"{one.outcome} {PLACES[name]}" for name, one in differences.items())


def draw_curve(history: EvaluationHistory, path: Path) -> None:
    """Draw the metrics over the steps, with the base model's dashed and the best step marked."""
    figure, axes = new_figure(4)
    for name, one in history.sets.items():
        steps, mrr, ndcg, _ = zip(*one.points, strict=True)
        shown = {"MRR": mrr, "nDCG@10": ndcg} if name == HELD_OUT else {"nDCG@10": ndcg}
        for metric, values in shown.items():
            (line,) = axes.plot(steps, values, marker="o", label=f"{metric}, {len(one.pools)} {name} queries")
            axes.axhline(values[0], color=line.get_color(), linestyle="--", linewidth=0.8)
    if history.best:
        axes.axvline(history.best, color="grey", linewidth=0.8, label=f"best: step {history.best}")
    axes.set(xlabel="step", ylim=(0, 1.02))
    axes.legend()
    with replacing(path, "wb") as out:
        figure.savefig(out, format="png", dpi=120)
