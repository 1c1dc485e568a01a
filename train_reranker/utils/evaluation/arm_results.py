"""From trials to evidence: each arm's figures with intervals, paired comparisons, and what they show in a sentence.

A source counts for an arm where the arm's own trial completed, and for a comparison where both arms' trials did: an
ERROR is no evidence for or against either, and is counted apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from statistics import fmean
from typing import NamedTuple

from utils.evaluation.paired import ALPHA, BETTER, NO_DIFFERENCE, WORSE, correct, paired
from utils.evaluation.results import ArmComparison, ArmFigures, WithinBudget
from utils.evaluation.statistics import (
    Interval,
    bootstrap_mean,
    discordant,
    holm,
    mcnemar,
    pairs_for_proportions,
    tango,
    wilson,
)  # fmt: skip
from utils.labelling.record import JudgedSource
from utils.retrieval.arms import ARMS

THOUSAND = 1000


def arm_figures(results: Sequence[JudgedSource], arms: Sequence[str], budget: int | None = None) -> list[ArmFigures]:
    """Return each arm's figures; arms are "<run>: <arm>" where runs are side by side.

    ``budget`` is how many candidates an arm retrieved at most; default: the most that any did.
    """
    most = budget or max((len(trial.retrieved) for result in results for trial in result.trials.values()), default=0)
    return [_figures(arm, results, most) for arm in arms]


def _figures(arm: str, results: Sequence[JudgedSource], budget: int) -> ArmFigures:
    trials = [trial for result in results if (trial := result.decided(arm)) is not None]
    judged, attempts = [trial.attempts for trial in trials], [trial.attempts for trial in trials if trial.success]
    sources, successes, at = len(trials), len(attempts), Counter(attempts)
    distribution = [at[rank] for rank in range(1, budget + 1)]
    within = [
        WithinBudget(rank, found / sources if sources else None, wilson(found, sources))
        for rank, found in enumerate(accumulate(distribution), 1)
    ]
    known = ARMS.get(arm.rpartition(": ")[2])
    return ArmFigures(
        arm=arm, label=known.label if known else arm,
        sources=sources, successes=successes,
        errors=sum(result.trials[arm].failed for result in results if arm in result.trials),
        success_rate=successes / sources if sources else None, success_interval=wilson(successes, sources),
        mean_attempts=fmean(attempts) if attempts else None, attempts_interval=bootstrap_mean(attempts),
        mean_judged=fmean(judged) if judged else None, judged_interval=bootstrap_mean(judged),
        within=within, distribution=distribution, without=sources - successes,
    )  # fmt: skip


class TrialPairs(NamedTuple):
    """Two arms, by the arm and by its baseline, on the sources on which the trials of both completed."""

    attempts: tuple[list[int], list[int]]  # candidates judged
    successes: tuple[list[bool], list[bool]]  # whether a usable one was found
    left_out: int  # sources that an error of either left undecided

    @classmethod
    def of(cls, results: Sequence[JudgedSource], arm: str, baseline: str) -> TrialPairs:
        """Pair two arms by source."""
        shared = [result.trials for result in results if {arm, baseline} <= result.trials.keys()]
        both = [trials for trials in shared if not (trials[arm].failed or trials[baseline].failed)]
        ours, theirs = [trials[arm] for trials in both], [trials[baseline] for trials in both]
        attempts = [one.attempts for one in ours], [one.attempts for one in theirs]
        successes = [one.success for one in ours], [one.success for one in theirs]
        return cls(attempts, successes, len(shared) - len(both))


def arm_comparisons(
    results: Sequence[JudgedSource], versus: Sequence[tuple[str, str]], cost_per_call: float | None = None
) -> list[ArmComparison]:
    """Compare pairs of arms, (arm, baseline) by name.

    P-values are corrected over all of them, by Holm, for each of the two measures. ``cost_per_call`` is of a teacher's
    judgement, in the currency of the prices; None without prices.
    """
    pairs = [TrialPairs.of(results, *names) for names in versus]
    judged = correct([paired(*one.attempts, tests=len(pairs), lower_is_better=True) for one in pairs])
    success_p = holm([mcnemar(discordant(*one.successes)) for one in pairs])
    found = []
    for (arm, baseline), one, difference, p in zip(versus, pairs, judged, success_p, strict=True):
        only, count = discordant(*one.successes), difference.pairs
        saved, interval = _scaled(difference.difference, difference.interval, -THOUSAND)
        money, money_interval = _scaled(saved, interval, cost_per_call)
        comparison = ArmComparison(
            arm=arm, baseline=baseline, sources=count, left_out=one.left_out,
            success_difference=(only.first - only.second) / count if count else None,
            success_interval=tango(*one.successes), only_arm=only.first, only_baseline=only.second,
            success_p=mcnemar(only), success_p_corrected=p,
            judged_difference=difference.difference, judged_interval=difference.interval,
            judged_p=difference.p, judged_p_corrected=difference.p_corrected, outcome=difference.outcome,
            sources_needed_success=pairs_for_proportions(only, count, ALPHA / len(pairs)),
            sources_needed_judged=difference.pairs_needed,
            calls_saved_per_thousand=saved, calls_saved_interval=interval,
            money_saved_per_thousand=money, money_saved_interval=money_interval,
        )  # fmt: skip
        found.append(comparison)
    return found


def _scaled(
    value: float | None, interval: Interval | None, factor: float | None
) -> tuple[float | None, Interval | None]:
    if value is None or factor is None:
        return None, None
    return factor * value + 0.0, interval and Interval(*sorted(factor * end for end in interval))  # + 0.0: no −0.0


def against(arms: Sequence[str], baseline: str) -> list[tuple[str, str]]:
    """Return (arm, baseline) for every other arm; nothing where the baseline did not run."""
    return [(arm, baseline) for arm in arms if arm != baseline] if baseline in arms else []


def summary(figures: Sequence[ArmFigures], comparisons: Sequence[ArmComparison]) -> str:
    """Say in a sentence or two what the run has shown, and no more than that."""
    if not any(arm.sources for arm in figures):
        errors = max((arm.errors for arm in figures), default=0)
        return f"No conclusion: no source completed ({errors} failed with an error)."
    if not comparisons:
        return " ".join(map(_alone, figures))
    if not any(comparison.sources for comparison in comparisons):
        return "No comparison: no source completed for two arms."
    ordered = sorted(comparisons, key=lambda comparison: comparison.judged_difference or 0)
    better, worse, same = ([c for c in ordered if c.outcome == outcome] for outcome in (BETTER, WORSE, NO_DIFFERENCE))
    baselines = {comparison.baseline for comparison in comparisons}
    baseline = baselines.pop() if len(baselines) == 1 else "its baseline"
    sentences = [_gain(best) for best in better[:1]]
    if better[1:]:
        sentences.append(f"{_list_arms(better[1:])} also better.")
    if worse:
        sentences.append(f"{_list_arms(worse)} worse than {baseline}.")
    if same:
        needed = min((c.sources_needed_judged for c in same if c.sources_needed_judged), default=None)
        more = f"; detecting one takes about {needed:,} sources" if needed else ""
        sentences.append(f"No significant difference from {baseline} for {', '.join(c.arm for c in same)}{more}.")
    return " ".join(sentences)


def _alone(arm: ArmFigures) -> str:
    after = "" if arm.mean_attempts is None else f", after {arm.mean_attempts:.2f} candidates on average"
    return f"{arm.arm} finds a usable candidate for {arm.successes} of {arm.sources} sources{after}."


def _gain(comparison: ArmComparison) -> str:
    interval, p = comparison.judged_interval, comparison.judged_p_corrected
    ends = f"95% interval {-interval.high:.2f} to {-interval.low:.2f}, " if interval else ""
    p_text = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return (
        f"{comparison.arm} needs {-(comparison.judged_difference or 0):.2f} fewer candidates per source than "
        f"{comparison.baseline} ({ends}corrected {p_text}, {comparison.sources} sources): "
        f"{comparison.calls_saved_per_thousand:,.0f} teacher calls saved per thousand sources."
    )


def _list_arms(comparisons: Sequence[ArmComparison]) -> str:
    return f"{', '.join(c.arm for c in comparisons)} {'is' if len(comparisons) == 1 else 'are'}"
