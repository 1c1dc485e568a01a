"""Plots of results by matplotlib: for the page as SVG that takes the page's colours, and as PNG and SVG files."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from utils.evaluation.paired import BETTER, NO_DIFFERENCE, WORSE
from utils.evaluation.results import AblationResult, ArmComparison, ArmFigures, SweepFigures
from utils.evaluation.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#1b1f24", "#8b949e"
# For a white background; on the page each is a custom property, which has another value in dark mode.
SERIES = ("#0063b2", "#b65c00", "#007a5a", "#8a3fa0", "#c0303a", "#5a6470", "#7a6a00", "#00748c")
OUTCOMES = {BETTER: SERIES[2], WORSE: SERIES[4], NO_DIFFERENCE: SERIES[5]}
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = "osD^vPX*"
WIDTH = 7.2  # inches

STYLE: Any = {
    "font.family": "sans-serif", "font.size": 10, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "xtick.color": INK, "ytick.color": INK, "grid.color": FAINT, "grid.alpha": 0.3, "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: it can be selected, searched and read aloud
    "text.parse_math": False,  # a file's name may hold dollar signs
    "figure.constrained_layout.use": True,
}  # fmt: skip


class Plot(NamedTuple):
    """A figure with its file's name, its heading, and a description in words, also for screen readers."""

    name: str
    title: str
    description: str
    figure: Figure

    def inline(self) -> str:
        """Return the figure as an SVG element that takes the page's colours."""
        svg = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>", "", self._svg(), flags=re.DOTALL)
        # A page has several figures: their ids must differ.
        svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{self.name}-", svg)
        for number, colour in enumerate(SERIES):
            svg = svg.replace(colour, f"var(--series-{number})")
        svg = svg.replace(INK, "currentColor").replace(FAINT, "var(--faint)")
        root = f'<svg role="img" aria-labelledby="{self.name}-caption"'
        return re.sub(r'<svg (.*?)width="[^"]*"(.*?)height="[^"]*"', rf"{root} \1\2", svg, count=1, flags=re.DOTALL)

    def save(self, folder: Path) -> None:
        """Write ``<name>.svg`` and ``<name>.png`` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.svg").write_text(self._svg(facecolor="white"), encoding="utf-8")
        self.figure.savefig(folder / f"{self.name}.png", dpi=160, facecolor="white")

    def _svg(self, facecolor: str = "none") -> str:
        from matplotlib import rc_context

        out = io.StringIO()
        with rc_context(STYLE | {"svg.hashsalt": self.name}):  # the same figure gives the same bytes
            self.figure.savefig(out, format="svg", metadata={"Date": None}, facecolor=facecolor)
        return out.getvalue()


def new_figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """Return a figure of ``WIDTH`` by ``height`` inches and its axes, an array unless there is one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    axes = figure.subplots(rows, columns, **options)
    for one in figure.axes:
        one.patch.set_visible(False)  # the page's own colour is behind
    return figure, axes


def ablation_plots(result: AblationResult) -> list[Plot]:
    """Return the plots of an ablation or a comparison of runs; those that would be empty are left out."""
    from matplotlib import rc_context

    table = [arm for arm in result.table if arm.sources]
    compared = [one for one in result.comparisons if one.judged_difference is not None]
    swept = [row for row in result.sweep if row.mean_judged is not None]
    parts: list[tuple[Callable[[Any], Plot], Any]] = [
        (arm_differences, compared), (within_budget, table), (distribution, table), (sweep_map, swept),
        (latency, result.latency_ms),
    ]  # fmt: skip
    with rc_context(STYLE):
        return [draw(figures) for draw, figures in parts if figures]


class Difference(NamedTuple):
    """A row of a forest plot."""

    value: float
    interval: Interval | None
    outcome: str


def arm_differences(comparisons: Sequence[ArmComparison]) -> Plot:
    """Plot each comparison's difference of the candidates judged per source."""
    baselines = {one.baseline for one in comparisons}
    single = len(baselines) == 1
    values = {
        one.arm if single else f"{one.arm} − {one.baseline}": Difference(
            one.judged_difference or 0.0, one.judged_interval, one.outcome
        )
        for one in comparisons
    }
    measure = f"candidates judged per source, less {baselines.pop() if single else 'baseline'}"
    return forest(values, measure, lower_is_better=True)


