"""The generator's figures and its explanation of nothing, by hand."""

from __future__ import annotations

from utils.errors import RunError
from utils.labelling.judging import Stop
from utils.labelling.record import ARM, JudgedSource, Trial
from utils.labelling.summary import explain_none, summarize
from utils.schema import BridgeEntity, Outcome, Verdict
from utils.teachers.ledger import Ledger, Price

USABLE, UNUSABLE, ERROR = (Verdict(outcome, f"it is {outcome}") for outcome in Outcome)


def judged(*verdicts: Verdict) -> JudgedSource:
    return JudgedSource("0", BridgeEntity("e", "", "", "q"), {ARM: Trial(list("123"), list(verdicts))})


def test_summary_by_hand() -> None:
    rows = [judged(UNUSABLE, USABLE), judged(UNUSABLE, ERROR, UNUSABLE), JudgedSource("1", None, {})]
    ledger = Ledger()
    assert summarize(rows, Stop("done"), 1.234, ledger) == {
        "stopped because": "done",
        "finished": True,
        "sources tried": 3,
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


def test_what_gave_nothing_is_explained_with_a_remedy() -> None:
    assert "lower --min_length, or use more documents" in explain_none([])
    assert "--max_doc_candidates" in explain_none([judged(UNUSABLE)])
    text = explain_none([JudgedSource("1", None, {}), judged(UNUSABLE), judged(USABLE), judged(USABLE)])
    assert text.startswith("no example was made of 4 sources (no negative 2, no entity 1, no positive 1)")
    assert "last replies: usable (it is usable), unusable (it is unusable)" in text
    assert "does the judge accept everything?" in text
