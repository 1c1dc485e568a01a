"""From trials to evidence: pairing, errors, saved calls, the sentence, and corners where nothing can be computed."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from utils.errors import InputError
from utils.evaluation.arm_comparison import against, contrast, evidence, summarize
from utils.evaluation.run_comparison import merge
from utils.evaluation.runs import Run
from utils.evaluation.statistics import bootstrap_mean, mcnemar, paired_permutation, wilson
from utils.files import write_json
from utils.labelling.record import JudgedSource, Trial
from utils.report.page import cases, write_ablation_page
from utils.report.text import ablation_text, versions
from utils.schema import BridgeEntity, Outcome, Verdict
from utils.teachers.ledger import Ledger, Price

BUDGET = 4
NASTY = '</script><script>alert(1)</script><img src="http://x.test/y.png"> & $x_1$ \'"'


def trial(rank: int | None, error: bool = False) -> Trial:
    """A trial that finds its first usable candidate at a rank, or none, or ends in an error at once."""
    if error:
        verdicts = [Verdict(Outcome.ERROR, NASTY)]
    else:
        verdicts = [Verdict(Outcome.UNUSABLE, "no")] * ((rank or BUDGET + 1) - 1)
        verdicts = [*verdicts, Verdict(Outcome.USABLE, NASTY)] if rank else verdicts
    return Trial([f"d{i}" for i in range(BUDGET)], verdicts)


def sources(**ranks: list[Any]) -> list[JudgedSource]:
    """Sources with one arm's rank each: a number, None for no success, "error"."""
    found = []
    for i, row in enumerate(zip(*ranks.values(), strict=True)):
        trials = {
            arm: trial(None if rank == "error" else rank, rank == "error") for arm, rank in zip(ranks, row, strict=True)
        }
        found.append(JudgedSource(str(i), BridgeEntity("e", "t", NASTY, f"query {i}"), trials))
    return found


def result_of(results: list[JudgedSource], arms: list[str], **options: Any) -> dict[str, Any]:
    found = evidence(results, arms, against(arms, "base"), budget=BUDGET, **options)
    documents = {"d0": NASTY, "0": NASTY}
    return {"settings": {"seed": 1, "name": NASTY}, **found, "documents": documents, "versions": versions()}


def test_error_leaves_a_source_out_of_both_sides_of_its_comparison_alone() -> None:
    results = sources(base=[1, 2, 3, 4, "error"], a=[1, 1, "error", 1, 1], b=[2, 2, 2, 2, 2])
    base, a, b = summarize(results, ["base", "a", "b"], BUDGET)
    assert [(one.sources, one.errors) for one in (base, a, b)] == [(4, 1), (4, 1), (5, 0)]
    with_a, with_b = contrast(results, [("a", "base"), ("b", "base")])
    assert (with_a.sources, with_a.left_out, with_a.differences) == (3, 2, [0, -1, -3])
    assert (with_b.sources, with_b.left_out, with_b.differences) == (4, 1, [1, 0, -1, -2])
    assert with_a.judged_difference == pytest.approx(-4 / 3)
    assert with_a.saved == pytest.approx(4000 / 3)


def test_figures_are_those_of_the_statistics() -> None:
    rng = random.Random(0)
    base = [rng.choice([1, 2, 3, 4, None]) for _ in range(60)]
    a = [rng.choice([1, 1, 2, None]) for _ in range(60)]
    results = sources(base=base, a=a, b=base)
    _, one, _ = summarize(results, ["base", "a", "b"], BUDGET)
    found = [rank for rank in a if rank]
    assert one.success_interval == wilson(len(found), 60)
    assert one.attempts_interval == bootstrap_mean(found)
    shares = [sum(rank <= budget for rank in found) / 60 for budget in range(1, BUDGET + 1)]
    assert [row["rate"] for row in one.within] == pytest.approx(shares)
    compared, same = contrast(results, against(["base", "a", "b"], "base"))
    judged = [[rank or BUDGET for rank in ranks] for ranks in (a, base)]
    p = paired_permutation(*judged)
    assert (compared.judged_p, compared.judged_p_corrected) == (p, 2 * p)
    only = [sum(bool(x) > bool(y) for x, y in zip(*pair, strict=True)) for pair in ((a, base), (base, a))]
    assert compared.success_p == mcnemar(type("D", (tuple,), {"first": only[0], "second": only[1]})(only))
    assert (same.judged_difference, same.judged_p, same.judged_interval) == (0, 1, None)