def forest(values: Mapping[str, Difference], measure: str, *, lower_is_better: bool = False) -> Plot:
    """Plot differences with their intervals below each other, and a line at 0; what is not significant is hollow."""
    figure, axes = new_figure(1.5 + 0.42 * len(values))
    axes.axvline(0, color=INK, linewidth=1)
    for place, (value, interval, outcome) in enumerate(values.values()):
        colour = OUTCOMES[outcome]
        if interval:
            axes.plot(interval, [place, place], color=colour, linewidth=2, zorder=2)
        fill = "none" if outcome == NO_DIFFERENCE else "full"
        axes.plot(value, place, "o", color=colour, markersize=8, fillstyle=fill, markeredgewidth=2)
    axes.set_yticks(range(len(values)), list(values))
    axes.set(ylim=(len(values) - 0.5, -0.5), xlabel=measure)
    axes.grid(axis="y", visible=False)
    sides = ("better", "worse") if lower_is_better else ("worse", "better")
    for side, arrow, end in zip(sides, ("← {}", "{} →"), ("left", "right"), strict=True):
        axes.set_title(arrow.format(side), loc=end, fontsize=10, color=OUTCOMES[side])
    listed = "; ".join(f"{name} {round(one.value, 3):+z.3g}, {one.outcome}" for name, one in values.items())
    description = (
        f"{measure[0].upper()}{measure[1:]}, with 95% intervals: one that holds 0 may be chance. Hollow: no "
        f"significant difference. {listed}."
    )
    return Plot("differences", "Difference from the baseline", description, figure)


