"""Results as tables and text, for the screen and, with the same cells, for the page."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from utils.evaluation.results import AblationResult, ArmComparison, RerankerTestResult, Slice
from utils.evaluation.statistics import Interval

DASH = "–"
OTHER_METRICS = "By other metrics"
SHOWN = 10  # settings of a sweep on the screen; the file and the page have all
# Format specifications; "z" writes no negative zero.
PERCENT, TWO, THREE = ".1%", ".2f", ".3f"
SIGNED_ONE, SIGNED_TWO, SIGNED_THREE, SIGNED_WHOLE = "+z.1f", "+z.2f", "+z.3f", "+z,.0f"


class Table(NamedTuple):
    """A table with its heading and caption on the page, and the notes below it."""

    heading: str
    caption: str
    headers: Sequence[str]
    rows: list[list[Any]]
    notes: Sequence[str] = ()

    def text(self, most: int | None = None) -> str:
        """Return the table and its notes for the screen, at most ``most`` of its rows."""
        more = [f"the first {most} of {len(self.rows)} rows"] if most and len(self.rows) > most else []
        return "\n".join([table(self.rows[:most], self.headers), *self.notes, *more])


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """Return rows as a plain table: floats with three decimals, None as a dash."""
    from tabulate import tabulate

    cells = [[f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row] for row in rows]
    return tabulate(cells, headers=headers, missingval=DASH, tablefmt="simple", disable_numparse=True)


def listed(value: Any) -> str:
    """Return a figure, or figures by name at any depth, as text; of figures by percentile, these alone."""
    if value == {}:
        return "none"
    if isinstance(value, dict) and all(name.isdigit() for name in value):
        return " ".join(map(listed, value.values()))
    if isinstance(value, dict):
        return ", ".join(f"{k} ({listed(v)})" if isinstance(v, dict) else f"{k} {listed(v)}" for k, v in value.items())
    if isinstance(value, bool | str) or value is None:
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def percent(share: float | None) -> str | None:
    """Return a share of 0 to 1 in percent, None as it is."""
    return None if share is None else format(share, PERCENT)


def number(value: float | None, spec: str) -> str:
    """Return a formatted number; what cannot be computed is a dash."""
    return DASH if value is None else format(value, spec)


def with_interval(value: float | None, interval: Interval | None, spec: str) -> str:
    """Return a value and its interval, as in "3.10 [2.80, 3.45]"; what cannot be computed is a dash."""
    if value is None:
        return DASH
    ends = ", ".join(format(end, spec) for end in interval) if interval else DASH
    return f"{format(value, spec)} [{ends}]"


def p_value(p: float) -> str:
    """Return a p-value with three decimals, or that it is below 0.001."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def arm_table(result: AblationResult) -> Table:
    """Return the arms' figures."""
    rows = []
    for arm in result.table:
        rate = with_interval(arm.success_rate, arm.success_interval, PERCENT)
        attempts = with_interval(arm.mean_attempts, arm.attempts_interval, TWO)
        judged = with_interval(arm.mean_judged, arm.judged_interval, TWO)
        rows.append([arm.arm, arm.label, arm.sources, rate, attempts, judged, arm.errors])
    notes = [
        "attempts: candidates judged until the first usable one, over the sources that have one; judged per source: "
        "over all sources; [95% interval], – where it cannot be computed",
        *(f"{arm} was left out: {reason}" for arm, reason in result.left_out.items()),
    ]
    if result.extraction_errors:
        notes.append(f"not counted: {result.extraction_errors} sources whose extraction failed with an error")
    headers = ("arm", "what it returns", "sources", "success rate", "attempts", "judged per source", "errors")
    return Table("Arms", "Each arm over the sources on which it completed", headers, rows, notes)


