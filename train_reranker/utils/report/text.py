"""Results as text: tables for the screen, figures with their intervals, and the versions that they were made with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

# What the figures depend on.
PACKAGES = ("torch", "transformers", "FlagEmbedding", "faiss-cpu", "numpy", "scipy", "ir-measures", "matplotlib")

DASH = "–"
SHOWN = 10  # settings of a sweep on the screen; the file and the page have all


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """Return rows as a plain table: floats with three decimals, None as a dash."""
    from tabulate import tabulate

    cells = [[f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row] for row in rows]
    return tabulate(cells, headers=headers, missingval=DASH, tablefmt="simple", disable_numparse=True)


def percent(share: float | None) -> str | None:
    """Return a share of 0 to 1 in percent, None as it is."""
    return None if share is None else f"{share:.1%}"


def decimals(value: float | None) -> str | None:
    """Return a number with two decimals, None as it is."""
    return None if value is None else f"{value:.2f}"


def points(difference: float | None) -> str | None:
    """Return a difference of shares in percentage points with its sign, None as it is."""
    return None if difference is None else f"{100 * difference:+.1f}"


def signed(value: float | None) -> str | None:
    """Return a difference with its sign and two decimals, None as it is."""
    return None if value is None else f"{value:+.2f}"


def thousands(value: float | None) -> str | None:
    """Return a number as a whole one with its sign and separators, None as it is."""
    return None if value is None else f"{round(value):+,}"


def with_interval(
    value: float | None, interval: Sequence[float] | None, show: Callable[[float | None], str | None]
) -> str:
    """Return a value and its interval, as in "3.10 [2.80, 3.45]"; what cannot be computed is a dash."""
    if value is None:
        return DASH
    ends = f"{show(interval[0])}, {show(interval[1])}" if interval else DASH
    return f"{show(value)} [{ends}]"


def p_value(p: float | None) -> str:
    """Return a p-value with three decimals, or that it is below 0.001."""
    return DASH if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that figures depend on."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


ARM_HEADERS = ("arm", "what it returns", "sources", "success rate", "attempts", "judged a source", "errors")


def arm_rows(result: Mapping[str, Any]) -> list[list[Any]]:
    """Return the cells of the arms' table, under ``ARM_HEADERS``."""
    return [
        [
            row["arm"],
            row["label"],
            row["sources"],
            with_interval(row["success_rate"], row["success_interval"], percent),
            with_interval(row["mean_attempts"], row["attempts_interval"], decimals),
            with_interval(row["mean_judged"], row["judged_interval"], decimals),
            row["errors"],
        ]
        for row in result["table"]
    ]


COMPARISON_HEADERS = (
    "arm − baseline",
    "sources",
    "success, points",
    "p",
    "judged a source",
    "p",
    "calls saved per 1,000",
    "needed",
)


def comparison_rows(result: Mapping[str, Any]) -> list[list[Any]]:
    """Return the cells of the comparisons' table, under ``COMPARISON_HEADERS``; all p are corrected."""
    return [
        [
            f"{row['arm']} − {row['baseline']}",
            row["sources"],
            with_interval(row["success_difference"], row["success_interval"], points),
            p_value(row["success_p_corrected"]),
            with_interval(row["judged_difference"], row["judged_interval"], signed),
            p_value(row["judged_p_corrected"]),
            with_interval(row["calls_saved_per_thousand"], row["calls_saved_interval"], thousands),
            DASH if row["sources_needed_judged"] is None else f"{row['sources_needed_judged']:,}",
        ]
        for row in result["comparisons"]
    ]


def three(value: float | None) -> str | None:
    """Return a metric with three decimals, None as it is."""
    return None if value is None else f"{value:.3f}"


def signed_three(value: float | None) -> str | None:
    """Return a difference of metrics with its sign and three decimals, None as it is."""
    return None if value is None else f"{value:+.3f}"


SWEEP_HEADERS = ("arm", "λ1", "λ2", "λ3", "pool", "success rate", "judged a source", "difference", "p", "asked")


def sweep_rows(result: Mapping[str, Any]) -> list[list[Any]]:
    """Return the cells of the sweep's table, under ``SWEEP_HEADERS``, fewest candidates judged first."""
    ordered = sorted(result.get("sweep") or [], key=lambda row: (row["mean_judged"] is None, row["mean_judged"] or 0))
    return [
        [
            row["arm"],
            *(f"{row[name]:.3g}" for name in ("lambda1", "lambda2", "lambda3")),
            f"×{row['rerank_pool_factor']}",
            with_interval(row["success_rate"], row["success_interval"], percent),
            with_interval(row["mean_judged"], row["judged_interval"], decimals),
            with_interval(row["judged_difference"], row["difference_interval"], signed),
            p_value(row["judged_p_corrected"]),
            row["verdicts_asked"],
        ]
        for row in ordered
    ]