def within_budget(arms: Sequence[ArmFigures]) -> Plot:
    """Plot the share of sources with a usable candidate among the first 1, 2, … of them."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_figure(3.8)
    for number, arm in enumerate(arms):
        colour, dash, marker = (cycle[number % len(cycle)] for cycle in (SERIES, DASHES, MARKERS))
        budgets = [point.budget for point in arm.within]
        low, high = zip(*(point.interval or (0.0, 1.0) for point in arm.within), strict=True)
        axes.fill_between(budgets, low, high, color=colour, alpha=0.1, linewidth=0)
        rates = [point.rate for point in arm.within]
        axes.plot(budgets, rates, color=colour, linestyle=dash, marker=marker, markersize=4, label=arm.arm)
    axes.set(xlabel="candidates judged at most", ylabel="sources with a usable one", ylim=(0, 1.02))
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower right")
    listed = "; ".join(f"{arm.arm} {arm.within[0].rate:.0%} with one candidate" for arm in arms)
    description = f"Share of sources with a usable candidate within the budget, with 95% bands. {listed}."
    return Plot("within_budget", "Success within a budget", description, figure)


def distribution(arms: Sequence[ArmFigures]) -> Plot:
    """Plot, for each arm, the share of sources by the rank of the first usable candidate, and those without one."""
    figure, axes = new_figure(0.7 + 0.95 * len(arms), len(arms), sharex=True, sharey=True, squeeze=False)
    most = max(len(arm.distribution) for arm in arms)
    for number, (arm, one) in enumerate(zip(arms, axes[:, 0], strict=True)):
        shares = [count / arm.sources for count in arm.distribution]
        one.bar(range(1, len(shares) + 1), shares, color=SERIES[number % len(SERIES)])
        one.bar(most + 1.5, arm.without / arm.sources, color=FAINT)
        one.set_title(arm.arm, loc="right", y=0.62, fontsize=10)
        one.yaxis.set_major_formatter("{x:.0%}")
        one.grid(axis="x", visible=False)
    ranks = range(1, most + 1, max(1, most // 10))
    axes[-1, 0].set_xticks([*ranks, most + 1.5], [*map(str, ranks), "none"])
    axes[-1, 0].set_xlabel("rank of the first usable candidate")
    listed = "; ".join(f"{arm.arm}: {arm.without} of {arm.sources} without one" for arm in arms)
    description = f"Share of sources by rank, for each arm. {listed}."
    return Plot("attempts", "Attempts until the first usable", description, figure)


SWEPT = {
    "lambda3": "λ3, weight of similarity to the candidates already chosen",
    "lambda2": "λ2, of similarity to the source",
    "rerank_weight": "weight of the reranker's scores against the first stage's",
    "rerank_pool_factor": "pool factor",
}


def sweep_map(rows: Sequence[SweepFigures]) -> Plot:
    """Plot the candidates judged per source over λ2 and λ3 or, where these do not vary, over the ways of reranking."""
    from matplotlib.colors import Normalize

    panels: dict[str, list[SweepFigures]] = {}
    fused = any(row.rerank_weight != 1 for row in rows)
    over_mmr = len({(row.lambda2, row.lambda3) for row in rows}) > 1
    x, y = ("lambda3", "lambda2") if over_mmr else ("rerank_weight", "rerank_pool_factor")

    def reranking(row: SweepFigures) -> str:
        return f"×{row.rerank_pool_factor}" + (f" w {row.rerank_weight:.3g}" if fused else "")

    for row in rows:
        panels.setdefault(f"{row.arm} {reranking(row)}" if over_mmr else row.arm, []).append(row)
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = new_figure(2.7 * lines + 0.4, lines, columns, squeeze=False)
    values = [row.mean_judged or 0.0 for row in rows]
    norm = Normalize(min(values), max(values) if max(values) > min(values) else min(values) + 1)
    for one in axes.flat[len(panels) :]:
        one.set_visible(False)
    for one, (name, panel) in zip(axes.flat, panels.items(), strict=False):
        _lattice(one, panel, norm, x, y)
        one.set_title(name, fontsize=10)
    figure.supxlabel(SWEPT[x], fontsize=10)
    figure.supylabel(SWEPT[y], fontsize=10)
    best = min(rows, key=lambda row: row.mean_judged or 0.0)
    weights = f"{best.lambda1:.2g}, {best.lambda2:.2g}, {best.lambda3:.2g}"
    fewest = f"Fewest: {best.mean_judged:.2f} by {best.arm}, λ {weights}, {reranking(best)}."
    return Plot("sweep", "Sweep", f"Candidates judged per source for each setting; darker is fewer. {fewest}", figure)


def _lattice(axes: Axes, rows: Sequence[SweepFigures], norm: Any, x_field: str, y_field: str) -> None:
    """Draw one panel: a square for each setting, its figure in it; places are ranks, so that squares never overlap."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    places = [(round(getattr(row, x_field), 6), round(getattr(row, y_field), 6)) for row in rows]
    xs, ys = (sorted(set(values)) for values in zip(*places, strict=True))
    for row, place in zip(rows, places, strict=True):
        x, y = xs.index(place[0]), ys.index(place[1])
        shade = 0.15 + 0.75 * (1 - float(norm(row.mean_judged)))
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=colormaps["Blues"](shade), linewidth=0))
        # By the square's own shade: legible whatever the page's colours are.
        ink = "#ffffff" if shade > 0.55 else "#101418"
        axes.text(x, y, f"{row.mean_judged:.2f}", ha="center", va="center", fontsize=8, color=ink)
    axes.set(xlim=(-0.5, len(xs) - 0.5), ylim=(-0.5, len(ys) - 0.5))
    axes.set_xticks(range(len(xs)), [f"{x:.2g}" for x in xs], fontsize=8)
    axes.set_yticks(range(len(ys)), [f"{y:.2g}" for y in ys], fontsize=8)
    axes.grid(visible=False)


def latency(arms: Mapping[str, Mapping[str, float]]) -> Plot:
    """Plot each arm's milliseconds per query, by stage."""
    figure, axes = new_figure(1.2 + 0.36 * len(arms))
    left = dict.fromkeys(arms, 0.0)
    for number, stage in enumerate(("encode", "search", "rerank")):
        widths = [arms[arm][stage] for arm in arms]
        axes.barh(list(arms), widths, left=list(left.values()), color=SERIES[number], label=stage)
        left = {arm: left[arm] + arms[arm][stage] for arm in arms}
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds per query")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    axes.grid(axis="y", visible=False)
    listed = "; ".join(f"{arm} {total:.1f} ms" for arm, total in left.items())
    return Plot("latency", "Latency of each arm", f"Mean milliseconds per query, by stage. {listed}.", figure)
