"""What an ablation has shown: savings in money, and corners where nothing can be computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trials import result_of, sources
from utils.evaluation.results import AblationResult
from utils.evaluation.statistics import wilson
from utils.files import write_json
from utils.labelling.record import JudgedSource
from utils.report.page import write_ablation_page
from utils.report.text import ablation_text
from utils.teachers.ledger import Ledger, Price


def test_savings_are_in_money_where_there_is_a_price() -> None:
    ledger = Ledger()
    for _ in range(4):  # also of replies that came out of the cache
        ledger.record("verdict", Price(1.0, 2.0), 1000, 500)
    assert ledger.mean_cost("verdict") == pytest.approx(0.002)
    assert ledger.mean_cost("bridge_entity") is None
    ledger.record("bridge_entity", None, 10, 10)
    assert ledger.mean_cost("bridge_entity") is None
    results = sources(base=[4, 3, 4], a=[1, 1, 2])
    (row,) = result_of(results, ["base", "a"], cost_per_call=ledger.mean_cost("verdict")).comparisons
    assert row.money_saved_per_thousand == pytest.approx(0.002 * row.calls_saved_per_thousand)
    assert "a saves +4.67" in ablation_text(
        result_of(results, ["base", "a"], cost_per_call=ledger.mean_cost("verdict"))
    )
    assert result_of(results, ["base", "a"]).comparisons[0].money_saved_per_thousand is None


CORNERS: dict[str, tuple[list[JudgedSource], list[str], str]] = {
    "one arm": (sources(a=[1, 2, None, "error"]), ["a"], "a finds a usable candidate for 2 of 3 sources"),
    "no success": (sources(base=[None] * 5, a=[None] * 5), ["base", "a"], "No significant difference from base for a."),
    "all errors": (sources(base=["error"] * 3, a=["error"] * 3), ["base", "a"], "no source completed (3 failed"),
    "one source": (sources(base=[3], a=[1]), ["base", "a"], "No significant difference from base for a."),
    "no common source": (sources(base=["error", 1], a=[1, "error"]), ["base", "a"], "No comparison:"),
    "no entity": ([JudgedSource("0", None, {}, "no answer")], ["base", "a"], "No conclusion:"),
    "nothing": ([], ["base", "a"], "No conclusion:"),
}


@pytest.mark.parametrize("corner", CORNERS)
def test_corners_give_a_table_and_a_page_without_a_crash(corner: str, tmp_path: Path) -> None:
    results, arms, said = CORNERS[corner]
    result = result_of(results, arms)
    assert said in result.summary
    write_json(tmp_path / "r.json", result.to_json())
    text = (tmp_path / "r.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    result = AblationResult.from_json(json.loads(text))
    for row in result.table:
        ended, found = row.sources, row.successes
        assert (row.success_interval is None) == (ended == 0)
        assert row.success_interval == wilson(found, ended)
        assert (row.mean_attempts is None) == (found == 0)
        assert found > 1 or row.attempts_interval is None
    for row in result.comparisons:
        assert row.sources > 1 or row.judged_interval is None
        assert row.judged_p_corrected == 1
    assert "–" in ablation_text(result)
    page = write_ablation_page(result, tmp_path / "r.json").read_text()
    assert "nan" not in page.lower().replace("alliance", "")
    assert page.count('<details class="case"') == len(results)


def test_an_unfinished_run_says_so() -> None:
    results = sources(base=[4, 3, 4], a=[1, 1, 2])
    unfinished, finished = (result_of(results, ["base", "a"], finished=done) for done in (False, True))
    assert unfinished.headline == f"The run is unfinished, and its figures are preliminary. {finished.headline}"
    assert ablation_text(unfinished).startswith(unfinished.headline)
    assert ablation_text(finished).startswith(finished.summary)
