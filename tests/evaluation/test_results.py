"""Result files: what is written is what is read, and what an earlier version wrote is read, too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trials import reranker_test, result_of, sources
from utils.evaluation.results import VERSION, AblationResult, RerankerTestResult, Result
from utils.report.text import reranker_test_text

DATA = Path(__file__).parents[1] / "fixtures"


@pytest.mark.parametrize(
    "result",
    [result_of(sources(base=[4, None, "error"] * 9, a=[1, 1, 2] * 9), ["base", "a"]), reranker_test()],
    ids=["ablation", "test"],
)
def test_what_is_written_is_what_is_read(result: Result) -> None:
    values = json.loads(json.dumps(result.to_json()))
    assert values["version"] == VERSION
    assert type(result).from_json(values) == result


def test_ablation_of_an_earlier_version_is_read() -> None:
    values = json.loads((DATA / "ablation_v1.json").read_text())
    assert "version" not in values
    result = AblationResult.from_json(values)
    assert (result.version, result.summary, result.versions) == (VERSION, values["verdict"], values["versions"])
    assert [arm.arm for arm in result.table] == ["standard", "diverse", "zs", "diverse_zs"]
    assert result.table[0].success_interval == tuple(values["table"][0]["success_interval"])
    assert {one.outcome for one in result.comparisons} == {"no difference"}
    assert {one.money_saved_interval for one in result.comparisons} == {None}
    for source, row in zip(result.sources, values["sources"], strict=True):
        assert (source.source, source.query, source.entity and source.entity.name) == (
            row["source"],
            row["query"],
            row["entity"],
        )
        assert {arm: trial.attempts for arm, trial in source.trials.items()} == {
            arm: t["attempts"] for arm, t in row["arms"].items()
        }
    swept = [("diverse", 1.0, 1.0), ("diverse_zs", 1.0, 1.0)]
    assert [(row.arm, row.lambda1, row.rerank_weight) for row in result.sweep] == swept
    assert list(result.left_out) == ["diverse_ft"]


def test_reranker_test_of_an_earlier_version_is_read() -> None:
    values = json.loads((DATA / "reranker_test_v1.json").read_text())
    result = RerankerTestResult.from_json(values)
    assert (result.summary, result.queries) == (values["verdict"], 4)
    first, row = result.comparisons[0], values["comparisons"][0]
    assert (first.metric, first.pairs, first.pairs_needed) == (row["metric"], 4, row["queries_needed"])
    assert first.outcome == "no difference"
    assert result.separation["model"].histogram.edges == values["separation"]["model"]["histogram"]["edges"]


def test_reranker_test_of_version_2_is_read_and_shown() -> None:
    values = json.loads((DATA / "reranker_test_v2.json").read_text())
    result = RerankerTestResult.from_json(values)
    assert (result.version, result.main_metric, result.advice, result.curves) == (VERSION, "MRR", None, None)
    assert {(one.order, one.baseline) for one in result.comparisons} == {("model", "baseline")}
    assert result.difference("model", "baseline").difference == values["comparisons"][0]["difference"]
    assert "MRR, model vs baseline" in reranker_test_text(result)


def test_file_of_a_later_version_is_refused() -> None:
    values = reranker_test().to_json() | {"version": VERSION + 1}
    with pytest.raises(ValueError, match="newer than"):
        RerankerTestResult.from_json(values)
