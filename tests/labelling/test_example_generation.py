"""The generator: when it stops, what becomes an example, its figures, and files that are never overwritten."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from labelling_support import pipeline_of, run
from utils.config import load_config
from utils.errors import RunError
from utils.labelling.example_generation import (
    Target,
    count_calls,
    explain_none,
    generate,
    labelled_examples,
    plan,
    summarize,
)
from utils.labelling.journal import open_journal
from utils.labelling.judging import Stop
from utils.labelling.record import ARM, JudgedSource, Trial
from utils.labelling.setup import Setup
from utils.retrieval.retriever import Retriever
from utils.schema import BridgeEntity, Outcome, Verdict
from utils.teachers.ledger import Ledger, Price
from utils.teachers.offline import OfflineTeacher

USABLE, UNUSABLE, ERROR = (Verdict(outcome, f"it is {outcome}") for outcome in Outcome)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"num": 3}, "all examples were made"),
        ({"num": 99}, "no source is left"),
        ({"num": 99, "max_attempts": 7}, "7 sources were tried"),
    ],
)
def test_loop_is_bounded_and_says_why_it_stopped(
    retriever: Retriever, tmp_path: Path, limits: dict[str, int], reason: str
) -> None:
    stopped, journal = run(retriever, OfflineTeacher(retriever.corpus), tmp_path / "p.jsonl", **limits)
    assert stopped == reason
    examples = sum(row.outcome == "example" for row in journal.rows)
    assert examples == 3 if limits["num"] == 3 else examples > 3 or len(journal.rows) == 7


def test_judging_stops_with_one_of_each_and_makes_the_example(retriever: Retriever, tmp_path: Path) -> None:
    _, journal = run(retriever, OfflineTeacher(retriever.corpus), tmp_path / "p.jsonl")
    made = []
    for row in journal.rows:
        outcomes = [verdict.outcome for verdict in row.all_verdicts]
        example = row.example(retriever.corpus)
        if example:
            made.append(example)
            assert outcomes.count(outcomes[-1]) == 1  # the last was the first of its kind
            assert example.pos == [retriever.corpus.get(i).text for i in row.ids(Outcome.USABLE)]
            assert example.neg == [retriever.corpus.get(i).text for i in row.ids(Outcome.UNUSABLE)]
        assert all(row.source not in trial.retrieved for trial in row.trials.values())
    assert [one.example for one in labelled_examples(journal.rows, retriever.corpus)] == made != []


def test_more_of_a_source_is_judged_within_its_budget(retriever: Retriever, tmp_path: Path) -> None:
    def judged(target: Target) -> list[list[Outcome]]:
        name = f"{target.negatives}-{target.max_judged}.jsonl"
        pipeline = pipeline_of(retriever, OfflineTeacher(retriever.corpus))
        with open_journal(tmp_path / name, {}) as journal:
            asyncio.run(generate(pipeline, target, journal))
            return [[verdict.outcome for verdict in row.all_verdicts] for row in journal.rows]

    one, more, bounded = (judged(Target(99, 1, *limits)) for limits in ((1,), (3,), (3, None, 3)))
    assert sum(map(len, one)) < sum(map(len, more))
    assert bounded == [verdicts[:3] for verdicts in more]  # from the top of the same lists
    assert any(verdicts.count(Outcome.UNUSABLE) > 1 for verdicts in bounded)


def test_calls_by_hand(config_file: Path) -> None:
    target = Target(examples=10)
    assert count_calls(target, 4, sources=1000, windows=1, most=None) == (20 * (1 + 3), 1000 * (1 + 4) * 3)
    assert count_calls(Target(10, max_attempts=5), 4, 1000, 2, None)[1] == 5 * (1 + 4) * 2 * 3
    assert count_calls(target, 2, 8, 1, None)[0] == 8 * (1 + 2)
    assert count_calls(target, 4, 1000, 1, 30) == (30, 30)
    assert count_calls(Target(10, 1, 5), 10, 1000, 1, None)[0] == 20 * (1 + 6)
    assert count_calls(Target(10, 1, 5, max_judged=4), 10, 1000, 1, None) == (20 * (1 + 4), 1000 * (1 + 4) * 3)
    setup = Setup(load_config(config_file), None, 0, 4, Path("r.sqlite"), Ledger(30))
    sources = len(setup.corpus)
    expected = f"10 examples from up to {sources} sources: about 30 calls expected, 30 at most (expected at the rate of"
    assert plan(setup, target).startswith(expected)


def test_the_first_examples_are_shown_as_they_come(
    retriever: Retriever, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    _, journal = run(retriever, OfflineTeacher(retriever.corpus), tmp_path / "j.jsonl", num=5)
    made = [one for row in journal.rows if (one := row.example(retriever.corpus))]
    shown = [text for record in caplog.records if (text := record.getMessage()).startswith("example ")]
    assert len(made) == 5
    assert len(shown) == 3
    for number, (text, one) in enumerate(zip(shown, made, strict=False), 1):
        query, pos, neg = text.split("\n")
        assert query == f"example {number}: {one.query}"
        assert pos.startswith(f"  pos: {' '.join(one.pos[0].split())[:40]}")
        assert neg.startswith(f"  neg: {' '.join(one.neg[0].split())[:40]}")


def judged(*verdicts: Verdict) -> JudgedSource:
    return JudgedSource("0", BridgeEntity("e", "", "", "q"), {ARM: Trial(list("123"), list(verdicts))})


def test_summary_by_hand() -> None:
    rows = [judged(UNUSABLE, USABLE), judged(UNUSABLE, ERROR, UNUSABLE), JudgedSource("1", None, {})]
    ledger = Ledger()
    assert summarize(rows, Stop("done"), 1.234, ledger) == {
        "stopped because": "done",
        "finished": True,
        "sources tried": 2,
        "examples": 1,
        "sources by outcome": {"error": 1, "example": 1, "no entity": 1},
        "verdicts": {"error": 1, "unusable": 3, "usable": 1},
        "seconds": 1.2,
    }
    price = Price(1e6, 0.0)
    ledger.admit()
    ledger.settle("m", price, 3, 0, 0.0)
    found = summarize([judged(UNUSABLE, USABLE)] * 2, Stop("limit", RunError("limit")), 0.0, ledger)
    assert (found["finished"], found["calls"], found["cost_per_example"]) == (False, 1, 1.5)


def test_a_resumed_run_counts_on() -> None:
    ledger, price, rows = Ledger(), Price(1, 2), [judged(UNUSABLE, USABLE)]
    for tokens in (500_000, 300_000):
        ledger.admit()
        ledger.settle("m", price, tokens, 0, 0.0)
    first = summarize(rows, Stop("limit", RunError("limit")), 1.0, ledger)
    second = Ledger()
    second.admit()
    second.settle("m", price, 0, 600_000, 0.0)
    second.failures["empty"] += 1
    both = summarize(rows, Stop("done"), 1.0, second, first)
    assert (both["calls"], both["tokens_in"], both["tokens_out"], both["cost"]) == (3, 800_000, 600_000, 2.0)
    assert both["by_model"]["m"] == {
        "calls": 3, "tokens_in": 800_000, "tokens_out": 600_000, "cost": 2.0, "longest_reply": 600_000,
    }  # fmt: skip
    assert (both["failures"], both["cost_per_example"], both["finished"]) == ({"empty": 1}, 2.0, True)
    assert (first["seconds"], both["seconds"]) == (1.0, 2.0)
    assert summarize(rows, Stop("done"), 1.0, Ledger(), both)["calls"] == 3
    unpriced = Ledger()
    unpriced.admit()
    unpriced.settle("other", None, 1, 1, 0.0)
    assert summarize(rows, Stop("done"), 1.0, unpriced, both)["cost"] is None


def test_what_answers_a_query_for_one_source_is_no_negative_of_it_for_another(retriever: Retriever) -> None:
    def source(number: int, query: str, *verdicts: Verdict) -> JudgedSource:
        trial = Trial([retriever.corpus[row].id for row in (10, 15, 20)], list(verdicts))
        return JudgedSource(retriever.corpus[number].id, BridgeEntity("e", "", "", query), {ARM: trial})

    text = [retriever.corpus[row].text for row in (10, 15, 20)]
    rows = [source(1, "q", USABLE, UNUSABLE, UNUSABLE), source(2, " Q", UNUSABLE, USABLE)]
    (made,) = labelled_examples(rows, retriever.corpus)  # the second row's only negative answers its query
    assert (made.example.pos, made.example.neg) == ([text[0]], [text[2]])
    assert len(labelled_examples([rows[0], source(2, "p", UNUSABLE, USABLE)], retriever.corpus)) == 2


def test_what_gave_nothing_is_explained_with_a_remedy() -> None:
    assert "lower --min_length, or use more documents" in explain_none([])
    assert "--max_doc_candidates" in explain_none([judged(UNUSABLE)])
    text = explain_none([JudgedSource("1", None, {}), judged(UNUSABLE), judged(USABLE), judged(USABLE)])
    assert text.startswith("no example was made of 4 sources (no negative 2, no entity 1, no positive 1)")
    assert "last replies: usable (it is usable), unusable (it is unusable)" in text
    assert "does the judge accept everything?" in text