def arm_comparison_table(result: AblationResult) -> Table:
    """Return the paired comparisons of arms; all p are corrected."""
    rows = []
    for one in result.comparisons:
        ends = one.success_interval and Interval(*(100 * end for end in one.success_interval))
        points = None if one.success_difference is None else 100 * one.success_difference
        success = [with_interval(points, ends, SIGNED_ONE), p_value(one.success_p_corrected)]
        judged = with_interval(one.judged_difference, one.judged_interval, SIGNED_TWO)
        saved = with_interval(one.calls_saved_per_thousand, one.calls_saved_interval, SIGNED_WHOLE)
        needed = number(one.sources_needed_judged, ",")
        found = [judged, p_value(one.judged_p_corrected), one.outcome, saved, needed]
        rows.append([f"{one.arm} − {one.baseline}", one.sources, *success, *found])
    notes = [
        "p: exact McNemar test, paired permutation test; corrected by Holm. outcome: by the candidates judged, at 5%. "
        "needed: sources to detect such a difference in candidates judged with 80% power",
        *(line for one in result.comparisons if (line := money_text(one))),
    ]
    headers = (
        "arm − baseline", "sources", "success, points", "p", "judged per source", "p", "outcome",
        "calls saved per 1,000", "needed",
    )  # fmt: skip
    caption = "Each arm less its baseline, over the sources on which both completed"
    return Table("Paired comparison", caption, headers, rows, notes)


def money_text(comparison: ArmComparison) -> str | None:
    """Return what a comparison's arm saves in money, or None where prices are not configured."""
    if comparison.money_saved_per_thousand is None:
        return None
    saved = with_interval(comparison.money_saved_per_thousand, comparison.money_saved_interval, SIGNED_TWO)
    against = f"against {comparison.baseline}"
    return f"{comparison.arm} saves {saved} per 1,000 sources, in the currency of the prices, {against}"


def sweep_table(result: AblationResult) -> Table:
    """Return the sweep's settings, fewest candidates judged first."""
    rows = []
    for row in sorted(result.sweep, key=lambda row: (row.mean_judged is None, row.mean_judged or 0)):
        setting = [f"{weight:.3g}" for weight in (row.lambda1, row.lambda2, row.lambda3)]
        rate = with_interval(row.success_rate, row.success_interval, PERCENT)
        judged = with_interval(row.mean_judged, row.judged_interval, TWO)
        difference = with_interval(row.judged_difference, row.difference_interval, SIGNED_TWO)
        found = [rate, judged, difference, p_value(row.judged_p_corrected), row.verdicts_asked]
        rows.append([row.arm, *setting, f"×{row.rerank_pool_factor}", f"{row.rerank_weight:.3g}", *found])
    headers = (
        "arm", "λ1", "λ2", "λ3", "pool", "weight", "success rate", "judged per source", "difference", "p",
        "new verdicts",
    )  # fmt: skip
    note = (
        "weight: of the reranker's scores against the first stage's. difference: in candidates judged, from the same "
        "arm with the run's own settings, over the same sources. The best of many settings looks better than it is: "
        "confirm it on other sources (--seed)"
    )
    return Table("Sweep", "Settings on the same sources, fewest candidates judged first", headers, rows, [note])


def _by_model(row: Slice) -> list[str]:
    """Return every model's value, then a random order's."""
    values = [with_interval(value, row.intervals[name], THREE) for name, value in row.values.items()]
    return [*values, number(row.random, THREE)]


def metric_table(result: RerankerTestResult) -> Table:
    """Return every order's metrics, the main one with intervals, and a random order's."""
    main = next(row for row in result.metrics if row.metric == result.main_metric)
    others = [row for row in result.metrics if row is not main]
    rows: list[list[Any]] = [
        [name, with_interval(value, main.intervals[name], THREE), *(number(row.values[name], THREE) for row in others)]
        for name, value in main.values.items()
    ]
    rows.append(["random order", *(number(row.random, THREE) for row in (main, *others))])
    caption = "Mean over the queries that have passages of different grades"
    headers = ["order", *(row.metric for row in (main, *others))]
    return Table("Metrics", caption, headers, rows, _metric_notes(result))


def _metric_notes(result: RerankerTestResult) -> list[str]:
    notes = ["[95% bootstrap interval], – where it cannot be computed; random order: its exact expected value"]
    if result.first_stage:  # which earlier versions lack
        chosen = "weight and depth of each fifth of the queries are chosen on the others"
        notes.append(f"first stage: {result.first_stage}; model + first stage: {chosen}")
        lost = f"{percent(1 - result.missed)} of the relevant documents are in them: no reranker brings back the others"
        notes.append(f"all orders are of the same pools: {percent(result.judged)} of the passages are judged; {lost}")
    return notes