def test_verdict_says_what_was_seen_and_how_much_it_saves() -> None:
    results = sources(base=[4, 3, 4, 3, 4] * 12, a=[1, 1, 2, 1, 1] * 12, b=[4, 4, None, 4, 4] * 12, c=[4, 3] * 30)
    said = result_of(results, ["base", "a", "b", "c"])["verdict"]
    assert "a needs 2.40 fewer candidates a source than base" in said
    assert "2,400 teacher calls saved per thousand sources" in said
    assert "b is worse than " in said
    assert "No difference from base was seen for c" in said


def test_savings_are_in_money_where_there_is_a_price() -> None:
    ledger = Ledger()
    for _ in range(4):  # also of replies that came out of the cache
        ledger.record("verdict", Price(1.0, 2.0), 1000, 500)
    assert ledger.mean_cost("verdict") == pytest.approx(0.002)
    assert ledger.mean_cost("bridge_entity") is None
    ledger.record("bridge_entity", None, 10, 10)
    assert ledger.mean_cost("bridge_entity") is None
    results = sources(base=[4, 3, 4], a=[1, 1, 2])
    (row,) = result_of(results, ["base", "a"], cost_per_call=0.002)["comparisons"]
    assert row["money_saved_per_thousand"] == pytest.approx(0.002 * row["calls_saved_per_thousand"])
    assert "a saves +4.67" in ablation_text(result_of(results, ["base", "a"], cost_per_call=0.002))
    assert result_of(results, ["base", "a"])["comparisons"][0]["money_saved_per_thousand"] is None


CORNERS: dict[str, tuple[list[JudgedSource], list[str], str]] = {
    "one arm": (sources(a=[1, 2, None, "error"]), ["a"], "a finds a usable candidate for 2 of 3 sources"),
    "no success": (sources(base=[None] * 5, a=[None] * 5), ["base", "a"], "No difference from base was seen for a."),
    "all errors": (sources(base=["error"] * 3, a=["error"] * 3), ["base", "a"], "no source came to an end (3 ended"),
    "one source": (sources(base=[3], a=[1]), ["base", "a"], "No difference from base was seen for a."),
    "no common source": (sources(base=["error", 1], a=[1, "error"]), ["base", "a"], "Nothing can be compared"),
    "no entity": ([JudgedSource("0", None, {}, "no answer")], ["base", "a"], "Nothing can be said"),
    "nothing": ([], ["base", "a"], "Nothing can be said"),
}


