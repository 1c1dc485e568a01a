"""Addresses, proxies, certificates and encodings; bodies of many shapes are read as a completion or as an error."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from endpoint import ScriptedEndpoint, canned
from llm_teacher import ANSWER, GOOD, KEY, ROMANS, completion_of, extract_all, traceback_of, use
from utils.errors import InputError, RunError
from utils.teachers.endpoint import Scrubber
from utils.teachers.endpoint_errors import EndpointError, Kind, status_error
from utils.teachers.transport import Completion, Transport, read_completion

WHOLE = completion_of(content=ANSWER)


def test_azure_puts_the_deployment_into_the_path(cache: Path) -> None:
    with ScriptedEndpoint(canned, keys=(KEY,)) as endpoint:
        azure = {"api_type": "azure", "api_version": "2024-10-21"}
        entity = use(endpoint.url.removesuffix("/v1"), cache, lambda t: t.extract(ROMANS), **azure)
    assert entity.name == "Claudius"


@pytest.mark.parametrize(
    "written", [" {url}\n", '"{url}"', "{url}/chat/completions", "{url}/chat/completions/", "{url}/", "'{url}' "]
)
def test_address_is_cleaned_of_what_is_pasted_along(cache: Path, written: str) -> None:
    with ScriptedEndpoint(canned) as endpoint:
        assert use(written.format(url=endpoint.url), cache, extract_all([ROMANS]))[0].name == "Claudius"


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
def test_unusable_environment_variable_is_named(
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
    assert "secret-word" not in traceback_of(error)


def test_untrusted_certificate_names_the_remedy(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*_: Any) -> EndpointError:
        return EndpointError(Kind.UNREACHABLE, "ConnectError [SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")

    monkeypatch.setattr(Transport, "post", refused)
    (error,) = use("https://host.invalid/v1", cache, extract_all([ROMANS]))
    assert "self-signed certificate); name the certificate to trust in SSL_CERT_FILE" in str(error)


def test_body_that_cannot_be_decompressed_ends_the_run(cache: Path) -> None:
    endpoint = ScriptedEndpoint(canned)
    endpoint.headers = {"Content-Encoding": "gzip"}
    with endpoint:
        (error,) = use(endpoint, cache, extract_all([ROMANS]))
    assert isinstance(error, RunError)
    assert "Content-Encoding" in str(error)


def test_charset_of_the_header_is_used(cache: Path) -> None:
    endpoint = ScriptedEndpoint(lambda messages, name: canned(messages, name) | {"type": "Straße"})
    endpoint.body = lambda body: json.dumps(json.loads(body), ensure_ascii=False).encode("latin-1")
    endpoint.headers = {"Content-Type": "application/json; charset=ISO-8859-1"}
    with endpoint:
        entity = use(endpoint, cache, lambda t: t.extract(ROMANS))
    assert entity.type == "Straße"


def test_local_server_gets_no_key_from_the_environment(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ScriptedEndpoint(canned) as endpoint:
        use(endpoint, cache, lambda t: t.extract(ROMANS), api_keys=())
    assert endpoint.seen[0].key == "no-key"


@pytest.mark.parametrize(
    "path", ["?api-version=3&tag=", "/chat/completions?api-version=3&tag=", "/?api-version=3&tag=#x"]
)
def test_query_of_the_address_is_sent_after_the_path(cache: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedEndpoint(canned) as endpoint:
        assert use(f"{endpoint.url}{path}", cache, extract_all([ROMANS]))[0].name == "Claudius"
    assert endpoint.paths == ["/v1/chat/completions?api-version=3&tag="]


def test_address_that_the_http_library_rejects_is_an_input_error(cache: Path) -> None:
    (error,) = use("http://1.2.3.999/v1", cache, extract_all([ROMANS]))
    assert isinstance(error, InputError | RunError)
    assert "openai_setting" in str(error)
    assert "base_url" in str(error)


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
def test_completion_is_read_in_any_shape(body: bytes) -> None:
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
def test_every_text_can_be_encoded(piece: bytes, text: str) -> None:
    read = read_completion(completion_of(content="a|b").replace(b"|", piece), 400, Scrubber([]))
    assert isinstance(read, Completion)
    assert read.reply.content == f"a{text}b"
    assert read.reply.content.encode("utf-8")


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 500.0, "completion_tokens": "80"}, (500, 80)),
        ({"prompt_tokens": "500.0", "completion_tokens": 1}, (500, 1)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, None),  # with zeros, no limit on cost would be reached
        ({"prompt_tokens": 500, "completion_tokens": 0}, None),
        ({"prompt_tokens": -1, "completion_tokens": 80}, None),
        ({"prompt_tokens": -5, "completion_tokens": -5}, None),
        ({"prompt_tokens": 500, "completion_tokens": 1e300}, None),
        ({"prompt_tokens": float("nan"), "completion_tokens": 80}, None),
        ({"prompt_tokens": True, "completion_tokens": [1]}, None),
        ({"prompt_tokens": 500}, None),
        ("none", None),
        (None, None),
    ],
)
def test_reported_tokens_are_used_if_plausible(usage: Any, tokens: tuple[int, int] | None) -> None:
    body = json.dumps({"choices": [{"message": {"content": "four" * 5}}], "usage": usage}).encode()
    read = read_completion(body, 400, Scrubber([]))
    assert isinstance(read, Completion)
    assert (read.has_usage, read.reply[2:]) == (tokens is not None, tokens or (100, 5))


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"[" * 100_000, Kind.INVALID_RESPONSE, "no chat completion"),
        (b"<!DOCTYPE html><title>Hotel\nWi-Fi</title><body>", Kind.INVALID_RESPONSE, "an HTML page, 'Hotel Wi-Fi'"),
        (b"<html><script>x()</script><p>Please log in</html>", Kind.INVALID_RESPONSE, "an HTML page, 'Please log in'"),
        (b"", Kind.INVALID_RESPONSE, "no chat completion, but ''"),
        (b'{"choices": []}', Kind.INVALID_RESPONSE, "no chat completion"),
        (b'{"choices": "none"}', Kind.INVALID_RESPONSE, "no chat completion"),
        (b"17", Kind.INVALID_RESPONSE, "no chat completion, but '17'"),
        (b'data: {"choices": [{"delta": {"content": "it is"}}]}\n\n', Kind.INVALID_RESPONSE, "no chat completion"),
        (b'data: {"error": {"message": "lost a GPU", "code": 502}}\n\n', Kind.SERVER, "lost a GPU"),
        (b'{"error": {"message": "slow down", "code": 429}}', Kind.RATE_LIMIT, "slow down"),
        (b'{"error": {"message": "50 requests per day", "code": 429}}', Kind.QUOTA, "50 requests per day"),
        (b'{"error": "upstream is gone"}', Kind.SERVER, "upstream is gone"),
        (b'{"errors": [{"message": "no route", "code": 7003}]}', Kind.SERVER, "no route"),
        (b'{"detail": "model big not found"}', Kind.NOT_FOUND, "model big not found"),
        (b'{"choices": [{"error": {"code": 502, "message": "broke off"}, "message": {}}]}', Kind.SERVER, "broke off"),
    ],
)
def test_what_is_not_a_completion_is_an_error_that_names_it(body: bytes, kind: Kind, words: str) -> None:
    error = read_completion(body, 400, Scrubber([]))
    assert isinstance(error, EndpointError)
    assert error.kind is kind
    assert words in error.text


def test_no_body_raises() -> None:
    """Whatever stands where, it is a completion or a error."""
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
    ("given", "read"), [("stop", "stop"), ("two\nlines\r", "two lines"), ("x" * 10_000, "x" * 100)]
)
def test_a_finish_reason_is_a_word_or_a_line(given: str, read: str) -> None:
    body = json.loads(WHOLE)
    body["choices"][0]["finish_reason"] = given
    found = read_completion(json.dumps(body).encode(), 400, Scrubber([]))
    assert isinstance(found, Completion)
    assert found.reply.finish_reason == read
