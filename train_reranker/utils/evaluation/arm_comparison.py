"""From trials to evidence: each arm's figures with intervals, paired comparisons, and what they come to in a sentence.

A source counts for an arm where the arm's own trial came to an end, and for a comparison where both arms' did: an ERROR
is no evidence for or against either, and is counted apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from utils.evaluation.statistics import (
    CONFIDENCE,
    Interval,
    bootstrap_mean,
    discordant,
    holm,
    mcnemar,
    paired_permutation,
    pairs_for_mean,
    pairs_for_proportions,
    tango,
    wilson,
)
from utils.labelling.record import JudgedSource, Trial

ALPHA = 1 - CONFIDENCE
THOUSAND = 1000


def mean(values: Sequence[float]) -> float | None:
    """Return the mean, None of nothing."""
    return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class ArmResult:
    """One arm over the sources on which its trial came to an end."""

    arm: str
    trials: tuple[Trial, ...]
    errors: int  # sources that an error left open
    budget: int  # candidates judged at most

    @property
    def sources(self) -> int:
        """How many sources count."""
        return len(self.trials)

    @property
    def successes(self) -> int:
        """How many sources have a usable candidate."""
        return sum(trial.success for trial in self.trials)

    @property
    def attempts(self) -> list[int]:
        """Candidates judged until the first usable one, of each source that has one."""
        return [trial.attempts for trial in self.trials if trial.success]

    @property
    def success_rate(self) -> float | None:
        """Share of sources with a usable candidate, 0 to 1; None without a source."""
        return self.successes / self.sources if self.sources else None

    @property
    def success_interval(self) -> Interval | None:
        """The success rate's Wilson interval."""
        return wilson(self.successes, self.sources)

    @property
    def mean_attempts(self) -> float | None:
        """Candidates judged until the first usable one, over the sources that have one; None where none has."""
        return mean(self.attempts)

    @cached_property
    def attempts_interval(self) -> Interval | None:
        """The mean attempts' bootstrap interval."""
        return bootstrap_mean(self.attempts)

    @property
    def mean_judged(self) -> float | None:
        """Candidates judged a source, those of sources without a usable one included; None without a source."""
        return mean([trial.attempts for trial in self.trials])

    @cached_property
    def judged_interval(self) -> Interval | None:
        """The bootstrap interval of the candidates judged a source."""
        return bootstrap_mean([trial.attempts for trial in self.trials])

    @property
    def within(self) -> list[dict[str, Any]]:
        """For budgets of 1, 2, … candidates: the share of sources with a usable one among them, and its interval."""
        found = Counter(self.attempts)
        rows, successes = [], 0
        for budget in range(1, self.budget + 1):
            successes += found[budget]
            share = successes / self.sources if self.sources else None
            rows.append({"budget": budget, "rate": share, "interval": wilson(successes, self.sources)})
        return rows

    def row(self) -> dict[str, Any]:
        """Return all figures, as they stand in the file."""
        found = Counter(self.attempts)
        return {
            "arm": self.arm,
            "sources": self.sources,
            "successes": self.successes,
            "errors": self.errors,
            "success_rate": self.success_rate,
            "success_interval": self.success_interval,
            "mean_attempts": self.mean_attempts,
            "attempts_interval": self.attempts_interval,
            "mean_judged": self.mean_judged,
            "judged_interval": self.judged_interval,
            "within": self.within,
            "distribution": [found[rank] for rank in range(1, self.budget + 1)],
            "without": self.sources - self.successes,
        }