def order_comparison_tables(result: RerankerTestResult) -> list[Table]:
    """Return the paired comparisons of orders by the main metric, and those by the others."""
    rows: dict[bool, list[list[Any]]] = {True: [], False: []}
    for one in result.comparisons:
        difference, needed = with_interval(one.difference, one.interval, SIGNED_THREE), number(one.pairs_needed, ",")
        p = [p_value(one.p), p_value(one.p_corrected)]
        main = one.metric == result.main_metric
        rows[main].append([f"{one.metric}, {one.order} vs {one.baseline}", difference, *p, one.outcome, needed])
    note = (
        "p: paired permutation test over queries; corrected by Holm over the rows of a metric. outcome: at 5%, after "
        "correction. needed: queries to detect such a difference with 80% power"
    )
    headers = ("comparison", "difference", "p", "corrected p", "outcome", "needed")
    caption = "One order less another, query by query"
    others = Table(OTHER_METRICS, f"{caption}, by the other metrics", headers, rows[False])
    return [Table("Paired comparison", caption, headers, rows[True], [note]), others]


def curve_tables(result: RerankerTestResult) -> list[Table]:
    """Return nDCG@10 by depth and by weight."""
    if (curves := result.curves) is None:
        return []
    alone, fused, by_weight = (
        [number(value, THREE) for value in values] for values in (curves.alone, curves.fused, curves.by_weight)
    )
    by_depth = [["nDCG@10, the model alone", *alone], [f"nDCG@10, weight {curves.weight:g}", *fused]]
    by_depth = by_depth[: 2 if curves.weight else 1]  # weight 0 is the first stage at any depth
    depths, weights = (list(map(str, values)) for values in (curves.depths, curves.weights))
    note = "the best of a curve flatters, because it was chosen to be; model + first stage, cross-fitted, does not"
    return [
        Table("Depth", "nDCG@10 by the documents reranked", ["documents reranked", *depths], by_depth),
        Table(
            "Weight",
            "nDCG@10 by the model's weight",
            ["weight", *weights],
            [[f"nDCG@10, first {curves.depth}", *by_weight]],
            [note],
        ),
    ]


def slice_table(result: RerankerTestResult) -> Table:
    """Return every model's main metric over similar queries."""
    rows: list[list[Any]] = []
    for row in result.slices:
        between = f"{row.low}–{row.high}" if row.low < row.high else f"{row.low}"
        rows.append([f"{between} {row.kind}", row.queries, *_by_model(row)])
    names = result.slices[0].values if result.slices else ()
    headers = [f"{result.main_metric} over", "queries", *names, "random order"]
    return Table("Slices", f"{result.main_metric} over similar queries", headers, rows)


def separation_table(result: RerankerTestResult) -> Table:
    """Return how well the models' scores separate positives from negatives."""
    rows: list[list[Any]] = []
    for name, row in result.separation.items():
        means = [number(mean, SIGNED_TWO) for mean in (row.positive_mean, row.negative_mean)]
        gap = with_interval(row.gap, row.gap_interval, SIGNED_TWO)
        rows.append([name, number(row.auc, THREE), *means, gap, number(row.calibration_error, THREE)])
    headers = ("scores of", "AUC", "positive mean", "negative mean", "gap per query", "calibration error")
    note = (
        "AUC: chance that a positive scores above a negative of any query. calibration error: of the scores' sigmoid "
        "as the probability of a positive, 0 is best"
    )
    return Table("Scores", "Whether the scores separate positives from negatives", headers, rows, [note])


def ablation_tables(result: AblationResult) -> list[Table]:
    """Return the tables of an ablation or a comparison of runs, but for empty ones."""
    tables = [arm_table(result), arm_comparison_table(result), sweep_table(result)]
    return [one for one in tables if one.rows or one.heading == "Arms"]


def reranker_test_tables(result: RerankerTestResult) -> list[Table]:
    """Return the tables of a test of rerankers, but for empty ones."""
    tables = [metric_table(result), *order_comparison_tables(result), *curve_tables(result)]
    return [one for one in (*tables, slice_table(result), separation_table(result)) if one.rows]


def ablation_text(result: AblationResult) -> str:
    """Return what an ablation or a comparison of runs prints: the summary, then the tables."""
    return result.headline + "\n" + "\n\n".join(one.text(SHOWN) for one in ablation_tables(result))


def reranker_test_text(result: RerankerTestResult) -> str:
    """Return what a test of rerankers prints: the summary, then the tables."""
    head = f"{result.queries} queries of {result.settings['test_data']}\n{result.summary}\n"
    return head + "\n\n".join(one.text() for one in reranker_test_tables(result) if one.heading != OTHER_METRICS)
