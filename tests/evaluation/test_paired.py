"""The paired comparison: its words, its correction, and when a script must fail."""

from __future__ import annotations

import numpy as np
import pytest

from utils.evaluation.paired import BETTER, NO_DIFFERENCE, WORSE, correct, gate, paired
from utils.evaluation.statistics import bootstrap_mean, holm, paired_permutation, pairs_for_mean

BASE = np.arange(20.0)
GAIN, LOSS, SAME = paired(BASE + 1, BASE), paired(BASE - 1, BASE), paired(BASE, BASE)


def test_figures_are_those_of_the_statistics() -> None:
    ours, theirs = np.random.default_rng(1).normal(0.3, 1, (2, 40))
    found = paired(ours, theirs, tests=3)
    assert (found.pairs, found.difference) == (40, pytest.approx(np.mean(ours - theirs)))
    assert found.interval == bootstrap_mean(ours - theirs)
    assert found.p == paired_permutation(ours, theirs)
    assert found.p_corrected == min(1, 3 * found.p)
    assert found.pairs_needed == pairs_for_mean(ours - theirs, 0.05 / 3)


def test_outcome_is_by_the_corrected_p_and_by_what_is_better() -> None:
    assert (GAIN.outcome, LOSS.outcome, SAME.outcome) == (BETTER, WORSE, NO_DIFFERENCE)
    assert paired(BASE + 1, BASE, lower_is_better=True).outcome == WORSE
    assert paired(BASE + 1, BASE, tests=100_000).outcome == NO_DIFFERENCE
    nothing = paired([], [])
    assert (nothing.pairs, nothing.difference, nothing.interval, nothing.outcome) == (0, None, None, NO_DIFFERENCE)


def test_correction_is_holms_and_decides_the_outcome_anew() -> None:
    one = paired([1.0] * 6, [0.0] * 6)  # p = 2/64
    both = correct([one, one])
    assert [each.p_corrected for each in both] == holm([one.p, one.p])
    assert (one.outcome, both[0].outcome) == (BETTER, NO_DIFFERENCE)
    assert correct([]) == []


@pytest.mark.parametrize(
    ("differences", "regression", "not_better"),
    [([GAIN], False, False), ([SAME], False, True), ([LOSS], True, True), ([GAIN, SAME], False, True),
     ([GAIN, LOSS], True, True), ([], False, True)],
)  # fmt: skip
def test_gate_fails_on_a_significant_loss_or_unless_better(
    differences: list, regression: bool, not_better: bool
) -> None:
    assert gate(differences, unless_better=False) == regression
    assert gate(differences, unless_better=True) == not_better
