"""The one paired comparison: two methods on the same queries or sources, in one set of words."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from utils.evaluation.statistics import CONFIDENCE, Interval, bootstrap_mean, holm, paired_permutation, pairs_for_mean

ALPHA = 1 - CONFIDENCE
BETTER, WORSE, NO_DIFFERENCE = "better", "worse", "no difference"


@dataclass(frozen=True)
class PairedDifference:
    """Ours less theirs, pair by pair; what cannot be computed is None.

    ``outcome`` is ``better`` or ``worse`` where the corrected p is below 5%, else ``no difference``.
    """

    pairs: int
    difference: float | None  # of the means
    interval: Interval | None  # bootstrap, of the difference
    p: float  # of the permutation test
    p_corrected: float
    pairs_needed: int | None  # to detect such a difference with 80% power
    lower_is_better: bool = False
    outcome: str = field(init=False)

    def __post_init__(self) -> None:
        """Derive the outcome; it is a field so that result files hold it."""
        differs, better = self.p_corrected < ALPHA, ((self.difference or 0) < 0) == self.lower_is_better
        outcome = (BETTER if better else WORSE) if self.difference and differs else NO_DIFFERENCE
        object.__setattr__(self, "outcome", outcome)


def difference_text(one: PairedDifference) -> str:
    """Return a difference and its interval, as in "+0.031 [+0.010, +0.052]"."""
    ends = f" [{one.interval.low:+z.3f}, {one.interval.high:+z.3f}]" if one.interval else ""
    return f"{one.difference or 0.0:+z.3f}{ends}"


def paired(
    ours: ArrayLike, theirs: ArrayLike, *, tests: int = 1, lower_is_better: bool = False, confidence: float = CONFIDENCE
) -> PairedDifference:
    """Compare two methods by their values on the same pairs, both of shape (N,).

    Of ``tests`` comparisons made together, p is corrected by Bonferroni, or afterwards by :func:`correct`.
    """
    differences = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    p = paired_permutation(differences, np.zeros(len(differences)))
    return PairedDifference(
        len(differences),
        float(differences.mean()) if len(differences) else None,
        bootstrap_mean(differences, confidence),
        p,
        min(1.0, p * max(1, tests)),
        pairs_for_mean(differences, ALPHA / max(1, tests)),
        lower_is_better,
    )


def correct(found: Sequence[PairedDifference]) -> list[PairedDifference]:
    """Return comparisons that were made together with p-values corrected by Holm."""
    corrected = holm([one.p for one in found])
    return [replace(one, p_corrected=p) for one, p in zip(found, corrected, strict=True)]


def gate(differences: Sequence[PairedDifference], *, unless_better: bool) -> bool:
    """Return whether a script that was asked to must exit 3: on a significant loss to any baseline, after correction.

    With ``unless_better``, on anything but a significant gain over every baseline, and without a baseline.
    """
    if unless_better:
        return not differences or any(one.outcome != BETTER for one in differences)
    return any(one.outcome == WORSE for one in differences)
