"""Runs side by side: what they share, and files of this and of earlier versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trials import BUDGET, sources
from utils.errors import InputError
from utils.evaluation.ablation_results import RunContext, ablation_result
from utils.evaluation.run_comparison import Run, compare_runs, name_runs
from utils.files import write_json
from utils.labelling.record import JudgedSource, Trial
from utils.schema import BridgeEntity, Outcome, Verdict


def write_run(path: Path, results: list[JudgedSource], **settings: Any) -> Run:
    path.parent.mkdir(parents=True, exist_ok=True)
    result = ablation_result(results, list(results[0].trials), "none", budget=BUDGET, context=RunContext(settings))
    write_json(path, result.to_json())
    return Run.read(str(path))


def test_runs_are_paired_by_the_sources_that_they_share(tmp_path: Path) -> None:
    old = write_run(tmp_path / "old.json", sources(x=[4, 4, 4, 4], y=[1, 1, 1, 1]), seed=1, lambda1=0.85)
    rows = sources(x=[1, 2, 4, "error"], z=[1, 1, 1, 1])
    new = write_run(tmp_path / "new.json", rows[::-1][:3], seed=1, lambda1=0.5)
    assert old.result.sources == sources(x=[4, 4, 4, 4], y=[1, 1, 1, 1])  # what is read is what was written
    merged = compare_runs([old, new])
    assert merged.title == "old and new, side by side"
    assert [(one.arm, one.baseline) for one in merged.comparisons] == [("new: x", "old: x")]
    assert [source.source for source in merged.sources] == ["1", "2", "3"]
    assert (merged.other_queries, merged.settings["differing"]) == (0, {"lambda1": {"old": 0.85, "new": 0.5}})
    (compared,) = merged.comparisons
    assert (compared.sources, compared.left_out, compared.judged_difference) == (2, 1, -1)
    same = write_run(tmp_path / "other" / "old.json", sources(x=[1]), seed=1)
    assert name_runs([old, same]) == [f"{tmp_path.name}/old", "other/old"]
    with pytest.raises(InputError, match="share no arm of y"):
        compare_runs([old, new], ["y"])
    away = write_run(tmp_path / "away.json", [sources(x=[1])[0]._replace(source="elsewhere")])
    with pytest.raises(InputError, match="share no source"):
        compare_runs([old, away])


def test_runs_of_other_budgets_are_compared_on_the_smaller(tmp_path: Path) -> None:
    def run(name: str, candidates: int) -> Run:
        trial = Trial([str(i) for i in range(candidates)], [Verdict(Outcome.UNUSABLE, "no")] * candidates)
        entity = BridgeEntity("e", "", "", "q")
        sources = [JudgedSource(str(i), entity, {"zs": trial}) for i in range(5)]
        context = RunContext({"candidates": candidates})
        return Run(tmp_path / f"{name}.json", ablation_result(sources, [], "", budget=candidates, context=context))

    (comparison,) = compare_runs([run("ten", 10), run("five", 5)]).comparisons
    assert comparison.judged_difference == 0


@pytest.mark.parametrize(("done", "finished"), [((True, True), True), ((True, False), False), ((False, True), False)])
def test_a_comparison_is_as_finished_as_its_runs(tmp_path: Path, done: tuple[bool, bool], finished: bool) -> None:
    rows = sources(x=[1, 2, 3])
    runs = [
        Run(tmp_path / f"{i}.json", ablation_result(rows, ["x"], "", budget=BUDGET, context=RunContext({}, one)))
        for i, one in enumerate(done)
    ]
    compared = compare_runs(runs)
    assert compared.finished is finished
    assert ("preliminary" in compared.headline) is not finished


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"settings": {}, "sources": [{}]}', '{"settings": 1, "sources": 2}'])
def test_file_that_is_not_a_run_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match="is not a result of"):
        Run.read(str(tmp_path / "x.json"))


def test_file_of_an_earlier_version_is_compared(tmp_path: Path) -> None:
    earlier = Run.read(str(Path(__file__).parents[1] / "fixtures" / "ablation_v1.json"))
    now = Run(tmp_path / "now.json", earlier.result)
    result = compare_runs([earlier, now])
    assert [(one.sources, one.judged_difference) for one in result.comparisons] == [(3, 0)] * 4
    assert result.table[0].label == "nearest"
    assert result.title == "ablation_v1 and now, side by side"
    assert result.documents == earlier.result.documents


@pytest.mark.parametrize(("weight", "differs"), [(1.0, False), (0.5, True)])
def test_file_without_a_rerank_weight_is_of_weight_1(tmp_path: Path, weight: float, differs: bool) -> None:
    old = write_run(tmp_path / "old.json", sources(x=[1]))
    new = write_run(tmp_path / "new.json", sources(x=[1]), rerank_weight=weight)
    told = {"rerank_weight": {"old": 1.0, "new": weight}} if differs else {}
    assert compare_runs([old, new]).settings["differing"] == told


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("settings", [], "result.settings must be dict, not list"),
        ("table", {}, "result.table must be list"),
        ("documents", {"1": 2}, "result.documents.1 must be str, not int"),
        ("sources", [{"source": "1", "entity": None, "arms": {"x": 5}, "error": None}], "must be Trial, not int"),
        ("comparisons", [{}], r"result.comparisons\[0\]: .*missing"),
        ("version", [], "version must be int, not list"),
        ("version", 2**63, "version must be int"),
    ],
)
def test_a_damaged_file_is_told_in_a_line(tmp_path: Path, key: str, value: Any, told: str) -> None:
    path = write_run(tmp_path / "run.json", sources(x=[1, 2])).path
    write_json(path, json.loads(path.read_text()) | {key: value})
    with pytest.raises(InputError, match=rf"run\.json is not a result .*{told}"):
        Run.read(str(path))
    for text in ("[" * 200 + "]" * 200, "[]", "{", "", "\\ud83d"):
        path.write_text(text)
        with pytest.raises(InputError, match=r"run\.json is not a result"):
            Run.read(str(path))
