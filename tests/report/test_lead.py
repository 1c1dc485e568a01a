"""The first screen says what the figures say, and no more: helps, is not shown to, ranks worse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trials import reranker_test, result_of, sources
from utils.report.lead import ablation_lead, reranker_test_lead


@pytest.mark.parametrize(
    ("shift", "answer", "first"),
    [
        (3.0, "This reranker helps: MRR 0.", "Rerank the first "),
        (0.0, "This reranker is not shown to help", "Keep the order"),
        (-3.0, "This reranker ranks worse by itself, and does not help", "Keep the order"),
    ],
)
def test_a_test_says_whether_the_model_helps(shift: float, answer: str, first: str) -> None:
    lead = reranker_test_lead(replace(reranker_test(shift), queries=50))
    assert lead.answer.startswith(answer)
    assert lead.steps[0].text.startswith(first)
    assert {step.section for step in lead.steps} == {"", "cases"}
    assert "--model_path" in lead.steps[-1].command  # rows: a teacher may have labelled them


def test_few_queries_do_not_tell() -> None:
    lead = reranker_test_lead(replace(reranker_test(0.0), queries=49))
    assert lead.answer.startswith("49 queries are too few to tell whether this reranker helps: MRR 0.")


def test_a_graded_test_asks_for_no_confirmation_and_an_early_one_shows_its_summary() -> None:
    result = reranker_test(3.0)
    assert not any(step.command for step in reranker_test_lead(replace(result, main_metric="nDCG@10")).steps)
    early = reranker_test_lead(replace(result, advice=None))
    assert (early.answer, early.steps) == (result.summary, ())


def test_an_ablation_names_the_best_arm_only_if_it_is_significantly_better() -> None:
    found = ablation_lead(result_of(sources(base=[4] * 20, a=[1] * 20), ["base", "a"]))
    assert found.answer == "a finds a usable candidate sooner than base: 3.00 fewer judged per source"
    assert found.steps[0].text == "Retrieve with a: it saves 3,000 calls of the teacher per 1,000 sources."
    found = ablation_lead(result_of(sources(base=[1] * 20, a=[4] * 20), ["base", "a"]))
    assert found.answer == "No arm is shown to be better than base; a is worse"
    assert found.steps[0].text == "Keep base."
    found = ablation_lead(result_of(sources(base=[2, 1, 3], a=[1, 2, 1]), ["base", "a"]))
    assert found.answer == "No arm is shown to be better than base"
    assert found.steps[1].command.startswith("python rerank_ablation_test.py --num ")


def test_an_ablation_without_a_comparison_shows_its_summary_and_an_unfinished_one_says_so() -> None:
    result = result_of(sources(a=[1, 2]), ["a"], finished=False)
    found = ablation_lead(result)
    assert found.answer == result.headline
    assert "unfinished" in found.about
