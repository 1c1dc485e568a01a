"""Tables and text: figures with their intervals, dashes where there are none, and what is left out."""

from __future__ import annotations

import pytest

from trials import reranker_test, result_of, sources
from utils.evaluation.statistics import Interval
from utils.report.text import (
    SIGNED_TWO,
    SIGNED_WHOLE,
    TWO,
    Table,
    ablation_tables,
    ablation_text,
    number,
    p_value,
    percent,
    reranker_test_text,
    with_interval,
)


def test_numbers_have_a_form_and_what_is_missing_is_a_dash() -> None:
    assert with_interval(3.1, Interval(2.8, 3.449), TWO) == "3.10 [2.80, 3.45]"
    assert with_interval(3.1, None, TWO) == "3.10 [–]"
    assert with_interval(None, None, TWO) == number(None, TWO) == "–"
    assert number(-0.001, SIGNED_TWO) == "+0.00"
    assert number(1234.5, SIGNED_WHOLE) == "+1,234"
    assert (percent(0.25), percent(None)) == ("25.0%", None)
    assert (p_value(0.0004), p_value(0.05)) == ("<0.001", "0.050")


def test_table_shows_its_first_rows_and_says_so() -> None:
    text = Table("", "", ["n"], [[i] for i in range(12)], ["a note"]).text(10)
    assert "9" in text
    assert "11" not in text
    assert text.endswith("a note\nthe first 10 of 12 rows")


def test_ablation_leaves_empty_tables_out_and_names_arms_that_did_not_run() -> None:
    result = result_of(sources(base=[1, 2]), ["base"], left_out={"diverse_ft": "no model"})
    assert [one.heading for one in ablation_tables(result)] == ["Arms"]
    assert "diverse_ft was left out: no model" in ablation_text(result)


@pytest.mark.parametrize(("shift", "outcome"), [(3.0, "better"), (-3.0, "worse"), (0.0, "no difference")])
def test_comparisons_say_their_outcome(shift: float, outcome: str) -> None:
    result = reranker_test(shift)
    assert result.difference("model", "baseline").outcome == outcome
    text = reranker_test_text(result)
    row = next(line for line in text.splitlines() if line.startswith("MRR, model vs baseline"))
    assert outcome in row
    assert ("No significant difference" if outcome == "no difference" else f"is {outcome} than") in result.summary
    assert "MAP, model" not in text  # the page has it
    assert "100.0% of the relevant documents are in them" in text
    assert "documents reranked" in text
