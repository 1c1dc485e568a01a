"""Bodies of many shapes are read as a completion or as an error."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from llm_teacher import ANSWER, GOOD, completion_of
from utils.teachers.completion import Completion, read_completion
from utils.teachers.endpoint import Scrubber
from utils.teachers.endpoint_errors import EndpointError, Kind, status_error

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
