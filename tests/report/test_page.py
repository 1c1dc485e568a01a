"""The page: one file that needs no network, escapes what it shows, and lists the telling sources first."""

from __future__ import annotations

from pathlib import Path

from trials import reranker_test, result_of, sources
from utils.report.page import cases, write_ablation_page, write_test_page


def test_page_is_one_file_that_asks_for_nothing_and_escapes_all(tmp_path: Path) -> None:
    latency = {arm: {"encode": 1.0, "search": 2.0, "rerank": 0.0} for arm in ("base", "a")}
    ranks = sources(base=[4, 3, None, 1, "error"], a=[1, 3, 2, 2, 1])
    result = result_of(ranks, ["base", "a"], latency_ms=latency)
    page = write_ablation_page(result, tmp_path / "r.json").read_text()
    assert page.count("<script>") == 1
    assert "<img" not in page
    assert page.count("alert(1)") >= 3
    assert "default-src 'none'" in page
    assert not [part for part in page.split('src="')[1:] if part.startswith("http")]
    assert page.count("<svg") == 4
    assert 'role="img"' in page
    ids = [part.split('"')[0] for part in page.split(' id="')[1:]]
    assert len(ids) == len(set(ids))
    plots = sorted(path.name for path in (tmp_path / "r_plots").iterdir())
    names = ("attempts", "differences", "latency", "within_budget")
    assert plots == [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    again = write_ablation_page(result, tmp_path / "s.json").read_text()
    assert again.replace("s.json", "r.json") == page


def test_cases_stand_wins_first_then_losses_then_the_rest() -> None:
    result = result_of(sources(base=[2, 1, 4, 1, "error", None], a=[1, 1, 1, 3, 1, 4]), ["base", "a"])
    listed = [(case.source.source, case.states[0]) for case in cases(result, [("a", "base")])]
    shown = [(source, state.kind, state.text) for source, state in listed]
    assert shown == [
        ("2", "win", "3 fewer"),
        ("0", "win", "1 fewer"),
        ("5", "win", "found"),
        ("3", "loss", "2 more"),
        ("1", "tie", "the same"),
        ("4", "open", "undecided"),
    ]
    kinds = [case.states[0].kind for case in cases(result, [("a", None)])]
    assert set(kinds) == {"found"}


def test_reasons_of_runs_side_by_side_name_their_run(tmp_path: Path) -> None:
    one, other = sources(**{"one: a": [2], "two: a": [1]}), None
    (case,) = cases(result_of(one, ["one: a", "two: a"]), [("one: a", other)])
    assert set(case.verdicts) == {("one", "d0"), ("one", "d1"), ("two", "d0")}
    page = write_ablation_page(result_of(one, ["one: a", "two: a"]), tmp_path / "r.json").read_text()
    assert "<strong>one: d1</strong> (usable)" in page


def test_page_of_a_test_has_its_tables_and_plots(tmp_path: Path) -> None:
    page = write_test_page(reranker_test(), tmp_path / "r.json").read_text()
    for heading in ("Metrics", "Paired comparison", "Depth", "Weight", "Slices", "Scores"):
        assert f">{heading}</h2>" in page
    assert page.count("<svg") == 4
    assert {path.name for path in (tmp_path / "r_plots").glob("*.svg")} == {
        "curves.svg", "differences.svg", "metrics.svg", "scores.svg",
    }  # fmt: skip
