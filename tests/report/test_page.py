"""The page: one file that needs no network, escapes what it shows, and lists the telling sources first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trials import NASTY, reranker_test, result_of, sources
from utils.evaluation.wins_and_losses import RankedPassage, RankedQuery
from utils.report.cases import source_cases, verdicts
from utils.report.page import write_ablation_page, write_test_page


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


def test_reasons_of_runs_side_by_side_name_their_run(tmp_path: Path) -> None:
    one, other = sources(**{"one: a": [2], "two: a": [1]}), None
    (case,) = source_cases(result_of(one, ["one: a", "two: a"]), [("one: a", other)])
    assert set(verdicts(case.source)) == {("one", "d0"), ("one", "d1"), ("two", "d0")}
    page = write_ablation_page(result_of(one, ["one: a", "two: a"]), tmp_path / "r.json").read_text()
    assert "<strong>one: d1</strong> (usable)" in page


def test_page_of_a_test_has_its_tables_plots_and_queries(tmp_path: Path) -> None:
    result = reranker_test()
    page = write_test_page(result, tmp_path / "r.json").read_text()
    for heading in ("Metrics", "Paired comparison", "By other metrics", "Depth", "Weight", "Slices", "Scores", "Terms"):
        assert f">{heading}</h2>" in page
    assert page.count("<svg") == 4
    assert {path.name for path in (tmp_path / "r_plots").glob("*.svg")} == {
        "curves.svg", "differences.svg", "metrics.svg", "scores.svg",
    }  # fmt: skip
    assert page.count('<details class="case"') == len(result.examples)
    assert "<strong>✓ relevant</strong> · rank 1 by model" in page
    for anchor in {part.split('"')[0] for part in page.split('href="#')[1:]}:
        assert f'id="{anchor}"' in page


def test_page_of_a_test_escapes_queries_and_passages_and_goes_without_them(tmp_path: Path) -> None:
    result = reranker_test()
    passage = RankedPassage(NASTY, 2, {"model": 1, "first stage": 2})
    one = RankedQuery(NASTY, "7", {"model": 1.0, "first stage": 0.5}, [passage])
    page = write_test_page(replace(result, examples=[one]), tmp_path / "r.json").read_text()
    assert page.count("<script>") == 1
    assert page.count("&lt;img") == 2
    assert "relevant, grade 2" in page
    assert "Queries won" not in write_test_page(replace(result, examples=[]), tmp_path / "r.json").read_text()
