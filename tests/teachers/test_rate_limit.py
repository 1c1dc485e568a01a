"""Rate limits are waited out, and keys take turns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from endpoint import ScriptedEndpoint, canned
from llm_teacher import KEYS, QUICK, ROMANS, documents, extract_all, use
from utils.errors import RunError
from utils.schema import BridgeEntity
from utils.teachers.base import TeacherError
from utils.teachers.ledger import Ledger


def once(kind: str) -> Callable[[str, int], str | None]:
    """Return a fault that hits only the first request."""
    left = [kind]
    return lambda *_: left.pop() if left else None


def test_retry_after_holds_back_all_requests(cache: Path) -> None:
    """A rate limit of one request holds back the others, too."""
    slow = once("429")
    with ScriptedEndpoint(canned, fault=slow, retry_after="0.4", latency=0.05) as endpoint:
        use(endpoint, cache, extract_all(documents(20)), retry=QUICK._replace(max_in_flight=4))
    first = endpoint.seen[0].arrived
    waited = [request.arrived - first for request in endpoint.seen]
    assert len([wait for wait in waited if wait < 0.4]) <= 4 + 3  # on their way when it said so
    assert len(endpoint.seen) == 21


def test_rate_limit_is_waited_out(cache: Path) -> None:
    """Far more 429s than tries, yet no question fails: the endpoint serves only two at once."""
    endpoint = ScriptedEndpoint(canned, latency=0.01, retry_after="0.01")
    endpoint.fault = lambda *_: "429" if endpoint.in_flight > 2 else None
    ledger = Ledger()
    with endpoint:
        entities = use(endpoint, cache, extract_all(documents(80)), ledger)
    assert all(isinstance(entity, BridgeEntity) for entity in entities)
    assert ledger.calls == 80
    assert not ledger.failures


def test_endless_rate_limit_ends_the_run(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    retry = QUICK._replace(max_rate_limited=0.3, warn_after=0.0, warn_every=0.1)
    with ScriptedEndpoint(canned, fault=lambda *_: "429", retry_after=None) as endpoint:
        (error,) = use(endpoint, cache, extract_all([ROMANS]), retry=retry)
        assert isinstance(error, RunError)
        assert "nothing but rate limit 429: Slow down." in str(error)
        assert any("rate limit 429: Slow down. (no reply for" in line for line in caplog.messages)

        # What is too much for the limit on its own is that question's error, while others get through.
        tall = documents(1)[0]._replace(contents="much " * 99)
        endpoint.fault = None
        large = ScriptedEndpoint(canned, latency=0.02, retry_after="0.01")
    large.fault = lambda question, _: "429" if large.large == question else None
    with large:
        large.large = ""
        use(large, cache, extract_all([tall]))
        large.large = large.seen[0].question
        cache.unlink()
        results = use(large, cache, extract_all([tall, *documents(40)]), retry=retry._replace(max_in_flight=1))
    assert [type(result) for result in results] == [TeacherError] + [BridgeEntity] * 40


def test_retry_after_of_a_day_ends_the_run(cache: Path) -> None:
    with ScriptedEndpoint(canned, fault=lambda *_: "429", retry_after="86400") as endpoint:
        (error,) = use(endpoint, cache, extract_all([ROMANS]))
    assert isinstance(error, RunError)
    assert "86400 s" in str(error)


def test_keys_rotate_and_spent_ones_are_suspended(cache: Path) -> None:
    with ScriptedEndpoint(canned) as endpoint:
        use(endpoint, cache, extract_all(documents(10)), api_keys=KEYS)
        assert [request.key for request in endpoint.seen].count(KEYS[0]) == 5
    ledger = Ledger()
    with ScriptedEndpoint(canned, spent_keys=[KEYS[1]]) as endpoint:
        use(
            endpoint,
            cache,
            extract_all(documents(10)),
            ledger,
            api_keys=KEYS,
            retry=QUICK._replace(max_in_flight=1),
            model="other",
        )
        assert [request.key for request in endpoint.seen].count(KEYS[1]) == 1
    assert (ledger.calls, ledger.retries) == (10, {"quota": 1})
