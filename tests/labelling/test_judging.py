"""The loop: when a run stops, and what a failure leaves."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from labelling_support import SlowTeacher, run
from utils.errors import Interrupted, RunError
from utils.labelling import judging
from utils.labelling.judging import run_to_stop
from utils.retrieval.retriever import Retriever
from utils.schema import BridgeEntity, Document, Outcome, Verdict
from utils.teachers.ledger import BudgetSpent
from utils.teachers.offline import OfflineTeacher

ERROR = Verdict(Outcome.ERROR, "")


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
    assert teacher.forgotten == 4  # at the start, and at the end, too, so that the next run asks again
    teacher.broken = set()  # fixed
    run(retriever, teacher, path, concurrency=4)
    whole = tmp_path / "whole.jsonl"
    run(retriever, OfflineTeacher(retriever.corpus), whole)
    assert path.read_bytes() == whole.read_bytes()


def test_sources_without_any_result_end_the_run(retriever: Retriever, tmp_path: Path) -> None:
    class Nothing(SlowTeacher):
        async def extract(self, document: Document, turn: int = 0) -> None:
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
