"""What a page lists: wins first, then losses, then the rest, for each choice."""

from __future__ import annotations

from dataclasses import replace

from trials import reranker_test, result_of, sources
from utils.data.first_stage import FIRST
from utils.evaluation.verdict import FUSED, MODEL
from utils.report.cases import query_cases, query_choices, source_cases


def test_cases_stand_wins_first_then_losses_then_the_rest() -> None:
    result = result_of(sources(base=[2, 1, 4, 1, "error", None], a=[1, 1, 1, 3, 1, 4]), ["base", "a"])
    listed = [(case.source.source, case.states[0]) for case in source_cases(result, [("a", "base")])]
    shown = [(source, state.kind, state.text) for source, state in listed]
    assert shown == [
        ("2", "win", "3 fewer"),
        ("0", "win", "1 fewer"),
        ("5", "win", "found"),
        ("3", "loss", "2 more"),
        ("1", "tie", "the same"),
        ("4", "open", "undecided"),
    ]
    kinds = [case.states[0].kind for case in source_cases(result, [("a", None)])]
    assert set(kinds) == {"found"}


def test_queries_stand_by_their_gain_for_what_the_advice_goes_by() -> None:
    result = reranker_test(3.0)
    choices = query_choices(result)
    assert choices == [(MODEL, FIRST), (FUSED, FIRST), (MODEL, "baseline")]
    same = [replace(one, values=dict.fromkeys(one.values, 0.5) | {"baseline": 0.0}) for one in result.examples]
    assert query_choices(replace(result, examples=same))[0] == (MODEL, "baseline")  # where there is something to read
    listed = query_cases(result, choices)
    assert len(listed) == len(result.examples) > 5
    gains = [case.source.values[MODEL] - case.source.values[FIRST] for case in listed]
    won, lost = [gain for gain in gains if gain > 0], [gain for gain in gains if gain < 0]
    assert gains == [*sorted(won, reverse=True), *sorted(lost), *[0.0] * (len(gains) - len(won) - len(lost))]
    assert (listed[0].states[0].kind, listed[0].states[0].text) == ("win", f"{gains[0]:+.2f}")
