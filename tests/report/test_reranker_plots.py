"""Plots of a test: the same bytes each time, described in words, empty ones left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trials import reranker_test
from utils.report.reranker_plots import reranker_test_plots

NAMES = ["differences", "curves", "metrics", "scores"]


def test_plots_are_the_same_to_the_byte(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        for plot in reranker_test_plots(reranker_test()):
            plot.save(tmp_path / folder)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(f"{name}.{kind}" for name in NAMES for kind in ("png", "svg"))
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_plots_say_their_figures_in_words() -> None:
    result = reranker_test(3.0)
    plots = {plot.name: plot.description for plot in reranker_test_plots(result)}
    assert list(plots) == NAMES
    assert "model vs baseline +0." in plots["differences"]
    assert f"MRR: model {result.value('model'):.3f}" in plots["metrics"]
    assert f"0: {result.curves.by_weight[0]:.3f}; 0.1: " in plots["curves"]
    assert "model: AUC 0." in plots["scores"]


def test_weight_0_has_no_line_of_its_own() -> None:
    result = reranker_test(3.0)
    assert result.curves.weight > 0
    for weight, lines in ((0.5, 2), (0.0, 1)):
        shown = replace(result, curves=replace(result.curves, weight=weight))
        left, _ = reranker_test_plots(shown)[1].figure.axes
        assert len(left.lines) == lines + 1  # and the first stage


def test_empty_plots_are_left_out() -> None:
    result = replace(reranker_test(), comparisons=[], curves=None, separation={})
    assert [plot.name for plot in reranker_test_plots(result)] == ["metrics"]
