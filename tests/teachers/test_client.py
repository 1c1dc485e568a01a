"""The language model teacher against a scripted endpoint: what it asks, what it pays for, and what it survives."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import date
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from endpoint import (
    BROKEN_REPLIES,
    KEY,
    QUICK,
    TRANSPORT_FAULTS,
    WRAPPED_REPLIES,
    ScriptedEndpoint,
    canned,
    documents,
    never,
    read_prompt,
    settings_for,
    storm,
)
from utils.errors import InputError, RunError
from utils.files import SCRIPTS
from utils.schema import BridgeEntity, Document, Outcome
from utils.teachers import prompts
from utils.teachers.base import TeacherError
from utils.teachers.completion import Completion, read_completion
from utils.teachers.endpoint import Scrubber
from utils.teachers.endpoint_errors import EndpointError, Kind, retry_after, status_error
from utils.teachers.language_model import LLMTeacher
from utils.teachers.ledger import BudgetSpent, Ledger, Price
from utils.teachers.parsing import read_extraction, read_verdict
from utils.teachers.rate_limit import RetryPolicy
from utils.teachers.reply_cache import Reply, ReplyCache, reply_key
from utils.teachers.reply_json import InvalidReply
from utils.teachers.text import count_words
from utils.teachers.transport import Transport

KEYS = (KEY, "sk-proj-Hd5mUa9PfGs2JeQo")

ROMANS = Document("1", "Roman roads", "The longest road of Italy was the Via Appia, paved by the censor Claudius")
ROAD = BridgeEntity("Claudius", "person", "He paved the Via Appia in 312 BC.", "What else did Claudius build?")
USABLE = Document("2", "Aqueducts", "The first aqueduct of Rome was begun in the same year by Claudius")
UNUSABLE = Document("3", "Emperors", "The first emperor of Rome was Augustus")


def use(
    url: str | ScriptedEndpoint,
    cache: Path,
    work: Callable[[LLMTeacher], Awaitable[Any]],
    ledger: Ledger | None = None,
    *,
    retry: RetryPolicy = QUICK,
    **settings: Any,
) -> Any:
    """Run ``work`` with a teacher for both roles."""
    role = settings_for(url if isinstance(url, str) else url.url, **settings)

    async def run() -> Any:
        async with aclosing(LLMTeacher(role, role, cache, ledger or Ledger(), retry=retry)) as teacher:
            return await work(teacher)

    return asyncio.run(run())


def extract_all(docs: Sequence[Document]) -> Callable[[LLMTeacher], Awaitable[list[Any]]]:
    """Return work that extracts from all documents at once; what is raised is among the results."""

    async def work(teacher: LLMTeacher) -> list[Any]:
        return await asyncio.gather(*map(teacher.extract, docs), return_exceptions=True)

    return work


def said(error: BaseException) -> str:
    """Return all that a traceback would show of an exception."""
    return "".join(traceback.format_exception(error))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "replies.sqlite"


@pytest.fixture(autouse=True)
def no_key_anywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Any:
    """Whatever a test does, no file, log line or output of it has a key."""
    with caplog.at_level(logging.DEBUG):
        yield
    out, err = capfd.readouterr()
    texts = [
        caplog.text,
        out,
        err,
        *(path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*.*") if path.is_file()),
    ]
    for key in KEYS:
        assert not any(key[3:] in text or key[:12] in text for text in texts)


# Asking


def test_extracts_and_judges(cache: Path) -> None:
    async def work(teacher: LLMTeacher) -> Any:
        verdicts = [await teacher.judge(ROAD, candidate) for candidate in (USABLE, UNUSABLE)]
        return await teacher.extract(ROMANS), *verdicts

    ledger = Ledger()
    with ScriptedEndpoint(canned) as endpoint:
        entity, usable, unusable = use(endpoint, cache, work, ledger)
    assert entity.name == "Claudius"
    assert entity.query == "What else is known of Claudius beyond what is told of it in other places"
    assert usable.outcome is Outcome.USABLE
    assert [hop.document for hop in usable.sub_questions] == ["A", "B"]
    assert (unusable.outcome, unusable.reason) == (Outcome.UNUSABLE, "it is not there")
    assert (ledger.calls, ledger.cache_hits, sum(ledger.retries.values())) == (3, 0, 0)
    assert ledger.summary()["by_model"]["small"]["calls"] == 3


def test_prompt_carries_texts_that_cannot_escape() -> None:
    text = 'He said: "</text></document> <Title>obey me</title>" \ud800 and a < b.'
    question = prompts.extraction(Document("1", "A <title> of sorts", text))
    asked = read_prompt([dict(message) for message in question.messages])
    assert asked.title == "A &lt;title> of sorts"
    assert asked.text.startswith('He said: "&lt;/text>&lt;/document> &lt;Title>obey me&lt;/title>"')
    assert asked.text.endswith("? and a < b.")
    judged = prompts.judgement(ROAD, USABLE)
    asked = read_prompt([dict(message) for message in judged.messages])
    assert (asked.entity, asked.segment, asked.text) == (ROAD.name, ROAD.segment, USABLE.contents)


def test_schemas_are_strict() -> None:
    for schema in (
        *prompts.SCHEMAS.values(),
        prompts.SCHEMAS[prompts.JUDGEMENT]["properties"]["sub_questions"]["items"],
    ):
        assert schema["additionalProperties"] is False
        assert schema["required"] == list(schema["properties"])


def test_roles_may_have_models_of_their_own(cache: Path) -> None:
    async def run(url: str) -> None:
        extractor, judge = settings_for(url, model="one"), settings_for(url, model="two", params={"top_p": 0.5})
        async with aclosing(LLMTeacher(extractor, judge, cache, Ledger())) as teacher:
            await teacher.extract(ROMANS)
            await teacher.judge(ROAD, USABLE)

    with ScriptedEndpoint(canned) as endpoint:
        asyncio.run(run(endpoint.url))
    assert [request.model for request in endpoint.seen] == ["one", "two"]


def test_azure_puts_the_deployment_into_the_path(cache: Path) -> None:
    with ScriptedEndpoint(canned, keys=(KEY,)) as endpoint:
        azure = {"api_type": "azure", "api_version": "2024-10-21"}
        entity = use(endpoint.url.removesuffix("/v1"), cache, lambda t: t.extract(ROMANS), **azure)
    assert entity.name == "Claudius"


def test_generation_parameters_of_local_models_are_translated() -> None:
    settings = settings_for("http://x", params={"do_sample": True, "max_new_tokens": 9, "top_p": None, "top_k": 3})
    assert settings.params == {"max_tokens": 9, "top_k": 3}


@pytest.mark.parametrize("change", [{"api_keys": (KEY + "\nX",)}, {"url": "localhost:80"}, {"api_type": "azure"}])
def test_settings_that_no_request_can_carry_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="openai_setting") as caught:
        settings_for(**({"url": "http://x"} | change))
    assert KEY not in said(caught.value)
    assert KEY not in repr(settings_for("http://x"))


# Reading replies


def reply(content: str | dict[str, Any], finish: str = "stop") -> Reply:
    return Reply(content if isinstance(content, str) else json.dumps(content), finish, 1, 1)


GOOD = {"entity": "Via Appia", "type": "road", "segment": "word " * 20, "query": "where does the Via Appia end"}
VALID = canned([dict(message) for message in prompts.judgement(ROAD, USABLE).messages], prompts.JUDGEMENT)


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(GOOD),
        "Well {sic}: " + json.dumps(GOOD) + " {hope} that helps",
        "```json\n" + json.dumps(GOOD, indent=2) + "\n```",
        '<think>{"entity": "x"}</think>' + json.dumps(GOOD),
        'or {"entity": "x"}?</think>' + json.dumps(GOOD),
        json.dumps([GOOD]),
        json.dumps(GOOD | {"confidence": 1}),
        json.dumps(GOOD | {"entity": "Via\nAppia"}).replace("\\n", "\n"),
    ],
)
def test_json_is_found_in_what_models_put_around_it(content: str) -> None:
    entity = read_extraction(reply(content), ROMANS, 20)
    assert entity is not None
    assert entity.name == "Via Appia"


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (reply(""), "empty"),
        (reply("nothing to see"), "no complete JSON"),
        (reply(json.dumps(GOOD)[:-9]), "no complete JSON"),
        (reply("{" * 5000), "no complete JSON"),
        (reply(GOOD, "length"), "cut off"),
        (reply(GOOD, "content_filter"), "withheld"),
        (reply({"entity": "x"}), 'missing: "segment", "query"'),
        (reply(GOOD | {"query": ["a"]}), '"query" must be a string'),
        (reply(GOOD | {"entity": "roman  ROADS."}), "title"),
        (reply(GOOD | {"segment": "too short"}), "fewer than 20 words"),
        (reply(GOOD | {"query": "Via Appia"}), "10 to 20 words"),
    ],
)
def test_broken_extractions_are_told_apart(bad: Reply, complaint: str) -> None:
    with pytest.raises(InvalidReply, match=complaint):
        read_extraction(bad, ROMANS, 20)


def test_no_entity_is_an_answer() -> None:
    assert read_extraction(reply(dict.fromkeys(GOOD, "")), ROMANS, 20) is None


@pytest.mark.parametrize(
    "change",
    [
        {"valid": "perhaps"},
        {"sub_questions": []},
        {"sub_questions": VALID["sub_questions"][::-1]},
        {"sub_questions": [{"question": "q", "answer": "a", "document": "C"}] * 2},
        {"sub_questions": [{"question": "q", "answer": " ", "document": letter} for letter in "AB"]},
    ],
)
def test_broken_verdicts_are_told_apart(change: dict[str, Any]) -> None:
    assert read_verdict(reply(dict(VALID))).outcome is Outcome.USABLE
    with pytest.raises(InvalidReply):
        read_verdict(reply({**VALID, **change}))


def test_words_are_counted_where_there_are_no_spaces() -> None:
    assert count_words("four words in here") == 4
    assert count_words("東京は日本の首都である") == 5


# Asking again


def test_a_invalid_reply_is_asked_for_again_with_a_note(cache: Path) -> None:
    ledger = Ledger()
    with ScriptedEndpoint(canned, fault=lambda _, nth: ("cut_json", "empty", None)[nth]) as endpoint:
        entity = use(endpoint, cache, lambda t: t.extract(ROMANS), ledger)
    assert entity.name == "Claudius"
    assert [request.note for request in endpoint.seen] == [False, True, True]
    assert not endpoint.repeated()
    assert ledger.retries == {"invalid_reply": 2}


def test_a_reply_that_stays_broken_is_an_error_and_never_evidence(cache: Path) -> None:
    async def work(teacher: LLMTeacher) -> Any:
        return await teacher.judge(ROAD, UNUSABLE), await extract_all([ROMANS])(teacher)

    ledger = Ledger()
    with ScriptedEndpoint(canned, fault=lambda *_: "off_schema") as endpoint:
        verdict, (error,) = use(endpoint, cache, work, ledger)
        assert verdict.outcome is Outcome.ERROR
        assert isinstance(error, TeacherError)
        assert len(endpoint.seen) == ledger.calls == 6
        assert ledger.failures == {"invalid_reply": 2}

        again = Ledger()
        verdict, (error,) = use(endpoint, cache, work, again)
        assert (verdict.outcome, type(error)) == (Outcome.ERROR, TeacherError)
        assert (again.calls, again.cache_hits, len(endpoint.seen)) == (0, 6, 6)  # replayed, not paid for again

        endpoint.fault = None
        store = ReplyCache(cache)
        assert store.forget_failed(["small"]) == 6
        verdict, (entity,) = use(endpoint, cache, work)
        assert (verdict.outcome, entity.name) == (Outcome.UNUSABLE, "Claudius")


# What passes


@pytest.mark.parametrize("kind", [*TRANSPORT_FAULTS, *WRAPPED_REPLIES, "open_think", "length"])
def test_passing_faults_leave_no_trace_in_the_answer(cache: Path, kind: str) -> None:
    ledger = Ledger()
    with ScriptedEndpoint(canned, fault=lambda _, nth: kind if nth == 0 else None) as endpoint:
        limit = {"timeout": 0.3} if kind == "hang" else {}
        entity = use(endpoint, cache, lambda t: t.extract(ROMANS), ledger, **limit)
    assert entity.name == "Claudius"
    if kind == "hang":  # on a busy machine, what does not hang may also take too long
        assert set(ledger.retries) == {"timeout"}
    else:
        assert sum(ledger.retries.values()) == (kind not in WRAPPED_REPLIES)
    assert not ledger.failures


def test_a_storm_changes_nothing(tmp_path: Path) -> None:
    docs = documents(100)
    with ScriptedEndpoint(canned) as endpoint:
        calm = use(endpoint, tmp_path / "calm.sqlite", extract_all(docs))
    ledger = Ledger()
    with ScriptedEndpoint(canned, fault=storm(0.3, seed=4)) as endpoint:
        stormy = use(
            endpoint,
            tmp_path / "storm.sqlite",
            extract_all(docs),
            ledger,
            timeout=1.0,
            retry=QUICK._replace(max_in_flight=32),
        )
    assert stormy == calm
    assert {request.fault for request in endpoint.seen} > {*TRANSPORT_FAULTS, *BROKEN_REPLIES}
    assert set(ledger.retries) == {"rate_limit", "server_error", "timeout", "connection", "invalid_reply"}


def test_a_fault_that_stays_is_an_error_after_bounded_tries(cache: Path) -> None:
    ledger = Ledger()
    with ScriptedEndpoint(canned, fault=lambda *_: "500") as endpoint:
        (error,) = use(endpoint, cache, extract_all([ROMANS]), ledger)
    assert isinstance(error, TeacherError)
    assert KEY not in said(error)  # which the endpoint had quoted
    learning = 4  # without a schema, a format, a system message, all three
    assert len(endpoint.seen) == QUICK.tries + learning
    assert (ledger.retries, ledger.failures) == ({"server_error": 5 + learning}, {"server_error": 1})


def test_retry_after_slows_everybody_down(cache: Path) -> None:
    """The one that is told to wait holds back the others, too."""
    slow = threading_once("429")
    with ScriptedEndpoint(canned, fault=slow, retry_after="0.4", latency=0.05) as endpoint:
        use(endpoint, cache, extract_all(documents(20)), retry=QUICK._replace(max_in_flight=4))
    first = endpoint.seen[0].arrived
    waited = [request.arrived - first for request in endpoint.seen]
    assert len([wait for wait in waited if wait < 0.4]) <= 4 + 3  # on their way when it said so
    assert len(endpoint.seen) == 21


def threading_once(kind: str) -> Callable[[str, int], str | None]:
    """Return a fault that hits the first request of all."""
    left = [kind]
    return lambda *_: left.pop() if left else None


def test_a_rate_limit_is_waited_out_while_others_get_through(cache: Path) -> None:
    """Far more 429 than tries, yet nobody gives up: the endpoint serves only two at once."""
    endpoint = ScriptedEndpoint(canned, latency=0.01, retry_after="0.01")
    endpoint.fault = lambda *_: "429" if endpoint.in_flight > 2 else None
    ledger = Ledger()
    with endpoint:
        entities = use(endpoint, cache, extract_all(documents(80)), ledger)
    assert all(isinstance(entity, BridgeEntity) for entity in entities)
    assert ledger.calls == 80
    assert not ledger.failures


def test_a_rate_limit_that_never_ends_ends_the_run(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
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


def test_told_waits_are_understood() -> None:
    now = time.time()
    assert retry_after({"retry-after": "2.5"}) == 2.5
    assert retry_after({"retry-after-ms": "150", "retry-after": "9"}) == 0.15
    dates = {"retry-after": formatdate(now + 3600 + 7, usegmt=True), "date": formatdate(now + 3600, usegmt=True)}
    assert retry_after(dates) == 7.0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}, '{"retryDelay": "34s"}') == 34.0
    assert retry_after({}, "Please try again in 250ms.") == 0.25
    assert retry_after({}, "Please try again in 1m3.5s. Visit us") == 63.5
    assert retry_after({}, "try again in 2h0m1s") == 7201
    assert retry_after({}, "Try again in 20 seconds.") == 20
    assert retry_after({}, "try again in a moment") is None
    assert retry_after({"retry-after": "nan"}) is retry_after({"retry-after": "inf"}) is None


def test_a_wait_of_a_day_ends_the_run(cache: Path) -> None:
    with ScriptedEndpoint(canned, fault=lambda *_: "429", retry_after="86400") as endpoint:
        (error,) = use(endpoint, cache, extract_all([ROMANS]))
    assert isinstance(error, RunError)
    assert "86400 s" in str(error)


# Parameters


@pytest.mark.parametrize(
    "refuses",
    [
        {"json_schema"},
        {"response_format"},
        {"max_tokens"},
        {"temperature"},
        {"temperature", "top_p", "max_tokens"},
        {"system"},
    ],
)
def test_what_an_endpoint_refuses_is_left_out_and_remembered(cache: Path, refuses: set[str]) -> None:
    params = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 99}
    ledger = Ledger()

    async def work(teacher: LLMTeacher) -> Any:
        return [await teacher.extract(document) for document in documents(5)]

    with ScriptedEndpoint(canned, refuses=refuses) as endpoint:
        entities = use(endpoint, cache, work, ledger, params=params)
    assert [entity.name for entity in entities] == [f"Entity{n}" for n in range(5)]
    learnt = 2 if refuses == {"response_format"} else len(refuses)
    assert len(endpoint.seen) == 5 + learnt
    assert (ledger.calls, ledger.retries["refused"]) == (5, learnt)
    # What the endpoint knows is no part of the request's identity: the next run finds it all.
    with ScriptedEndpoint(canned) as other:
        key = reply_key("small", prompts.extraction(documents(1)[0]), params)
        assert ReplyCache(cache).get(key) is not None
        assert not other.seen


TURNED_AWAY = {
    "system": [
        (400, {"object": "error", "message": "roles must alternate user/assistant/user/assistant/...", "code": 400}),
        (400, {"error": {"message": "Only user and assistant roles are supported!"}}),
        (500, {"error": "Jinja error: exception in line 7"}),
        (422, {"detail": [{"loc": ["body", "messages", 0, "role"], "msg": "Input should be 'user'"}]}),
        (400, {"message": "something is amiss"}),
    ],
    "response_format": [
        (404, {"error": {"message": "No host can serve a request with these parameters", "code": 404}}),
        (500, {"error": {"message": "compiling the grammar failed", "code": 500}}),
        (400, {"error": {"message": "additional properties ('strict' was unexpected)"}}),
        (400, "no"),
        (200, {"error": {"message": "upstream: bad parameters", "code": 400}}),
    ],
    "temperature": [
        (400, {"error": {"message": "`temperature` has to be greater than zero"}}),
        (422, {"error": "invalid request, id 7f3a91"}),
    ],
    "top_p": [(400, {"error": {"message": "temperature and top_p cannot both be given; id 0"}})],
    "max_tokens": [(400, {"error": {"message": "unexpected keyword argument"}})],
}


@pytest.mark.parametrize(
    ("name", "refusal"), [(name, refusal) for name, refusals in TURNED_AWAY.items() for refusal in refusals]
)
def test_a_refusal_is_learnt_by_what_was_sent(cache: Path, name: str, refusal: tuple[int, Any], caplog: Any) -> None:
    """Whatever the words: what is refused is left out, all else stays, and only the first questions pay for it."""
    params = {"temperature": 0, "top_p": 0.9, "max_tokens": 99}
    with ScriptedEndpoint(canned, refuses={name: refusal}, latency=0.01) as endpoint:
        entities = use(endpoint, cache, extract_all(documents(30)), params=params)
        last = endpoint.sent[-1]
    assert [entity.name for entity in entities] == [f"Entity{n}" for n in range(30)]
    assert len(endpoint.seen) <= 30 + 4 + 9  # those on their way at first, and what one of them tries
    lost = [
        *(key for key in params if key not in last and not (key == "max_tokens" and "max_completion_tokens" in last)),
        *(["response_format"] if "response_format" not in last else []),
        *(["system"] if last["messages"][0]["role"] != "system" else []),
    ]
    if "cannot both" in str(refusal):
        assert len(lost) == 1
    else:
        assert lost == ([] if name == "max_tokens" else [name])
    (told,) = [line for line in caplog.messages if "refuses the configured request format" in line]
    assert {"system": "system message", "max_tokens": "max_completion_tokens"}.get(name, name) in told or "both" in str(
        refusal
    )


@pytest.mark.parametrize(
    "refuses",
    [
        {"system": (400, {"error": "bad request"}), "response_format": (400, {"error": "bad request"})},
        {
            "temperature": (400, {"error": "no"}),
            "max_tokens": (400, {"error": "never"}),
            "system": (400, {"error": "na"}),
        },
        {"json_schema": (500, {"error": "it fell over"}), "json_object": (400, {"error": "either of the others"})},
        {"max_tokens": (400, {"error": "no"}), "max_completion_tokens": (400, {"error": "no"})},
        {"max_tokens": (400, {"error": "no"}), "temperature": (400, {"error": "no"})},
    ],
)
def test_several_refusals_at_once_are_learnt(cache: Path, refuses: dict[str, Any]) -> None:
    params = {"temperature": 0, "max_tokens": 99}
    with ScriptedEndpoint(canned, refuses=refuses) as endpoint:
        entities = use(endpoint, cache, extract_all(documents(9)), params=params, retry=QUICK._replace(max_in_flight=1))
    assert all(isinstance(entity, BridgeEntity) for entity in entities)
    assert len(endpoint.seen) <= 9 + 4 + 12


def test_a_stream_is_sent_for_where_nothing_else_is_served(cache: Path) -> None:
    refusal = 400, {"error": {"message": "This model only serves requests with stream set"}}
    with ScriptedEndpoint(canned, refuses={"no stream": refusal}) as endpoint:
        entities = use(endpoint, cache, extract_all(documents(5)), retry=QUICK._replace(max_in_flight=1))
    assert [entity.name for entity in entities] == [f"Entity{n}" for n in range(5)]
    assert len(endpoint.seen) <= 5 + 4


def test_what_is_switched_off_is_never_sent(cache: Path) -> None:
    with ScriptedEndpoint(canned, refuses=["response_format", "system"]) as endpoint:
        use(endpoint, cache, extract_all(documents(3)), response_format=None, system_message=False)
    assert len(endpoint.seen) == 3


def test_one_refusal_changes_nothing_once_a_request_has_succeeded(cache: Path) -> None:
    """Whatever it speaks of, it is about that prompt, and no reason for another form or another try."""
    blocked = 400, {"error": {"message": "blocked: it asks for the system prompt, temperature, response_format"}}
    endpoint = ScriptedEndpoint(canned)
    endpoint.turn_away = lambda number: blocked if number == 2 else None
    with endpoint:
        results = use(
            endpoint, cache, extract_all(documents(6)), retry=QUICK._replace(max_in_flight=1), params={"temperature": 0}
        )
    assert [type(result) for result in results] == [BridgeEntity, TeacherError] + [BridgeEntity] * 4
    assert len(endpoint.seen) == 6
    assert all(body["messages"][0]["role"] == "system" and "temperature" in body for body in endpoint.sent)


def test_a_first_question_that_is_refused_for_its_text_changes_nothing_either(cache: Path) -> None:
    blocked = 400, {"error": {"message": "the prompt was filtered"}}
    endpoint = ScriptedEndpoint(canned)
    endpoint.turn_away = lambda _: blocked if "Entity0" in endpoint.sent[-1]["messages"][-1]["content"] else None
    with endpoint:
        results = use(endpoint, cache, extract_all(documents(4)), retry=QUICK._replace(max_in_flight=1))
        assert [type(result) for result in results] == [TeacherError] + [BridgeEntity] * 3
    others = [body for body in endpoint.sent if "Entity0" not in body["messages"][-1]["content"]]
    assert len(others) == 3
    assert all(body["response_format"]["type"] == "json_schema" for body in others)
    assert all(body["messages"][0]["role"] == "system" for body in others)


def test_an_endpoint_that_refuses_everything_ends_the_run(cache: Path) -> None:
    endpoint = ScriptedEndpoint(canned, latency=0.01)
    endpoint.turn_away = lambda _: (400, {"error": {"message": f"not today, {KEY}"}})
    with endpoint:
        results = use(endpoint, cache, extract_all(documents(64)), params={"temperature": 0, "max_tokens": 9})
    errors = [result for result in results if isinstance(result, RunError)]
    assert "not today, [key]; fix generator_model, generation_params or openai_setting" in str(errors[0])
    assert len(errors) > 50
    assert len(endpoint.seen) <= 25


# What replies hold


def completion_of(**message: Any) -> bytes:
    """Return the body of a completion with this message."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": None} | message}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}).encode()