NOTES = {
    "metrics": "[95% bootstrap interval], – where it cannot be computed; random order: its exact expected value",
    "differences": "p: permutation test, query by query; corrected by Holm over the baselines of a metric. needed: "
    "queries that would show such a difference, 4 times of 5",
    "separation": "AUC: chance that a positive scores above a negative of any query. calibration error: of the scores' "
    "sigmoid as the chance to be positive, 0 is best",
    "arms": "attempts: candidates judged until the first usable one, over the sources that have one; judged a source: "
    "over all sources; [95% interval], – where it cannot be computed",
    "comparisons": "p: exact McNemar, paired permutation; corrected by Holm. needed: sources that would show such a "
    "difference in candidates judged, 4 times of 5",
    "sweep": "difference: candidates judged, from the same arm as the run had it, over the same sources. The best of "
    "many settings looks better than it is: try it on other sources (--seed)",
}


def metric_table(result: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Return headers and cells of the metrics' table: a column for each model, and a random order's value."""
    names = list(result["metrics"][0]["values"])
    rows = [
        [
            row["metric"],
            *(with_interval(row["values"][name], row["intervals"][name], three) for name in names),
            three(row["random"]),
        ]
        for row in result["metrics"]
    ]
    return ["metric", *names, "random order"], rows


DIFFERENCE_HEADERS = ("metric", "model − baseline", "p", "corrected p", "needed")


def difference_rows(result: Mapping[str, Any]) -> list[list[Any]]:
    """Return the cells of the models' comparison, under ``DIFFERENCE_HEADERS``."""
    return [
        [
            f"{row['metric']}, {row['baseline']}",
            with_interval(row["difference"], row["interval"], signed_three),
            p_value(row["p"]),
            p_value(row["p_corrected"]),
            DASH if row["queries_needed"] is None else f"{row['queries_needed']:,}",
        ]
        for row in result["comparisons"]
    ]


def slice_table(result: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Return headers and cells of the slices' table: every model's MRR over queries that are alike."""
    names = list(result["metrics"][0]["values"])
    rows = [
        [
            f"{row['low']}–{row['high']} {row['kind']}" if row["low"] < row["high"] else f"{row['low']} {row['kind']}",
            row["queries"],
            *(with_interval(row["values"][name], row["intervals"][name], three) for name in names),
            three(row["random"]),
        ]
        for row in result["slices"]
    ]
    return ["MRR over", "queries", *names, "random order"], rows


SEPARATION_HEADERS = (
    "scores of",
    "AUC",
    "mean of positives",
    "of negatives",
    "gap within a query",
    "calibration error",
)


def separation_rows(result: Mapping[str, Any]) -> list[list[Any]]:
    """Return the cells of the separation's table, under ``SEPARATION_HEADERS``."""
    return [
        [
            name,
            three(row["auc"]),
            signed(row["positive_mean"]),
            signed(row["negative_mean"]),
            with_interval(row["gap"], row["gap_interval"], signed),
            three(row["calibration_error"]),
        ]
        for name, row in result["separation"].items()
    ]


def assessment_text(result: Mapping[str, Any]) -> str:
    """Return what a test of rerankers prints: the verdict, then the tables."""
    headers, rows = metric_table(result)
    parts = [f"{result['queries']} queries of {result['settings']['test_data']}", result["verdict"]]
    parts += [table(rows, headers), NOTES["metrics"]]
    if result["comparisons"]:
        parts += ["", table(difference_rows(result), DIFFERENCE_HEADERS), NOTES["differences"]]
    headers, rows = slice_table(result)
    parts += ["", table(rows, headers), "", table(separation_rows(result), SEPARATION_HEADERS), NOTES["separation"]]
    return "\n".join(parts)


def ablation_text(result: Mapping[str, Any]) -> str:
    """Return what an ablation or a comparison of runs prints: the verdict, then the tables."""
    parts = [result["verdict"], table(arm_rows(result), ARM_HEADERS), NOTES["arms"]]
    parts += [f"{arm} was left out: {reason}" for arm, reason in result.get("left_out", {}).items()]
    if result["extraction_errors"]:
        parts.append(f"{result['extraction_errors']} more sources: the extraction ended in an error")
    if result["comparisons"]:
        parts += ["", table(comparison_rows(result), COMPARISON_HEADERS), NOTES["comparisons"]]
        parts += [line for row in result["comparisons"] if (line := money_text(row))]
    if result.get("sweep"):
        parts += ["", table(sweep_rows(result)[:SHOWN], SWEEP_HEADERS), NOTES["sweep"]]
        parts += [f"the first {SHOWN} of {len(result['sweep'])} settings"] if len(result["sweep"]) > SHOWN else []
    return "\n".join(parts)


def money_text(row: Mapping[str, Any]) -> str | None:
    """Return what a comparison's arm saves in money, or None where prices are not configured."""
    saved = with_interval(row["money_saved_per_thousand"], row["money_saved_interval"], signed)
    if row["money_saved_per_thousand"] is None:
        return None
    return f"{row['arm']} saves {saved} in the currency of the prices per 1,000 sources, against {row['baseline']}"
