"""Plots: the same bytes each time, described in words, empty ones left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trials import result_of, sources
from utils.evaluation.results import SweepFigures
from utils.report.plots import ablation_plots


def test_plots_are_the_same_to_the_byte(tmp_path: Path) -> None:
    result = result_of(sources(base=[4, 3, None, 1], a=[1, 3, 2, 2]), ["base", "a"])
    for folder in ("one", "two"):
        for plot in ablation_plots(result):
            plot.save(tmp_path / folder)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 2 * 3
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_plots_say_their_figures_in_words() -> None:
    plots = {plot.name: plot.description for plot in ablation_plots(result_of(sources(base=[3], a=[1]), ["base", "a"]))}
    assert "a -2, no difference." in plots["differences"]
    assert "a 100% with one candidate" in plots["within_budget"]
    assert "base: 0 of 1 without one" in plots["attempts"]


def test_sweep_has_a_panel_for_each_arm_and_factor() -> None:
    result = result_of(sources(base=[1, 2], a=[2, 2]), ["base", "a"])
    rows = [
        SweepFigures(
            **vars(arm), lambda1=1 - x, lambda2=0.0, lambda3=x, rerank_pool_factor=1, verdicts_asked=0,
            judged_difference=0.0, difference_interval=None, judged_p=1.0, judged_p_corrected=1.0,
        )
        for arm in result.table
        for x in (0.0, 0.1)
    ]  # fmt: skip
    plot = ablation_plots(replace(result, sweep=rows))[-1]
    assert [axes.get_title() for axes in plot.figure.axes] == ["base ×1", "a ×1"]
    assert "Fewest: 1.50 by base" in plot.description
    fused = [replace(row, rerank_weight=0.25) if row.arm == "a" else row for row in rows]
    plot = ablation_plots(replace(result, sweep=fused))[-1]
    assert [axes.get_title() for axes in plot.figure.axes] == ["base ×1 w 1", "a ×1 w 0.25"]
    weights = [replace(row, lambda3=0.1, rerank_weight=row.lambda3) for row in rows]
    plot = ablation_plots(replace(result, sweep=weights))[-1]
    assert [axes.get_title() for axes in plot.figure.axes] == ["base", "a"]
    assert [label.get_text() for label in plot.figure.axes[0].get_xticklabels()] == ["0", "0.1"]


def test_nothing_is_drawn_of_nothing() -> None:
    assert ablation_plots(result_of([], ["base"])) == []