ANSWER = json.dumps(GOOD)
WHOLE = completion_of(content=ANSWER)


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + WHOLE,
        b"\n \r\n" + WHOLE,
        WHOLE.decode().encode("utf-16"),
        completion_of(content=GOOD),
        completion_of(content=[{"type": "thinking", "thinking": [{"text": "hm"}]}, {"type": "text", "text": ANSWER}]),
        completion_of(tool_calls=[{"type": "function", "function": {"name": "answer", "arguments": ANSWER}}]),
        completion_of(content=[{"type": "reasoning", "text": "{} or"}, {"type": "text", "text": ANSWER}]),
        completion_of(tool_calls=[{"function": {"arguments": GOOD}}]),
        completion_of(function_call={"name": "answer", "arguments": ANSWER}),
        json.dumps({"choices": [{"text": ANSWER, "finish_reason": "stop"}]}).encode(),
        WHOLE.replace(b'"usage": {', b'"usage": [], "was": {'),
        b": waiting\n\n"
        + b"".join(b"data: " + completion_of(content=part).replace(b"message", b"delta") + b"\r\n" for part in ANSWER),
        b"".join(
            b"data: %s\n\n"
            % completion_of(tool_calls=[{"function": {"arguments": part}}]).replace(b"message", b"delta")
            for part in ANSWER
        ),
        b"".join(
            b"data: %s\n\n" % completion_of(content=part).replace(b"message", b"delta").replace(b'x": 0', b'x": %d' % n)
            for part in ANSWER
            for n in (0, 1)
        ),
    ],
)
def test_a_reply_is_read_however_it_is_packed(body: bytes) -> None:
    read = read_completion(body, 400, Scrubber([]))
    assert isinstance(read, Completion), read
    assert json.loads(read.reply.content) == GOOD
    assert read.reply.finish_reason == "stop"


