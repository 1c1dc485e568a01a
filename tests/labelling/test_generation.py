"""The generator: when it stops, and what becomes an example."""

from __future__ import annotations

from pathlib import Path

import pytest

from labelling_support import run
from utils.labelling.generation import labelled_examples
from utils.retrieval.retriever import Retriever
from utils.schema import Outcome
from utils.teachers.offline import OfflineTeacher


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
