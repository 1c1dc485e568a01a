"""Plots of a test of rerankers: differences, depth and weight, metrics, and scores."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from utils.data.first_stage import FIRST
from utils.evaluation.results import Curves, MetricFigures, ModelComparison, RerankerTestResult, Separation
from utils.evaluation.verdict import advised_order
from utils.report.plots import DASHES, INK, MARKERS, SERIES, STYLE, Difference, Plot, forest, new_figure


def reranker_test_plots(result: RerankerTestResult) -> list[Plot]:
    """Return the plots of a test of rerankers; those that would be empty are left out."""
    from matplotlib import rc_context

    compared = [one for one in result.comparisons if one.metric == result.main_metric]
    advised = advised_order(result), FIRST
    parts: list[tuple[Callable[[Any], Plot], Any]] = [
        (order_differences, sorted(compared, key=lambda one: (one.order, one.baseline) != advised)),
        (curves, result.curves), (metrics, result.metrics), (scores, result.separation),
    ]  # fmt: skip
    with rc_context(STYLE):
        return [draw(figures) for draw, figures in parts if figures]


def order_differences(comparisons: Sequence[ModelComparison]) -> Plot:
    """Plot each comparison's difference, all of one metric, the first at the top."""
    values = {
        f"{one.order} vs {one.baseline}": Difference(one.difference or 0.0, one.interval, one.outcome)
        for one in comparisons
    }
    return forest(values, f"difference in {comparisons[0].metric}")


def curves(found: Curves) -> Plot:
    """Plot nDCG@10 by the documents that are reranked, and by the weight of the model."""
    figure, (left, right) = new_figure(3.2, 1, 2, sharey=True)
    places = range(len(found.depths))
    lines = [("the model alone", found.alone), (f"weight {found.weight:g}", found.fused)]
    for number, (name, values) in enumerate(lines[: 2 if found.weight else 1]):  # weight 0 is the first stage
        left.plot(places, values, color=SERIES[number], linestyle=DASHES[number], marker=MARKERS[number], label=name)
    left.set_xticks(places, list(map(str, found.depths)))
    left.set(xlabel="documents reranked", ylabel="nDCG@10")
    right.plot(found.weights, found.by_weight, color=SERIES[0], marker=MARKERS[0], label=f"the first {found.depth}")
    right.set(xlabel="weight of the model")
    for one in (left, right):
        one.axhline(found.by_weight[0], color=INK, linewidth=1, linestyle=":", label="first stage")
        one.legend(fontsize=8)
    by_depth = "; ".join(f"{depth}: {value:.3f}" for depth, value in zip(found.depths, found.alone, strict=True))
    listed = "; ".join(f"{weight:g}: {value:.3f}" for weight, value in zip(found.weights, found.by_weight, strict=True))
    description = (
        f"nDCG@10 by the documents that the model alone reranks, {by_depth}; by its weight in the fusion with the "
        f"first stage, of the first {found.depth}, {listed}. The best of a curve flatters, because it was chosen to be."
    )
    return Plot("curves", "Depth and weight", description, figure)


def metrics(rows: Sequence[MetricFigures]) -> Plot:
    """Plot every order's metrics with intervals, and what a random order would have."""
    names = list(rows[0].values)
    figure, axes = new_figure(1.2 + 0.2 * len(rows) * (1 + len(names)))
    for number, name in enumerate(names):
        colour = SERIES[number % len(SERIES)]
        places = [place + 0.7 * (number + 0.5) / len(names) - 0.35 for place in range(len(rows))]
        for place, row in zip(places, rows, strict=True):
            if interval := row.intervals[name]:
                axes.plot(interval, [place, place], color=colour, linewidth=2)
        values = [row.values[name] for row in rows]
        axes.plot(values, places, MARKERS[number % len(MARKERS)], color=colour, label=name)
    axes.plot([row.random for row in rows], range(len(rows)), "|", color=INK, markersize=14, label="random order")
    axes.set_yticks(range(len(rows)), [row.metric for row in rows])
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlim=(0, 1.02))
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    listed = "; ".join(f"{name} {rows[0].values[name]:.3f}" for name in names)
    description = f"Each metric with its 95% interval, and a random order's value. {rows[0].metric}: {listed}."
    return Plot("metrics", "Metrics", description, figure)


def scores(models: Mapping[str, Separation]) -> Plot:
    """Plot how the scores of positives and negatives are distributed, a panel for each model."""
    figure, axes = new_figure(0.9 + 1.5 * len(models), len(models), squeeze=False)
    for one, (name, separation) in zip(axes[:, 0], models.items(), strict=True):
        shares = separation.histogram
        for number, (kind, heights) in enumerate((("positives", shares.positives), ("negatives", shares.negatives))):
            one.stairs(heights, shares.edges, color=SERIES[number], fill=True, alpha=0.35)
            one.stairs(heights, shares.edges, color=SERIES[number], label=kind, linestyle=DASHES[number])
        one.set_title(name, loc="left", fontsize=10)
        one.yaxis.set_major_formatter("{x:.0%}")
    axes[0, 0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    axes[-1, 0].set_xlabel("score")
    listed = "; ".join(f"{name}: AUC {separation.auc:.3f}" for name, separation in models.items())
    return Plot("scores", "Scores", f"Scores of positives and of negatives. {listed}.", figure)