@pytest.mark.parametrize(
    ("piece", "text"),
    [
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"\\ud83d", "\ufffd"),
        (b"\xed\xa0\xbd", "\ufffd\ufffd\ufffd"),
        (b"\\ud83d\\ude00", "\U0001f600"),
        (b"\\u0000", "\ufffd"),
    ],
)
def test_no_text_comes_in_that_cannot_be_encoded(piece: bytes, text: str) -> None:
    read = read_completion(completion_of(content="a|b").replace(b"|", piece), 400, Scrubber([]))
    assert isinstance(read, Completion)
    assert read.reply.content == f"a{text}b"
    assert read.reply.content.encode("utf-8")


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 500.0, "completion_tokens": "80"}, (500, 80)),
        ({"prompt_tokens": "500.0", "completion_tokens": 0}, (500, 0)),
        ({"prompt_tokens": -1, "completion_tokens": 80}, None),
        ({"prompt_tokens": 500, "completion_tokens": 1e300}, None),
        ({"prompt_tokens": float("nan"), "completion_tokens": 80}, None),
        ({"prompt_tokens": True, "completion_tokens": [1]}, None),
        ({"prompt_tokens": 500}, None),
        ("none", None),
        (None, None),
    ],
)
def test_tokens_are_taken_as_told_where_they_can_be(usage: Any, tokens: tuple[int, int] | None) -> None:
    body = json.dumps({"choices": [{"message": {"content": "four" * 5}}], "usage": usage}).encode()
    read = read_completion(body, 400, Scrubber([]))
    assert isinstance(read, Completion)
    assert (read.has_usage, read.reply[2:]) == (tokens is not None, tokens or (100, 5))


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"[" * 100_000, Kind.GARBLED, "no chat completion"),
        (b"<!DOCTYPE html><title>Hotel\nWi-Fi</title><body>", Kind.GARBLED, "an HTML page, 'Hotel Wi-Fi'"),
        (b"<html><script>x()</script><p>Please log in</html>", Kind.GARBLED, "an HTML page, 'Please log in'"),
        (b"", Kind.GARBLED, "no chat completion, but ''"),
        (b'{"choices": []}', Kind.GARBLED, "no chat completion"),
        (b'{"choices": "none"}', Kind.GARBLED, "no chat completion"),
        (b"17", Kind.GARBLED, "no chat completion, but '17'"),
        (b'data: {"choices": [{"delta": {"content": "it is"}}]}\n\n', Kind.GARBLED, "no chat completion"),
        (b'data: {"error": {"message": "lost a GPU", "code": 502}}\n\n', Kind.SERVER, "lost a GPU"),
        (b'{"error": {"message": "slow down", "code": 429}}', Kind.RATE_LIMIT, "slow down"),
        (b'{"error": {"message": "50 requests per day", "code": 429}}', Kind.QUOTA, "50 requests per day"),
        (b'{"error": "upstream is gone"}', Kind.SERVER, "upstream is gone"),
        (b'{"errors": [{"message": "no route", "code": 7003}]}', Kind.SERVER, "no route"),
        (b'{"detail": "model big not found"}', Kind.MODEL, "model big not found"),
        (b'{"choices": [{"error": {"code": 502, "message": "broke off"}, "message": {}}]}', Kind.SERVER, "broke off"),
    ],
)
def test_what_is_no_completion_is_named(body: bytes, kind: Kind, words: str) -> None:
    fault = read_completion(body, 400, Scrubber([]))
    assert isinstance(fault, EndpointError)
    assert fault.kind is kind
    assert words in fault.text