@pytest.mark.parametrize("corner", CORNERS)
def test_corners_give_a_table_and_a_page_without_a_crash(corner: str, tmp_path: Path) -> None:
    results, arms, said = CORNERS[corner]
    result = result_of(results, arms)
    assert said in result["verdict"]
    write_json(tmp_path / "r.json", result)
    text = (tmp_path / "r.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    result = json.loads(text)
    for row in result["table"]:
        ended, found = row["sources"], row["successes"]
        assert (row["success_interval"] is None) == (ended == 0)
        assert row["success_interval"] == (list(wilson(found, ended) or ()) or None)
        assert (row["mean_attempts"] is None) == (found == 0)
        assert found > 1 or row["attempts_interval"] is None
    for row in result["comparisons"]:
        assert row["sources"] > 1 or row["judged_interval"] is None
        assert row["judged_p_corrected"] == 1
    assert "–" in ablation_text(result)
    page = write_ablation_page(result, tmp_path / "r.json").read_text()
    assert "nan" not in page.lower().replace("alliance", "")
    assert page.count('<details class="source"') == len(results)


def test_page_is_one_file_that_asks_for_nothing_and_escapes_all(tmp_path: Path) -> None:
    result = result_of(sources(base=[4, 3, None, 1, "error"], a=[1, 3, 2, 2, 1]), ["base", "a"])
    result["latency_ms"] = {arm: {"encode": 1.0, "search": 2.0, "rerank": 0.0} for arm in ("base", "a")}
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
    listed = [(case["source"], case["states"][0]) for case in cases(result, [("a", "base")])]
    shown = [(source, state["kind"], state["text"]) for source, state in listed]
    assert shown == [
        ("2", "win", "3 fewer"),
        ("0", "win", "1 fewer"),
        ("5", "win", "found"),
        ("3", "loss", "2 more"),
        ("1", "tie", "the same"),
        ("4", "open", "undecided"),
    ]
    kinds = [case["states"][0]["kind"] for case in cases(result, [("a", None)])]
    assert set(kinds) == {"found"}


def write_run(path: Path, results: list[JudgedSource], **settings: Any) -> Run:
    path.parent.mkdir(parents=True, exist_ok=True)
    found = evidence(results, list(results[0].trials), [], budget=BUDGET)
    write_json(path, {"settings": settings, **found, "documents": {}})
    return Run.read(str(path))


def test_runs_are_paired_by_the_sources_that_they_share(tmp_path: Path) -> None:
    old = write_run(tmp_path / "old.json", sources(x=[4, 4, 4, 4], y=[1, 1, 1, 1]), seed=1, lambda1=0.85)
    rows = sources(x=[1, 2, 4, "error"], z=[1, 1, 1, 1])
    new = write_run(tmp_path / "new.json", rows[::-1][:3], seed=1, lambda1=0.5)
    assert old.sources == sources(x=[4, 4, 4, 4], y=[1, 1, 1, 1])  # what is read is what was written
    merged = merge([old, new])
    assert (merged.names, merged.versus) == (["old", "new"], [("new: x", "old: x")])
    assert [source.source for source in merged.sources] == ["1", "2", "3"]
    assert (merged.other_queries, merged.settings) == (0, {"lambda1": {"old": 0.85, "new": 0.5}})
    (compared,) = contrast(merged.sources, merged.versus)
    assert (compared.sources, compared.left_out, compared.differences) == (2, 1, [-2, 0])
    same = write_run(tmp_path / "other" / "old.json", sources(x=[1]), seed=1)
    assert merge([old, same]).names == [f"{tmp_path.name}/old", "other/old"]
    with pytest.raises(InputError, match="share no arm of y"):
        merge([old, new], ["y"])
    away = write_run(tmp_path / "away.json", [sources(x=[1])[0]._replace(source="elsewhere")])
    with pytest.raises(InputError, match="share no source"):
        merge([old, away])


def test_runs_of_other_budgets_are_compared_on_the_smaller(tmp_path: Path) -> None:
    def run(name: str, candidates: int) -> Run:
        trial = Trial([str(i) for i in range(candidates)], [Verdict(Outcome.UNUSABLE, "no")] * candidates)
        entity = BridgeEntity("e", "", "", "q")
        sources = [JudgedSource(str(i), entity, {"zs": trial}) for i in range(5)]
        return Run(tmp_path / f"{name}.json", {"candidates": candidates}, {}, sources)

    merged = merge([run("ten", 10), run("five", 5)])
    (comparison,) = contrast(merged.sources, merged.versus)
    assert comparison.judged_difference == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"settings": {}, "sources": [{}]}', '{"settings": 1, "sources": 2}'])
def test_file_that_is_no_run_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match="is no result of"):
        Run.read(str(tmp_path / "x.json"))


def test_interval_ends_are_ordered_and_finite() -> None:
    results = sources(base=[1, 2, 3, 4, None] * 9, a=[1, 1, 2, 2, 4] * 9)
    (row,) = result_of(results, ["base", "a"])["comparisons"]
    for key in ("success_interval", "judged_interval", "calls_saved_interval"):
        low, high = row[key]
        assert low < high
        assert math.isfinite(low + high)
