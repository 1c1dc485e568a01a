"""Calls, tokens and cost are counted, and limits hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from endpoint import ScriptedEndpoint, canned
from llm_teacher import QUICK, ROMANS, documents, extract_all, use
from utils.errors import InputError
from utils.schema import BridgeEntity
from utils.teachers.ledger import BudgetSpent, Ledger, Price


def test_call_limit_keeps_what_was_paid_for(cache: Path) -> None:
    docs, ledger = documents(20), Ledger(max_calls=7)
    with ScriptedEndpoint(canned, latency=0.02) as endpoint:
        results = use(endpoint, cache, extract_all(docs), ledger)
        assert sum(isinstance(result, BudgetSpent) for result in results) == 13
        assert len(endpoint.seen) == ledger.calls == 7
        rest = use(endpoint, cache, extract_all(docs))
        assert all(isinstance(entity, BridgeEntity) for entity in rest)
        assert len(endpoint.seen) == 20


def test_cost_is_counted_and_limited(tmp_path: Path) -> None:
    docs, price, free = documents(30), Price(input=2.0, output=10.0), Ledger()
    with ScriptedEndpoint(canned, latency=0.02) as endpoint:
        use(endpoint, tmp_path / "all.sqlite", extract_all(docs), free, price=price)
        cost = free.cost
        assert cost == pytest.approx((free.tokens_in * 2 + free.tokens_out * 10) / 1e6)
        half = Ledger(max_cost=cost / 2)
        results = use(
            endpoint,
            tmp_path / "half.sqlite",
            extract_all(docs),
            half,
            price=price,
            retry=QUICK._replace(max_in_flight=4),
        )
        assert 0.3 * cost < half.cost <= cost / 2
        assert any(isinstance(result, BudgetSpent) for result in results)
        with pytest.raises(InputError, match="add it to price_per_million_tokens"):
            use(endpoint, tmp_path / "none.sqlite", extract_all(docs), Ledger(max_cost=1.0))


def test_unreported_tokens_are_estimated(cache: Path) -> None:
    ledger = Ledger()
    with ScriptedEndpoint(canned, usage=False) as endpoint:
        use(endpoint, cache, lambda t: t.extract(ROMANS), ledger)
    summary = ledger.summary()
    assert summary["replies_without_usage"] == 1
    assert summary["tokens_in"] > 300
    assert summary["cost"] is None


def test_no_count_makes_a_limit_on_cost_unreachable() -> None:
    price = Price(1e6, 1e6)
    assert price.of(-5, -5) == 0
    for limit in (-1, -(10**9), "4096", None, 1.5):  # of the configuration
        assert Ledger().expected_cost("m", price, 400, limit) == 100 + 300
    ledger = Ledger(max_cost=10)
    ledger.admit(1.0)
    ledger.settle("m", price, -1000, 5, 1.0)  # as a damaged cache may say
    with pytest.raises(BudgetSpent):
        ledger.admit(6.0)


def test_impossible_token_counts_are_told_once(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ScriptedEndpoint(canned, usage=False) as endpoint:
        use(endpoint, cache, extract_all(documents(5)), Ledger(), price=Price(1.0, 1.0))
    assert sum("four characters a token" in message for message in caplog.messages) == 1
