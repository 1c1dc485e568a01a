"""The client retries a question, but not forever."""

from __future__ import annotations

from pathlib import Path

from endpoint import ScriptedEndpoint, canned
from llm_teacher import KEY, QUICK, ROMANS, extract_all, traceback_of, use
from utils.teachers.base import TeacherError
from utils.teachers.ledger import Ledger


def test_lasting_fault_fails_a_question_after_bounded_tries(cache: Path) -> None:
    ledger = Ledger()
    with ScriptedEndpoint(canned, fault=lambda *_: "500") as endpoint:
        (error,) = use(endpoint, cache, extract_all([ROMANS]), ledger)
    assert isinstance(error, TeacherError)
    assert KEY not in traceback_of(error)  # which the endpoint had quoted
    learning = 4  # without a schema, a format, a system message, all three
    assert len(endpoint.seen) == QUICK.tries + learning
    assert (ledger.retries, ledger.failures) == ({"server_error": 5 + learning}, {"server_error": 1})