@dataclass(frozen=True)
class Comparison:
    """Two arms over the sources on which both came to an end. Differences are arm − baseline."""

    arm: str
    baseline: str
    pairs: tuple[tuple[Trial, Trial], ...]
    left_out: int  # sources that an error of either left open
    tests: int = 1  # comparisons made together, which p-values and sample sizes are corrected for
    success_p_corrected: float = 1.0
    judged_p_corrected: float = 1.0

    @property
    def sources(self) -> int:
        """How many sources count."""
        return len(self.pairs)

    @property
    def differences(self) -> list[int]:
        """Of each source: candidates judged by the arm less those by the baseline; negative is better."""
        return [one.attempts - other.attempts for one, other in self.pairs]

    @property
    def _successes(self) -> tuple[list[bool], list[bool]]:
        return [one.success for one, _ in self.pairs], [other.success for _, other in self.pairs]

    @property
    def success_difference(self) -> float | None:
        """Difference of the success rates, −1 to 1; None without a source."""
        return mean([one.success - other.success for one, other in self.pairs])

    @property
    def judged_difference(self) -> float | None:
        """Difference of the candidates judged a source; None without a source."""
        return mean(self.differences)

    @cached_property
    def judged_interval(self) -> Interval | None:
        """The bootstrap interval of the difference of the candidates judged a source."""
        return bootstrap_mean(self.differences)

    @cached_property
    def success_p(self) -> float:
        """The exact McNemar test's p."""
        return mcnemar(discordant(*self._successes))

    @cached_property
    def judged_p(self) -> float:
        """The paired permutation test's p, on the candidates judged a source."""
        return paired_permutation(self.differences, [0] * self.sources)

    @property
    def saved(self) -> float | None:
        """Teacher calls that the arm saves per thousand sources; negative where it costs more."""
        return None if self.judged_difference is None else -THOUSAND * self.judged_difference

    @property
    def saved_interval(self) -> Interval | None:
        """The saved calls' bootstrap interval."""
        interval = self.judged_interval
        return interval and Interval(-THOUSAND * interval.high, -THOUSAND * interval.low)

    @property
    def outcome(self) -> str:
        """How the arm did on the candidates judged a source: better, worse, or undecided at 5% after correction."""
        if self.judged_p_corrected >= ALPHA or not self.judged_difference:
            return "undecided"
        return "better" if self.judged_difference < 0 else "worse"

    def row(self, cost_per_call: float | None = None) -> dict[str, Any]:
        """Return all figures, as they stand in the file; ``cost_per_call`` is in the currency of the prices."""
        pairs, alpha = discordant(*self._successes), ALPHA / self.tests
        interval = self.saved_interval
        return {
            "arm": self.arm,
            "baseline": self.baseline,
            "sources": self.sources,
            "left_out": self.left_out,
            "success_difference": self.success_difference,
            "success_interval": tango(*self._successes),
            "only_arm": pairs.first,
            "only_baseline": pairs.second,
            "success_p": self.success_p,
            "success_p_corrected": self.success_p_corrected,
            "judged_difference": self.judged_difference,
            "judged_interval": self.judged_interval,
            "judged_p": self.judged_p,
            "judged_p_corrected": self.judged_p_corrected,
            "outcome": self.outcome,
            "sources_needed_success": pairs_for_proportions(pairs, self.sources, alpha),
            "sources_needed_judged": pairs_for_mean(self.differences, alpha),
            "calls_saved_per_thousand": self.saved,
            "calls_saved_interval": interval,
            "money_saved_per_thousand": _times(self.saved, cost_per_call),
            "money_saved_interval": interval and [_times(end, cost_per_call) for end in interval],
        }


def _times(value: float | None, factor: float | None) -> float | None:
    return None if value is None or factor is None else value * factor


def summarize(results: Sequence[JudgedSource], arms: Sequence[str], budget: int | None = None) -> list[ArmResult]:
    """Return each arm's figures.

    Args:
        results: sources with the arms' trials.
        arms: what to tell of.
        budget: candidates that an arm retrieved at most; default: the most that any did.
    """
    most = budget or max((len(t.retrieved) for result in results for t in result.trials.values()), default=0)
    summary = []
    for arm in arms:
        decided = tuple(trial for result in results if (trial := result.decided(arm)) is not None)
        errors = sum(result.trials[arm].failed for result in results if arm in result.trials)
        summary.append(ArmResult(arm, decided, errors, most))
    return summary


def contrast(results: Sequence[JudgedSource], versus: Sequence[tuple[str, str]]) -> list[Comparison]:
    """Compare pairs of arms; p-values are corrected over all of them, by Holm, for each of the two measures.

    Args:
        results: sources with the arms' trials.
        versus: (arm, baseline) by name.
    """
    comparisons = []
    for arm, baseline in versus:
        shared = [result for result in results if {arm, baseline} <= result.trials.keys()]
        both = [(result.decided(arm), result.decided(baseline)) for result in shared]
        pairs = tuple((one, other) for one, other in both if one is not None and other is not None)
        comparisons.append(Comparison(arm, baseline, pairs, len(shared) - len(pairs), len(versus)))
    success = holm([comparison.success_p for comparison in comparisons])
    judged = holm([comparison.judged_p for comparison in comparisons])
    return [
        Comparison(c.arm, c.baseline, c.pairs, c.left_out, c.tests, success_p, judged_p)
        for c, success_p, judged_p in zip(comparisons, success, judged, strict=True)
    ]


