"""What a sweep shows: each setting's figures, and its difference from the same arm as the run had it."""

from __future__ import annotations

from typing import Any

from utils.evaluation.arm_comparison import contrast, summarize
from utils.labelling.sweep import Sweep


def sweep_rows(sweep: Sweep, candidates: int) -> list[dict[str, Any]]:
    """Return a row for each setting; p-values are corrected over all settings.

    Args:
        sweep: what was observed.
        candidates: how many a setting retrieved at most.
    """
    summary = summarize(sweep.sources, [setting.name for setting in sweep.asked], candidates)
    compared = contrast(sweep.sources, [(setting.name, setting.arm) for setting in sweep.asked])
    rows = []
    for (setting, count), figures, comparison in zip(sweep.asked.items(), summary, compared, strict=True):
        row = {**figures.row(), **setting.row(), "verdicts_asked": count}
        rows.append(
            row
            | {
                "judged_difference": comparison.judged_difference,
                "difference_interval": comparison.judged_interval,
                "judged_p": comparison.judged_p,
                "judged_p_corrected": comparison.judged_p_corrected,
            }
        )
    return rows