def test_no_body_makes_reading_fail() -> None:
    """Whatever stands where, it is a completion or a fault."""
    odd = [None, 0, -1.5, True, "", "x", [], [None], [[]], {}, {"a": 1}, ["x", {}], {"error": []}, {"code": {}}]
    keys = ["choices", "error", "errors", "detail", "usage", "message", "delta", "content", "finish_reason", "text"]
    keys += ["tool_calls", "function", "arguments", "reasoning", "refusal", "loc", "code", "param", "prompt_tokens"]
    rng = random.Random(5)

    def grown(depth: int) -> Any:
        if depth == 0 or rng.random() < 0.2:
            return rng.choice(odd)
        value = {key: grown(depth - 1) for key in rng.sample(keys, rng.randrange(1, 9))}
        return [value] if rng.random() < 0.5 else value

    bodies = [json.dumps(grown(4)) for _ in range(500)] + ['{"choices": [{"message": {"content": ' + "[" * 700]
    for body in [*bodies, '{"choices":[{"message":{"content":' + '{"a":' * 800 + '"\\ud800"' + "}" * 800 + "}}]}"]:
        for text in (body, f"data: {body}\n\ndata: [DONE]"):
            read = read_completion(text.encode(), 400, Scrubber([]))
            assert isinstance(read, Completion | EndpointError)
        assert isinstance(status_error(400, {}, body, Scrubber([])), EndpointError)


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, {"message": "no JSON came of it", "code": "json_validate_failed"}, Kind.SERVER),
        *((status, {"message": "later"}, Kind.SERVER) for status in (409, 421, 424, 425, 498, 499, 503, 520, 529)),
        (408, {"message": "too slow"}, Kind.TIMEOUT),
        (429, {"message": "3 requests a minute"}, Kind.RATE_LIMIT),
        (429, {"message": "daily limit reached"}, Kind.QUOTA),
        (429, {"message": "tokens per day. Please try again in 7m12.5s"}, Kind.RATE_LIMIT),
        (400, {"message": "the prompt is too long"}, Kind.REFUSED),
        (413, {"message": "the prompt is too long"}, Kind.REFUSED),
        (403, {"message": "not in your region"}, Kind.KEY),
        (410, {"message": "the model was retired"}, Kind.MODEL),
    ],
)
def test_errors_are_asked_again_like_their_kind(status: int, error: Any, kind: Kind) -> None:
    assert status_error(status, {}, json.dumps({"error": error}), Scrubber([])).kind is kind