def against(arms: Sequence[str], baseline: str) -> list[tuple[str, str]]:
    """Return (arm, baseline) for every other arm; nothing where the baseline was not run."""
    return [(arm, baseline) for arm in arms if arm != baseline] if baseline in arms else []


def verdict(summary: Sequence[ArmResult], comparisons: Sequence[Comparison]) -> str:
    """Say in a sentence or two what the run has shown, and no more than that."""
    if not any(result.sources for result in summary):
        errors = max((result.errors for result in summary), default=0)
        return f"Nothing can be said: no source came to an end ({errors} ended in errors)."
    if not comparisons:
        return " ".join(map(_alone, summary))
    if not any(comparison.sources for comparison in comparisons):
        return "Nothing can be compared: no source came to an end for two arms."
    by_outcome: dict[str, list[str]] = {"better": [], "worse": [], "undecided": []}
    for comparison in sorted(comparisons, key=lambda c: c.judged_difference or 0):
        by_outcome[comparison.outcome].append(comparison.arm)
    best = min(comparisons, key=lambda c: c.judged_difference or 0)
    sentences = []
    if by_outcome["better"]:
        sentences.append(_told(best))
    if others := [arm for arm in by_outcome["better"] if arm != best.arm]:
        sentences.append(f"{_listed(others)} also better.")
    baselines = {comparison.baseline for comparison in comparisons}
    other = baselines.pop() if len(baselines) == 1 else "its baseline"
    if by_outcome["worse"]:
        sentences.append(f"{_listed(by_outcome['worse'])} worse than {other}.")
    if by_outcome["undecided"]:
        found = [c.row()["sources_needed_judged"] for c in comparisons if c.outcome == "undecided"]
        needed = min((count for count in found if count), default=None)
        more = f"; about {needed:,} sources would be needed to see one of them" if needed else ""
        names = ", ".join(by_outcome["undecided"])
        sentences.append(f"No difference from {other} was seen for {names}{more}.")
    return " ".join(sentences)


def _alone(result: ArmResult) -> str:
    found = f"{result.arm} finds a usable candidate for {result.successes} of {result.sources} sources"
    if result.mean_attempts is None:
        return f"{found}."
    return f"{found}, after {result.mean_attempts:.2f} candidates on average."


def _told(comparison: Comparison) -> str:
    interval, saved = comparison.judged_interval, comparison.saved or 0
    ends = f"95% interval {-interval.high:.2f} to {-interval.low:.2f}, " if interval else ""
    return (
        f"{comparison.arm} needs {-(comparison.judged_difference or 0):.2f} fewer candidates a source than "
        f"{comparison.baseline} ({ends}corrected p {p_text(comparison.judged_p_corrected)}, {comparison.sources} "
        f"sources): {saved:,.0f} teacher calls saved per thousand sources."
    )


def _listed(arms: Sequence[str]) -> str:
    return f"{', '.join(arms)} {'is' if len(arms) == 1 else 'are'}"


def p_text(p: float) -> str:
    """Return a p-value to be read, as in "= 0.031" or "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def evidence(
    results: Sequence[JudgedSource],
    arms: Sequence[str],
    versus: Sequence[tuple[str, str]],
    *,
    budget: int | None = None,
    labels: Mapping[str, str] | None = None,
    cost_per_call: float | None = None,
) -> dict[str, Any]:
    """Return what a result file says of its sources: verdict, table, comparisons and the sources themselves.

    Args:
        results: sources with the arms' trials.
        arms: in the order of the table.
        versus: (arm, baseline) that are compared.
        budget: candidates that an arm retrieved at most.
        labels: what each arm does, in words.
        cost_per_call: of a teacher's judgement, in the currency of the prices; None where there is no price.
    """
    summary, comparisons = summarize(results, arms, budget), contrast(results, versus)
    return {
        "verdict": verdict(summary, comparisons),
        "table": [{**result.row(), "label": (labels or {}).get(result.arm, result.arm)} for result in summary],
        "comparisons": [comparison.row(cost_per_call) for comparison in comparisons],
        "cost_per_call": cost_per_call,
        "extraction_errors": sum(result.error is not None for result in results),
        "sources": [result.to_json() for result in results],
    }
