"""Which failures end the run, with which line, and which only a question."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from endpoint import ScriptedEndpoint, canned
from llm_teacher import ANSWER, KEY, KEYS, QUICK, ROMANS, completion_of, documents, extract_all, traceback_of, use
from utils.errors import RunError
from utils.schema import BridgeEntity
from utils.teachers.base import TeacherError
from utils.teachers.ledger import Ledger


def test_refusing_every_request_ends_the_run(cache: Path) -> None:
    endpoint = ScriptedEndpoint(canned, latency=0.01)
    endpoint.turn_away = lambda _: (400, {"error": {"message": f"not today, {KEY}"}})
    with endpoint:
        results = use(endpoint, cache, extract_all(documents(64)), params={"temperature": 0, "max_tokens": 9})
    errors = [result for result in results if isinstance(result, RunError)]
    assert "not today, [key]; fix generator_model, generation_params or openai_setting" in str(errors[0])
    assert len(errors) > 50
    assert len(endpoint.seen) <= 25


@pytest.mark.parametrize(
    ("refusal", "words", "most"),
    [
        (
            (502, b"<html><head><title>502 Bad Gateway</title></head></html>"),
            "502: an HTML page, '502 Bad Gateway'",
            15,
        ),
        ((503, {"error": {"message": "the model is loading"}}), "the model is loading", 15),
        ((500, {"error": {"message": "out of memory"}}), "out of memory", 20),
        ((403, {"error": {"message": f"project x may not use it ({KEY})"}}), r"project x may not use it ([key])", 4),
        ((401, {"error": {"message": "the token has expired"}}), "the token has expired", 4),
        ((200, {"error": {"message": "no provider", "code": 502}}), "no provider", 20),
        ((429, {"error": {"message": "9 requests per day"}}), "out of quota (9 requests per day)", 4),
        ((200, b"<title>Portal</title><html>"), "no chat completion", 12),
        (
            (301, {}, {"Location": "/v1/elsewhere/chat/completions?a=b"}),
            "it redirects to /v1/elsewhere/chat/completions)",
            6,
        ),
    ],
)
def test_identical_failures_before_any_reply_end_the_run(cache: Path, refusal: Any, words: str, most: int) -> None:
    endpoint = ScriptedEndpoint(canned, latency=0.01)
    endpoint.turn_away = lambda _: refusal
    with endpoint:
        results = use(endpoint, cache, extract_all(documents(64)))
    error = next(result for result in results if isinstance(result, RunError))
    assert words in str(error)
    assert "openai_setting" in str(error)
    assert "\n" not in str(error)
    assert len(endpoint.seen) <= most


def test_nothing_but_timeouts_ends_the_run(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ScriptedEndpoint(canned, fault=lambda *_: "hang") as endpoint:
        retry = QUICK._replace(warn_after=0.1)
        results = use(endpoint, cache, extract_all(documents(64)), timeout=0.2, retry=retry)
    error = next(result for result in results if isinstance(result, RunError))
    assert "no reply within 0.2 s; raise openai_setting.timeout (0.2 s) or lower --concurrency" in str(error)
    assert len(endpoint.seen) <= 10
    assert [line for line in caplog.messages if "timeout: no reply within 0.2 s (no reply for" in line]


@pytest.mark.parametrize(
    ("message", "finish", "words"),
    [
        (
            {"content": None, "reasoning_content": ANSWER},
            "stop",
            "finish_reason stop, all of it went into the reasoning",
        ),
        ({"content": "", "reasoning": "hm"}, "length", "finish_reason length, all of it went into the reasoning"),
        ({"content": " "}, "length", "no text (finish_reason length)"),
    ],
)
def test_nothing_but_empty_replies_ends_the_run(cache: Path, message: Any, finish: str, words: str) -> None:
    endpoint = ScriptedEndpoint(canned)
    endpoint.body = lambda _: completion_of(**message).replace(b'"stop"', json.dumps(finish).encode())
    ledger = Ledger()
    with endpoint:
        results = use(endpoint, cache, extract_all(documents(64)), ledger)
    error = next(result for result in results if isinstance(result, RunError))
    assert words in str(error)
    assert (
        "raise generation_params.max_tokens, or turn off the model's thinking or the server's reasoning parser"
        in str(error)
    )
    assert len(endpoint.seen) <= 10
    assert ledger.tokens_out == 5 * len(endpoint.seen)  # each was paid for


def test_nothing_but_withheld_replies_ends_the_run(cache: Path) -> None:
    endpoint = ScriptedEndpoint(canned)
    endpoint.body = lambda _: completion_of(refusal="I would rather not")
    with endpoint:
        results = use(endpoint, cache, extract_all(documents(64)))
    error = next(result for result in results if isinstance(result, RunError))
    assert "refused: no text (finish_reason refusal); fix generator_model" in str(error)
    assert len(endpoint.seen) <= 16


def test_short_outage_does_not_end_the_run(cache: Path) -> None:
    """Once there have been replies, identical failures end the run only after ``max_outage`` seconds."""
    endpoint = ScriptedEndpoint(canned)
    endpoint.turn_away = lambda number: (503, {"error": "gone"}) if 3 < number < 120 else None
    retry = QUICK._replace(max_outage=60.0)
    with endpoint:
        results = use(endpoint, cache, extract_all(documents(20)), retry=retry._replace(max_in_flight=1))
    assert {type(result) for result in results} == {BridgeEntity, TeacherError}
    with ScriptedEndpoint(canned, fault=lambda *_: "500", port=endpoint.port) as endpoint:
        # What an earlier run has got says that the endpoint works, and that only a few questions do not.
        results = use(endpoint, cache, extract_all(documents(20)), retry=retry._replace(max_in_flight=1))
    assert {type(result) for result in results} == {BridgeEntity, TeacherError}


def test_lasting_outage_ends_the_run(cache: Path) -> None:
    endpoint = ScriptedEndpoint(canned)
    endpoint.turn_away = lambda number: (503, {"error": "gone"}) if number > 3 else None
    with endpoint:
        results = use(
            endpoint, cache, extract_all(documents(64)), retry=QUICK._replace(max_outage=0.1, max_in_flight=4)
        )
    assert any(isinstance(result, RunError) and "gone; check the endpoint" in str(result) for result in results)


def test_address_without_a_path_gets_a_hint_at_v1(cache: Path) -> None:
    endpoint = ScriptedEndpoint(canned)
    endpoint.turn_away = lambda _: (404, b"not found")
    with endpoint:
        (error,) = use(endpoint.url.removesuffix("/v1"), cache, extract_all([ROMANS]))
    assert "(404: not found); fix generator_model or openai_setting.base_url, which usually ends in /v1" in str(error)


@pytest.mark.parametrize(
    ("server", "change", "remedy"),
    [
        ({"keys": ["another"]}, {}, "openai_setting.api_key"),
        ({"keys": [KEYS[0]]}, {"api_keys": KEYS}, r"openai_setting.api_keys \(no. 2\)"),
        ({"models": ["big"]}, {}, "generator_model or openai_setting.base_url"),
        ({"models": ["big"]}, {"model_key": "entity_extractor_model"}, "entity_extractor_model"),
        ({"spent_keys": KEYS}, {"api_keys": KEYS}, "every API key of openai_setting is out of quota"),
    ],
)
def test_what_only_the_user_can_fix_ends_the_run(cache: Path, server: Any, change: Any, remedy: str) -> None:
    with ScriptedEndpoint(canned, **server) as endpoint:
        results = use(endpoint, cache, extract_all(documents(30)), retry=QUICK._replace(max_in_flight=4), **change)
        errors = [result for result in results if isinstance(result, RunError)]
        assert len(errors) >= 27  # all but those on their way with the other key
        assert len(endpoint.seen) <= 4 + len(KEYS)  # nobody burns through the corpus
    message = str(errors[0])
    assert re.search(remedy, message)
    assert all(part in message for part in ("openai", "small", endpoint.url))
    assert "\n" not in message
    assert not any(key[:10] in traceback_of(error) for error in errors for key in KEYS)


def test_unreachable_host_ends_the_run_at_the_first_calls(cache: Path) -> None:
    (error,) = use("http://user:secret-word@127.0.0.1:9/v1", cache, extract_all([ROMANS]))
    assert isinstance(error, RunError)
    assert "cannot be reached" in str(error)
    assert "openai_setting.base_url" in str(error)
    assert "secret-word" not in traceback_of(error)


def test_address_without_a_chat_api_ends_the_run(cache: Path) -> None:
    with ScriptedEndpoint(canned, fault=lambda *_: "html") as endpoint:
        (error,) = use(endpoint, cache, extract_all([ROMANS]))
    assert isinstance(error, RunError)
    assert "no chat completion" in str(error)


def test_403_with_a_working_key_fails_its_question_only(cache: Path) -> None:
    """A 403 for a key that works is about the question."""
    with ScriptedEndpoint(canned, fault=lambda *_: None) as endpoint:
        endpoint.fault = lambda *_: "403" if len(endpoint.seen) == 1 else None
        results = use(endpoint, cache, extract_all(documents(4)), retry=QUICK._replace(max_in_flight=1))
    assert [type(result) for result in results] == [BridgeEntity, TeacherError, BridgeEntity, BridgeEntity]


def test_refused_key_names_the_account_in_the_environment(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-somebody-else")
    with ScriptedEndpoint(canned, keys=["another"]) as endpoint:
        (error,) = use(endpoint, cache, extract_all([ROMANS]))
    assert isinstance(error, RunError)
    assert "fix openai_setting.api_key, or OPENAI_ORG_ID in the environment" in str(error)


@pytest.mark.parametrize("message", ["flagged", "Your chosen model requires moderation and the input was flagged", ""])
def test_first_403_without_a_clear_reason_is_retried(cache: Path, message: str) -> None:
    endpoint = ScriptedEndpoint(canned)
    endpoint.turn_away = lambda number: (403, {"error": {"message": message}}) if number < 3 else None
    with endpoint:
        results = use(endpoint, cache, extract_all(documents(3)))
    assert all(isinstance(result, BridgeEntity) for result in results)


def test_nothing_but_unclear_403s_ends_the_run(cache: Path) -> None:
    endpoint = ScriptedEndpoint(canned, latency=0.01)
    endpoint.turn_away = lambda _: (403, b"<html><title>Attention Required!</title></html>")
    with endpoint:
        results = use(endpoint, cache, extract_all(documents(64)))
    error = next(result for result in results if isinstance(result, RunError))
    assert "an HTML page, 'Attention Required!'; fix openai_setting.api_key or generator_model" in str(error)
    assert len(endpoint.seen) <= 16