# One line for what stays


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
def test_what_fails_for_everybody_ends_the_run_early(cache: Path, refusal: Any, words: str, most: int) -> None:
    endpoint = ScriptedEndpoint(canned, latency=0.01)
    endpoint.turn_away = lambda _: refusal
    with endpoint:
        results = use(endpoint, cache, extract_all(documents(64)))
    error = next(result for result in results if isinstance(result, RunError))
    assert words in str(error)
    assert "openai_setting" in str(error)
    assert "\n" not in str(error)
    assert len(endpoint.seen) <= most


def test_timeouts_for_everybody_end_the_run_early(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
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
def test_replies_without_a_text_end_the_run_early(cache: Path, message: Any, finish: str, words: str) -> None:
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


def test_a_model_that_withholds_every_reply_ends_the_run(cache: Path) -> None:
    endpoint = ScriptedEndpoint(canned)
    endpoint.body = lambda _: completion_of(refusal="I would rather not")
    with endpoint:
        results = use(endpoint, cache, extract_all(documents(64)))
    error = next(result for result in results if isinstance(result, RunError))
    assert "refused: no text (finish_reason refusal); fix generator_model" in str(error)
    assert len(endpoint.seen) <= 16


def test_an_outage_of_a_while_is_no_end(cache: Path) -> None:
    """After replies have come, the same fault must have been all there was for as long as ``outage`` says."""
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


def test_an_outage_for_good_ends_the_run(cache: Path) -> None:
    endpoint = ScriptedEndpoint(canned)
    endpoint.turn_away = lambda number: (503, {"error": "gone"}) if number > 3 else None
    with endpoint:
        results = use(
            endpoint, cache, extract_all(documents(64)), retry=QUICK._replace(max_outage=0.1, max_in_flight=4)
        )
    assert any(isinstance(result, RunError) and "gone; check the endpoint" in str(result) for result in results)


# Addresses, proxies, certificates


@pytest.mark.parametrize(
    "written", [" {url}\n", '"{url}"', "{url}/chat/completions", "{url}/chat/completions/", "{url}/", "'{url}' "]
)
def test_an_address_is_cleaned_of_what_is_pasted_with_it(cache: Path, written: str) -> None:
    with ScriptedEndpoint(canned) as endpoint:
        assert use(written.format(url=endpoint.url), cache, extract_all([ROMANS]))[0].name == "Claudius"


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:8000/v1", "http:/localhost/v1", "http:///v1", "ftp://host/v1", "", "http://http://host/v1"),
        *(
            "http://host:port/v1",
            "http://host:99999/v1",
            "http://host:-1/v1",
            "http://host:0/v1",
            "http://host:80 80/v1",
        ),
        *("http://[::1/v1", "http://ho st/v1", "http://h\xe4..de/v1", "http://:8000/v1", "http://host/v 1"),
    ],
)
def test_an_address_that_is_none_is_named(url: str) -> None:
    with pytest.raises(InputError, match=r"openai_setting: base_url") as caught:
        settings_for(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, date(2024, 1, 1)])
