"""Plots of results by matplotlib: for the page as SVG that takes the page's colours, and as PNG and SVG files."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#1b1f24", "#8b949e"
# On white as they are; the page replaces each by a custom property that has another value in the dark.
SERIES = ("#0063b2", "#b65c00", "#007a5a", "#8a3fa0", "#c0303a", "#5a6470", "#7a6a00", "#00748c")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = "osD^vPX*"
WIDTH = 7.2  # inches

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "grid.alpha": 0.3,
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",  # texts stay texts: to be selected, searched and read out
    "text.parse_math": False,  # a file's name may hold dollar signs
    "figure.constrained_layout.use": True,
}


class Plot(NamedTuple):
    """A figure with its file's name, its heading, and what those who cannot see it are told."""

    name: str
    title: str
    description: str
    figure: Figure

    def inline(self) -> str:
        """Return the figure as an SVG element that takes the page's colours."""
        svg = self._svg()
        svg = svg[svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        # Several figures stand in one page: their ids must differ.
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
    """Return a figure of ``WIDTH`` by ``height`` inches and its axes, an array where there are several."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    axes = figure.subplots(rows, columns, **options)
    for one in figure.axes:
        one.patch.set_visible(False)  # the page's own colour is behind
    return figure, axes


def styled(draw: Callable[[Mapping[str, Any]], list[Plot]]) -> Callable[[Mapping[str, Any]], list[Plot]]:
    """Have a function draw in ``STYLE``, whatever matplotlib is set to elsewhere."""

    @wraps(draw)
    def drawing(result: Mapping[str, Any]) -> list[Plot]:
        from matplotlib import rc_context

        with rc_context(STYLE):
            return draw(result)

    return drawing


@styled
def ablation_plots(result: Mapping[str, Any]) -> list[Plot]:
    """Return the plots of an ablation's, or a comparison's, result; those that would be empty are left out."""
    table = [row for row in result["table"] if row["sources"]]
    compared = [row for row in result["comparisons"] if row["judged_difference"] is not None]
    plots = []
    if compared:
        plots.append(differences(compared))
    if table:
        plots += [within_budget(table), distribution(table)]
    if result.get("sweep"):
        plots.append(sweep_map(result["sweep"]))
    if result.get("latency_ms"):
        plots.append(latency(result["latency_ms"]))
    return plots


def differences(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Plot each comparison's difference of the candidates judged a source, with its interval."""
    baselines = dict.fromkeys(row["baseline"] for row in rows)
    figure, axes = new_figure(1.1 + 0.42 * len(rows))
    names = [row["arm"] if len(baselines) == 1 else f"{row['arm']} − {row['baseline']}" for row in rows]
    forest(axes, names, [(row["judged_difference"], row["judged_interval"]) for row in rows])
    axes.set_xlabel(f"candidates judged a source, less {', '.join(baselines) if len(baselines) == 1 else 'baseline'}")
    told = "; ".join(f"{name} {row['judged_difference']:+.2f}" for name, row in zip(names, rows, strict=True))
    return Plot(
        "differences",
        "Difference from the baseline",
        f"Candidates judged a source, arm less baseline, with 95% intervals; left of the line is better. {told}.",
        figure,
    )


def forest(axes: Axes, names: Sequence[str], values: Sequence[tuple[float, Sequence[float] | None]]) -> None:
    """Draw values with their intervals below each other, and a line at 0."""
    axes.axvline(0, color=INK, linewidth=1)
    for place, (value, interval) in enumerate(values):
        if interval:
            axes.plot(interval, [place, place], color=SERIES[0], linewidth=2)
        axes.plot(value, place, "o", color=SERIES[0], markersize=7)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def within_budget(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Plot the share of sources with a usable candidate among the first 1, 2, … of them."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure, axes = new_figure(3.8)
    for number, row in enumerate(rows):
        budgets = [point["budget"] for point in row["within"]]
        colour = SERIES[number % len(SERIES)]
        axes.fill_between(
            budgets,
            [point["interval"][0] for point in row["within"]],
            [point["interval"][1] for point in row["within"]],
            color=colour,
            alpha=0.1,
            linewidth=0,
        )
        axes.plot(
            budgets,
            [point["rate"] for point in row["within"]],
            color=colour,
            linestyle=DASHES[number % len(DASHES)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            label=row["arm"],
        )
    axes.set(xlabel="candidates judged at most", ylabel="sources with a usable one")
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower right")
    told = "; ".join(f"{row['arm']} {row['within'][0]['rate']:.0%} with one candidate" for row in rows)
    return Plot(
        "within_budget",
        "Success within a budget",
        f"Share of sources with a usable candidate among the first ones, with 95% bands. {told}.",
        figure,
    )


def distribution(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Plot, for each arm, the share of sources by the rank of the first usable candidate, and those without one."""
    from matplotlib.ticker import PercentFormatter

    figure, axes = new_figure(0.7 + 0.95 * len(rows), len(rows), sharex=True, sharey=True, squeeze=False)
    most = max(len(row["distribution"]) for row in rows)
    for number, (row, one) in enumerate(zip(rows, axes[:, 0], strict=True)):
        shares = [count / row["sources"] for count in row["distribution"]]
        one.bar(range(1, len(shares) + 1), shares, color=SERIES[number % len(SERIES)])
        one.bar(most + 1.5, row["without"] / row["sources"], color=FAINT)
        one.set_title(row["arm"], loc="right", y=0.62, fontsize=10)
        one.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        one.grid(axis="x", visible=False)
    ranks = range(1, most + 1, max(1, most // 10))
    axes[-1, 0].set_xticks([*ranks, most + 1.5], [*map(str, ranks), "none"])
    axes[-1, 0].set_xlabel("rank of the first usable candidate")
    told = "; ".join(f"{row['arm']}: {row['without']} of {row['sources']} without one" for row in rows)
    return Plot(
        "attempts", "Attempts until the first usable", f"Share of sources by rank, for each arm. {told}.", figure
    )


def sweep_map(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Plot the candidates judged a source over λ2 and λ3, a panel for each arm and pool factor."""
    from matplotlib.colors import Normalize

    panels: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["mean_judged"] is not None:
            panels.setdefault((row["arm"], row["rerank_pool_factor"]), []).append(row)
    columns = min(3, max(len(panels), 1))
    lines = -(-len(panels) // columns) or 1
    figure, axes = new_figure(2.7 * lines + 0.4, lines, columns, squeeze=False)
    values = [row["mean_judged"] for panel in panels.values() for row in panel] or [0.0]
    norm = Normalize(min(values), max(values) if max(values) > min(values) else min(values) + 1)
    for one in axes.flat[len(panels) :]:
        one.set_visible(False)
    for one, ((arm, factor), panel) in zip(axes.flat, panels.items(), strict=False):
        _lattice(one, panel, norm)
        one.set_title(f"{arm} ×{factor}", fontsize=10)
    figure.supxlabel("λ3, weight of likeness to what is chosen", fontsize=10)
    figure.supylabel("λ2, of likeness to the source", fontsize=10)
    best = min((row for panel in panels.values() for row in panel), key=lambda row: row["mean_judged"], default=None)
    told = ""
    if best:
        weights = ", ".join(f"{best[name]:.2g}" for name in ("lambda1", "lambda2", "lambda3"))
        told = f" Fewest: {best['mean_judged']:.2f} by {best['arm']}, λ {weights}, ×{best['rerank_pool_factor']}."
    return Plot("sweep", "The sweep", f"Candidates judged a source for each setting; darker is fewer.{told}", figure)


def _lattice(axes: Axes, rows: Sequence[Mapping[str, Any]], norm: Any) -> None:
    """Draw one panel: a square for each setting, its figure in it; places are ranks, so that squares never overlap."""
    xs, ys = (sorted({round(row[name], 6) for row in rows}) for name in ("lambda3", "lambda2"))
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    for row in rows:
        x, y = xs.index(round(row["lambda3"], 6)), ys.index(round(row["lambda2"], 6))
        shade = 0.15 + 0.75 * (1 - float(norm(row["mean_judged"])))
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=colormaps["Blues"](shade), linewidth=0))
        # Chosen by the square's own shade, so it is legible whatever the page's colours are.
        ink = "#ffffff" if shade > 0.55 else "#101418"
        axes.text(x, y, f"{row['mean_judged']:.2f}", ha="center", va="center", fontsize=8, color=ink)
    axes.set_xlim(-0.5, len(xs) - 0.5)
    axes.set_ylim(-0.5, len(ys) - 0.5)
    axes.set_xticks(range(len(xs)), [f"{x:.2g}" for x in xs], fontsize=8)
    axes.set_yticks(range(len(ys)), [f"{y:.2g}" for y in ys], fontsize=8)
    axes.grid(visible=False)


def latency(arms: Mapping[str, Mapping[str, float]]) -> Plot:
    """Plot each arm's milliseconds a query, by stage."""
    figure, axes = new_figure(1.2 + 0.36 * len(arms))
    left = dict.fromkeys(arms, 0.0)
    for number, stage in enumerate(("encode", "search", "rerank")):
        widths = [arms[arm][stage] for arm in arms]
        axes.barh(list(arms), widths, left=list(left.values()), color=SERIES[number], label=stage)
        left = {arm: left[arm] + arms[arm][stage] for arm in arms}
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds a query")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    axes.grid(axis="y", visible=False)
    told = "; ".join(f"{arm} {total:.1f} ms" for arm, total in left.items())
    return Plot("latency", "Latency of each arm", f"Mean milliseconds a query, by stage. {told}.", figure)


@styled
def assessment_plots(result: Mapping[str, Any]) -> list[Plot]:
    """Return the plots of a test of rerankers."""
    plots = [metrics(result["metrics"]), scores(result["separation"])]
    mrr = [row for row in result["comparisons"] if row["metric"] == "MRR"]
    return [model_differences(mrr), *plots] if mrr else plots


def model_differences(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Plot the difference in MRR from each baseline, with its interval."""
    figure, axes = new_figure(1.1 + 0.42 * len(rows))
    forest(axes, [row["baseline"] for row in rows], [(row["difference"], row["interval"]) for row in rows])
    axes.set_xlabel("MRR of the model less the baseline's")
    told = "; ".join(f"{row['baseline']} {row['difference']:+.3f}" for row in rows)
    description = f"MRR of the model less the baseline's, with 95% intervals; right of the line is better. {told}."
    return Plot("differences", "Difference from the baselines", description, figure)


def metrics(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Plot every model's metrics with intervals, and what a random order would have."""
    names = list(rows[0]["values"])
    figure, axes = new_figure(1.2 + 0.2 * len(rows) * (1 + len(names)))
    for number, name in enumerate(names):
        colour = SERIES[number % len(SERIES)]
        places = [place + 0.7 * (number + 0.5) / len(names) - 0.35 for place in range(len(rows))]
        for place, row in zip(places, rows, strict=True):
            if row["intervals"][name]:
                axes.plot(row["intervals"][name], [place, place], color=colour, linewidth=2)
        values = [row["values"][name] for row in rows]
        axes.plot(values, places, MARKERS[number % len(MARKERS)], color=colour, label=name)
    axes.plot([row["random"] for row in rows], range(len(rows)), "|", color=INK, markersize=14, label="random order")
    axes.set_yticks(range(len(rows)), [row["metric"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1.02)
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    told = "; ".join(f"{name} {rows[0]['values'][name]:.3f}" for name in names)
    description = f"Each metric with its 95% interval, and a random order's value. MRR: {told}."
    return Plot("metrics", "Metrics", description, figure)


def scores(models: Mapping[str, Mapping[str, Any]]) -> Plot:
    """Plot how the scores of positives and negatives are distributed, a panel for each model."""
    from matplotlib.ticker import PercentFormatter

    figure, axes = new_figure(0.9 + 1.5 * len(models), len(models), squeeze=False)
    for one, (name, separation) in zip(axes[:, 0], models.items(), strict=True):
        edges = separation["histogram"]["edges"]
        for number, kind in enumerate(("positives", "negatives")):
            one.stairs(separation["histogram"][kind], edges, color=SERIES[number], fill=True, alpha=0.35)
            one.stairs(separation["histogram"][kind], edges, color=SERIES[number], label=kind, linestyle=DASHES[number])
        one.set_title(name, loc="left", fontsize=10)
        one.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes[0, 0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    axes[-1, 0].set_xlabel("score")
    told = "; ".join(f"{name}: AUC {separation['auc']:.3f}" for name, separation in models.items())
    return Plot("scores", "Do the scores separate?", f"Scores of positives and of negatives. {told}.", figure)
