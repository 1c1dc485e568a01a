"""Settings of an endpoint, and keys that do not leak."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from endpoint import ScriptedEndpoint, canned
from llm_teacher import KEY, KEYS, ROAD, ROMANS, UNUSABLE, extract_all, settings_for, traceback_of, use
from utils.errors import InputError, RunError
from utils.teachers.endpoint import Scrubber
from utils.teachers.language_model import LLMTeacher


def test_local_generation_parameters_are_translated() -> None:
    settings = settings_for("http://x", params={"do_sample": True, "max_new_tokens": 9, "top_p": None, "top_k": 3})
    assert settings.params == {"max_tokens": 9, "top_k": 3}


@pytest.mark.parametrize("change", [{"api_keys": (KEY + "\nX",)}, {"url": "localhost:80"}, {"api_type": "azure"}])
def test_settings_that_no_request_can_carry_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="openai_setting") as caught:
        settings_for(**({"url": "http://x"} | change))
    assert KEY not in traceback_of(caught.value)
    assert KEY not in repr(settings_for("http://x"))


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
        *("http://１２７.0.0.1/v1", "http://host:８０００/v1", "http://ｈost/v1"),
        *("http://[::1/v1", "http://ho st/v1", "http://h\xe4..de/v1", "http://:8000/v1", "http://host/v 1"),
    ],
)
def test_unusable_address_is_an_input_error(url: str) -> None:
    with pytest.raises(InputError, match=r"openai_setting: base_url") as caught:
        settings_for(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, date(2024, 1, 1)])
def test_unserialisable_parameter_is_an_input_error(value: Any) -> None:
    with pytest.raises(InputError, match="generation_params"):
        settings_for("http://x", params={"temperature": value})


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


def test_ordinary_text_is_not_scrubbed() -> None:
    text = "max_tokens is too large: 9. See api_version, task-based models"
    assert Scrubber(KEYS).message(text) == text


@pytest.mark.parametrize("place", ["joe:{}@", "{}@", "/{}", "?key={}", "?v={}"])
def test_a_key_anywhere_in_an_address_is_not_shown(cache: Path, place: str) -> None:
    secret, echoed = KEYS[1], KEYS[1].replace("-", "\\u002d")
    before, after = (place.format(secret), "/v1") if "@" in place else ("", f"/v1{place.format(secret)}")
    endpoint = ScriptedEndpoint(canned)
    endpoint.turn_away = lambda _: (
        404,
        b'{"error": "no such thing: ' + f"{after} {echoed} {secret[5:]}".encode() + b'"}',
    )
    with endpoint:
        url = f"http://{before}127.0.0.1:{endpoint.port}{after}"
        (error,) = use(url, cache, extract_all([ROMANS]))
    assert isinstance(error, RunError)
    assert secret in "".join(endpoint.paths) or "@" in place
    assert not any(part in traceback_of(error) for part in (secret[-6:], echoed[-9:]))


@pytest.mark.parametrize(
    "key", [KEY, KEY.replace("-", "\\u002d"), KEY.replace("-", "\\\\x2d"), KEY.replace("-", "%2D")]
)
def test_a_reply_that_tells_a_key_in_any_field_or_escape_does_not_spread_it(cache: Path, key: str) -> None:
    def parrot(messages: list[dict[str, str]], name: str) -> str:
        told = {**canned(messages, name), "reason": "KEY", "type": "KEY"}
        return json.dumps(told).replace("KEY", f"it is {key}!").replace("\\x", "\\\\x")

    async def work(teacher: LLMTeacher) -> Any:
        return await teacher.extract(ROMANS), await teacher.judge(ROAD, UNUSABLE)

    with ScriptedEndpoint(parrot) as endpoint:
        endpoint.body = lambda body: body.replace(b'"stop"', json.dumps(f"stop {KEY}").encode())
        entity, verdict = use(endpoint, cache, work)
    assert entity.type == verdict.reason == "it is [key]!"
    assert KEY.encode() not in cache.read_bytes()
    assert cache.read_bytes().count(b"it is [key]!") == cache.read_bytes().count(b"it is ")


def test_a_key_among_the_parameters_is_in_no_record(cache: Path) -> None:
    params = {"extra_headers": {"Authorization": f"Bearer {KEY}"}, "user_token": KEYS[1], "temperature": 0}

    async def settings(teacher: LLMTeacher) -> Any:
        return teacher.settings

    recorded = use("http://127.0.0.1:9/v1", cache, settings, params=params)["entity_extractor"]["params"]
    assert recorded == {"extra_headers": {"Authorization": "[key]"}, "user_token": "[key]", "temperature": 0}


def test_a_key_in_a_reply_does_not_reach_the_cache(cache: Path) -> None:
    def parrot(messages: list[dict[str, str]], name: str) -> Any:
        return {**canned(messages, name), "type": f"{KEY} " * 20}

    with ScriptedEndpoint(parrot) as endpoint:
        entity = use(endpoint, cache, lambda t: t.extract(ROMANS))
    assert entity.type == " ".join(["[key]"] * 20)