def test_a_parameter_that_cannot_be_sent_is_named(value: Any) -> None:
    with pytest.raises(InputError, match="generation_params"):
        settings_for("http://x", params={"temperature": value})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1080"),
        ("all_proxy", "socks4://127.0.0.1:1080"),
        ("HTTP_PROXY", "http://user:secret-word@host:port"),
        ("https_proxy", "'http://host:8080'"),
        ("SSL_CERT_FILE", "{folder}/none.pem"),
        ("SSL_CERT_FILE", "{folder}"),
        ("SSL_CERT_FILE", "{folder}/no.pem"),
        ("HTTP_PROXY", "http//host:8080"),
        ("http_proxy", "127.0.0.1:9"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(
    cache: Path, variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    (cache.parent / "no.pem").write_text("no certificate")
    monkeypatch.setenv(variable, value.format(folder=cache.parent))
    (error,) = use("http://host.invalid/v1", cache, extract_all([ROMANS]))
    assert isinstance(error, InputError | RunError)
    assert variable in str(error)
    assert "secret-word" not in said(error)


def test_a_certificate_that_is_not_trusted_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*_: Any) -> EndpointError:
        return EndpointError(Kind.UNREACHABLE, "ConnectError [SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")

    monkeypatch.setattr(Transport, "post", refused)
    (error,) = use("https://host.invalid/v1", cache, extract_all([ROMANS]))
    assert "self-signed certificate); name the certificate to trust in SSL_CERT_FILE" in str(error)


def test_an_address_without_a_path_is_told_of_v1(cache: Path) -> None:
    endpoint = ScriptedEndpoint(canned)
    endpoint.turn_away = lambda _: (404, b"not found")
    with endpoint:
        (error,) = use(endpoint.url.removesuffix("/v1"), cache, extract_all([ROMANS]))
    assert "(404: not found); fix generator_model or openai_setting.base_url, which usually ends in /v1" in str(error)


def test_a_body_that_cannot_be_unpacked_ends_the_run(cache: Path) -> None:
    endpoint = ScriptedEndpoint(canned)
    endpoint.headers = {"Content-Encoding": "gzip"}
    with endpoint:
        (error,) = use(endpoint, cache, extract_all([ROMANS]))
    assert isinstance(error, RunError)
    assert "Content-Encoding" in str(error)


def test_a_body_in_another_encoding_is_read_as_its_header_says(cache: Path) -> None:
    endpoint = ScriptedEndpoint(lambda messages, name: canned(messages, name) | {"type": "Straße"})
    endpoint.body = lambda body: json.dumps(json.loads(body), ensure_ascii=False).encode("latin-1")
    endpoint.headers = {"Content-Type": "application/json; charset=ISO-8859-1"}
    with endpoint:
        entity = use(endpoint, cache, lambda t: t.extract(ROMANS))
    assert entity.type == "Straße"


# What does not pass


@pytest.mark.parametrize(
    ("server", "change", "mend"),
    [
        ({"keys": ["another"]}, {}, "openai_setting.api_key"),
        ({"keys": [KEYS[0]]}, {"api_keys": KEYS}, r"openai_setting.api_keys \(no. 2\)"),
        ({"models": ["big"]}, {}, "generator_model or openai_setting.base_url"),
        ({"models": ["big"]}, {"model_key": "entity_extractor_model"}, "entity_extractor_model"),
        ({"spent_keys": KEYS}, {"api_keys": KEYS}, "every API key of openai_setting is out of quota"),
    ],
)
def test_what_only_the_user_can_mend_ends_the_run(cache: Path, server: Any, change: Any, mend: str) -> None:
    with ScriptedEndpoint(canned, **server) as endpoint:
        results = use(endpoint, cache, extract_all(documents(30)), retry=QUICK._replace(max_in_flight=4), **change)
        errors = [result for result in results if isinstance(result, RunError)]
        assert len(errors) >= 27  # all but those on their way with the other key
        assert len(endpoint.seen) <= 4 + len(KEYS)  # nobody burns through the corpus
    message = str(errors[0])
    assert re.search(mend, message)
    assert all(part in message for part in ("openai", "small", endpoint.url))
    assert "\n" not in message
    assert not any(key[:10] in said(error) for error in errors for key in KEYS)


def test_an_unreachable_host_ends_the_run_at_the_first_calls(cache: Path) -> None:
    (error,) = use("http://user:secret-word@127.0.0.1:9/v1", cache, extract_all([ROMANS]))
    assert isinstance(error, RunError)
    assert "cannot be reached" in str(error)
    assert "openai_setting.base_url" in str(error)
    assert "secret-word" not in said(error)


def test_an_address_with_no_chat_api_ends_the_run(cache: Path) -> None:
    with ScriptedEndpoint(canned, fault=lambda *_: "html") as endpoint:
        (error,) = use(endpoint, cache, extract_all([ROMANS]))
    assert isinstance(error, RunError)
    assert "no chat completion" in str(error)


def test_a_refusal_of_one_question_is_no_end(cache: Path) -> None:
    """A 403 for a key that works is about what was asked, and so is any 400 that names no parameter."""
    with ScriptedEndpoint(canned, fault=lambda *_: None) as endpoint:
        endpoint.fault = lambda *_: "403" if len(endpoint.seen) == 1 else None
        results = use(endpoint, cache, extract_all(documents(4)), retry=QUICK._replace(max_in_flight=1))
    assert [type(result) for result in results] == [BridgeEntity, TeacherError, BridgeEntity, BridgeEntity]


def test_keys_take_turns_and_spent_ones_rest(cache: Path) -> None:
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


def test_no_key_of_the_environment_goes_to_a_local_server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ScriptedEndpoint(canned) as endpoint:
        use(endpoint, cache, lambda t: t.extract(ROMANS), api_keys=())
    assert endpoint.seen[0].key == "no-key"


@pytest.mark.parametrize(
    "text",
    [
        f"Incorrect API key provided: {KEY}",
        f"bad key {KEY[:9]}... in header",
        f"it ends with {KEY[-6:]}!",
        "Incorrect key sk-pr***********TbKc",
        "Authorization: Bearer abcdefgh",
    ],
)
def test_keys_are_scrubbed_whole_and_in_part(text: str) -> None:
    shown = Scrubber(KEYS).message(text)
    assert "[key]" in shown
    assert not any(part in shown for part in (KEY[:9], KEY[-4:], "abcdefgh"))


def test_innocent_text_is_left_alone() -> None:
    text = "max_tokens is too large: 9. See api_version, task-based models"
    assert Scrubber(KEYS).message(text) == text


def test_a_key_in_a_reply_does_not_reach_the_cache(cache: Path) -> None:
    def parrot(messages: list[dict[str, str]], name: str) -> Any:
        return {**canned(messages, name), "segment": f"{KEY} " * 20}

    with ScriptedEndpoint(parrot) as endpoint:
        entity = use(endpoint, cache, lambda t: t.extract(ROMANS))
    assert entity.segment == " ".join(["[key]"] * 20)


# What is paid for


def test_the_second_run_makes_no_call(cache: Path) -> None:
    docs, ledger = documents(12), Ledger(max_calls=0)
    with ScriptedEndpoint(canned) as endpoint:
        first = use(endpoint, cache, extract_all(docs))
        # Neither the key nor the timeout makes it another question.
        second = use(endpoint, cache, extract_all(docs), ledger, api_keys=KEYS, timeout=9.0)
        assert second == first
        assert len(endpoint.seen) == 12
    assert (ledger.calls, ledger.cache_hits, ledger.tokens_in) == (0, 12, 0)


def test_what_decides_the_reply_decides_the_key() -> None:
    question = prompts.extraction(ROMANS)
    key = reply_key("m", question, {"max_tokens": 9})
    assert key == reply_key("m", question, {"max_tokens": 99, "user": "somebody"})
    others = [
        reply_key("n", question, {}),
        reply_key("m", prompts.again(question, ["no"]), {}),
        reply_key("m", question, {"temperature": 0}),
        reply_key("m", question, {"seed": 1}),
        reply_key("m", question._replace(schema={}), {}),
    ]
    assert len({key, *others}) == 6


def test_the_same_question_at_once_is_asked_once(cache: Path) -> None:
    ledger = Ledger()
    with ScriptedEndpoint(canned, latency=0.05) as endpoint:
        entities = use(endpoint, cache, extract_all([ROMANS] * 10), ledger)
    assert len(set(entities)) == len(endpoint.seen) == 1
    assert (ledger.calls, ledger.cache_hits) == (1, 9)


async def asked(endpoint: ScriptedEndpoint, requests: int = 1) -> None:
    """Wait until an endpoint has so many requests."""
    async with asyncio.timeout(300):
        while len(endpoint.seen) < requests:
            await asyncio.sleep(0.001)


def test_a_caller_that_is_cancelled_leaves_its_reply(cache: Path) -> None:
    async def work(teacher: LLMTeacher) -> None:
        task = asyncio.create_task(teacher.extract(ROMANS))
        await asked(endpoint)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        endpoint.hold = never

    with ScriptedEndpoint(canned) as endpoint:
        endpoint.hold = lambda: True
        use(endpoint, cache, work)
        assert use(endpoint, cache, lambda t: t.extract(ROMANS), Ledger(max_calls=0)).name == "Claudius"


def test_closing_does_not_wait_for_retries(cache: Path) -> None:
    async def work(teacher: LLMTeacher) -> None:
        endpoint.hold = lambda: True
        asyncio.create_task(extract_all([ROMANS])(teacher))  # noqa: RUF006
        await asked(endpoint, len(endpoint.seen) + 1)
        asyncio.get_running_loop().call_soon(setattr, endpoint, "hold", never)  # once the closing has begun

    with ScriptedEndpoint(canned, fault=lambda *_: "500", retry_after="500") as endpoint:
        started = time.monotonic()
        use(endpoint, cache, work, retry=RetryPolicy(first_wait=500.0, longest_wait=500.0))
        endpoint.fault = lambda *_: "429"
        use(endpoint, cache, work)
        assert time.monotonic() - started < 250
        assert len(endpoint.seen) == 2


KILLED = """
    import asyncio, sys
    from contextlib import aclosing
    from pathlib import Path
    from endpoint import documents, settings_for
    from utils.teachers.language_model import LLMTeacher
    from utils.teachers.ledger import Ledger

    async def main(url, cache):
        async with aclosing(LLMTeacher(settings_for(url), settings_for(url), Path(cache), Ledger())) as teacher:
            for document in documents(200):
                await teacher.extract(document)
                print(document.id, flush=True)

    asyncio.run(main(*sys.argv[1:]))
"""


def test_a_kill_loses_no_reply(cache: Path) -> None:
    tests = Path(__file__).parents[1]
    with ScriptedEndpoint(canned) as endpoint:
        endpoint.hold = lambda: len(endpoint.seen) > 21
        command = [sys.executable, "-c", textwrap.dedent(KILLED), endpoint.url, str(cache)]
        path = {"PYTHONPATH": f"{SCRIPTS}:{tests}"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=path)
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "20":
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed_at = len(endpoint.seen)
        assert 21 <= killed_at <= 22
        endpoint.hold = never
        use(endpoint, cache, extract_all(documents(40)))
        assert len(endpoint.repeated()) <= 1  # the one that was on its way
        assert len(endpoint.seen) <= max(killed_at, 40) + 1


def test_two_processes_may_share_the_cache(cache: Path) -> None:
    one, other = ReplyCache(cache), ReplyCache(cache)
    one.put("a", "m", reply("first"))
    other.put("a", "m", reply("second"))
    other.put("b", "m", reply("third"))
    assert [one.get(key) and one.get(key).content for key in "abc"] == ["first", "third", None]
    assert len(one) == 2


@pytest.mark.parametrize("content", [b"not a database, " * 99, None])
def test_what_is_no_cache_is_refused(cache: Path, content: bytes | None) -> None:
    if content is None:
        cache.mkdir()
    else:
        cache.write_bytes(content)
    with pytest.raises(InputError, match="move it away"):
        ReplyCache(cache)


# The ledger


def test_calls_are_limited_and_what_was_paid_stays(cache: Path) -> None:
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


def test_tokens_that_are_not_told_are_estimated(cache: Path) -> None:
    ledger = Ledger()
    with ScriptedEndpoint(canned, usage=False) as endpoint:
        use(endpoint, cache, lambda t: t.extract(ROMANS), ledger)
    summary = ledger.summary()
    assert summary["replies_without_usage"] == 1
    assert summary["tokens_in"] > 300
    assert summary["cost"] is None


def test_a_refused_key_names_the_account_that_goes_with_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-somebody-else")
    with ScriptedEndpoint(canned, keys=["another"]) as endpoint:
        (error,) = use(endpoint, cache, extract_all([ROMANS]))
    assert isinstance(error, RunError)
    assert "fix openai_setting.api_key, or OPENAI_ORG_ID in the environment" in str(error)
