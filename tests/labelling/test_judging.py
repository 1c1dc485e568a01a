"""The loop: when a list and a run stop, what a failure leaves, and what is asked."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from labelling_support import SlowTeacher, run
from utils.errors import Interrupted, RunError
from utils.labelling import judging
from utils.labelling.judging import enough_of_each, first_usable, judge_lists, run_to_stop
from utils.retrieval.retriever import Retriever
from utils.schema import BridgeEntity, Candidate, Document, Outcome, Verdict
from utils.teachers.ledger import BudgetSpent
from utils.teachers.offline import OfflineTeacher

USABLE, UNUSABLE, ERROR = (Verdict(outcome, "") for outcome in Outcome)


def test_stopping_rules_by_hand() -> None:
    assert [first_usable(verdicts) for verdicts in ([], [UNUSABLE], [UNUSABLE, USABLE], [ERROR])] == [0, 0, 1, 1]
    rule = enough_of_each(1, 2)
    assert not any(map(rule, ([], [USABLE] * 3, [UNUSABLE] * 3, [USABLE, UNUSABLE, ERROR])))
    assert rule([UNUSABLE, ERROR, UNUSABLE, USABLE])


def test_a_candidate_of_several_lists_is_judged_once_and_a_known_one_not_at_all() -> None:
    asked = []

    class Teacher(SlowTeacher):
        async def judge(self, entity: BridgeEntity, candidate: Document) -> Verdict:
            asked.append(candidate.id)
            return USABLE if candidate.id == "4" else UNUSABLE

    lists = {name: [Candidate(Document(i, "", i), 0.0) for i in ids] for name, ids in (("a", "124"), ("b", "31245"))}
    known = {"1": UNUSABLE}
    entity = BridgeEntity("e", "", "", "q")
    trials = asyncio.run(judge_lists(entity, lists, Teacher([]), first_usable, known))
    assert sorted(asked) == ["2", "3", "4"]
    assert trials["a"].verdicts == [UNUSABLE, UNUSABLE, USABLE]
    assert (trials["b"].retrieved, trials["b"].attempts) == (list("31245"), 4)


def test_error_is_never_evidence(retriever: Retriever, tmp_path: Path) -> None:
    class Failing(SlowTeacher):
        async def judge(self, entity: BridgeEntity, candidate: Document) -> Verdict:
            verdict = await self.inner.judge(entity, candidate)
            return verdict if verdict.outcome is Outcome.USABLE else ERROR

    teacher = Failing(retriever.corpus)
    teacher.broken = {"1", "2"}
    stopped, journal = run(retriever, teacher, tmp_path / "p.jsonl")
    outcomes = {row.source: row.outcome for row in journal.rows}
    assert stopped == "no source is left"
    assert outcomes["1"] == outcomes["2"] == "error"
    assert "example" not in outcomes.values()


def test_fatal_error_ends_the_run(retriever: Retriever, tmp_path: Path) -> None:
    class Refused(SlowTeacher):
        async def judge(self, entity: BridgeEntity, candidate: Document) -> Verdict:
            raise RunError("wrong key")

    with pytest.raises(RunError, match="wrong key"):
        run(retriever, Refused(retriever.corpus), tmp_path / "p.jsonl", concurrency=8)


def test_lasting_failure_pauses_then_ends_without_a_row(
    retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "PAUSES", (0.01, 0.01))
    monkeypatch.setattr(judging, "MAX_UNANSWERED", 4)
    teacher, path = SlowTeacher(retriever.corpus), tmp_path / "p.jsonl"
    order = [document.id for document in retriever.corpus.sample(random.Random(1))]
    teacher.broken = set(order[6:])
    with pytest.raises(RunError, match="no usable reply for 4 sources in a row"):
        run(retriever, teacher, path, concurrency=4)
    assert teacher.forgotten == 3  # at the end, too, so that the next run asks again
    teacher.broken = set()  # fixed
    run(retriever, teacher, path, concurrency=4)
    whole = tmp_path / "whole.jsonl"
    run(retriever, OfflineTeacher(retriever.corpus), whole)
    assert path.read_bytes() == whole.read_bytes()


def test_sources_without_any_result_end_the_run(retriever: Retriever, tmp_path: Path) -> None:
    class Nothing(SlowTeacher):
        async def extract(self, document: Document) -> None:
            return None

    with pytest.raises(RunError, match=r"no example was made of 5 sources \(no entity 5\).*raise --give_up_after"):
        run(retriever, Nothing(retriever.corpus), tmp_path / "p.jsonl", give_up_after=5)


def test_a_budget_that_is_reached_says_how_to_resume() -> None:
    def spent() -> str:
        raise BudgetSpent("the limit is reached")

    def interrupted() -> str:
        raise Interrupted("interrupted")

    stop = run_to_stop(spent, "python script.py --num 3")
    assert stop.reason == "the limit is reached"
    assert isinstance(stop.failure, BudgetSpent)
    assert str(stop.failure).endswith("To resume: python script.py --num 3")
    assert stop.failure.exit_code == 1
    assert isinstance(run_to_stop(interrupted, "").failure, Interrupted)
    assert run_to_stop(lambda: "done", "").failure is None
