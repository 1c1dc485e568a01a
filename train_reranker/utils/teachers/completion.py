"""Reads the body of a successful response: a chat completion, whole or streamed, in the shapes that endpoints send."""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from utils.files import dumps, loads
from utils.teachers.endpoint import Scrubber
from utils.teachers.endpoint_errors import EndpointError, Kind, html_summary, status_error
from utils.teachers.reply_cache import Reply


class Completion(NamedTuple):
    """A reply; whether the endpoint reported its tokens (otherwise estimated), and whether it is reasoning only."""

    reply: Reply
    has_usage: bool
    only_reasoning: bool


def read_completion(content: bytes, prompt_chars: int, scrub: Scrubber) -> Completion | EndpointError:
    """Return the completion in a body of status 200, or the error.

    All texts can be encoded. Tokens that are not reported are estimated at four characters each.
    """
    text = content.decode(json.detect_encoding(content), "replace").lstrip()
    try:
        body = _join_stream(text) if re.match(r"(?:data|event|id|retry)?:", text) else loads(text)
        return _read_body(body, text, prompt_chars, scrub)
    except (ValueError, RecursionError):  # not JSON, or nested too deeply
        return _invalid(html_summary(text) or repr(text[:80]), scrub)


def _invalid(found: str, scrub: Scrubber) -> EndpointError:
    return EndpointError(Kind.INVALID_RESPONSE, scrub.message(f"no chat completion, but {found}"))


def _read_body(body: Any, text: str, prompt_chars: int, scrub: Scrubber) -> Completion | EndpointError:
    choice = _first(body.get("choices")) if isinstance(body, dict) else None
    if choice is None:
        if isinstance(body, dict) and any(body.get(key) for key in ("error", "errors", "detail", "message", "msg")):
            return status_error(200, {}, json.dumps(body), scrub)
        return _invalid(repr(text[:80]), scrub)
    if choice.get("error"):
        return status_error(200, {}, json.dumps({"error": choice["error"]}), scrub)
    message = _object(choice.get("message"))
    content = _text(message.get("content")) or _text(choice.get("text")) or _arguments(message)
    content = scrub.content(content).replace("\0", "\ufffd")
    usage = _object(body.get("usage"))
    tokens_in, tokens_out = _tokens(usage.get("prompt_tokens")), _tokens(usage.get("completion_tokens"))
    has_usage = tokens_in is not None and tokens_out is not None
    if not has_usage:
        tokens_in, tokens_out = prompt_chars // 4, len(content) // 4
    finish = "refusal" if message.get("refusal") and not content else str(choice.get("finish_reason") or "")
    reasons = not content.strip() and any(message.get(key) for key in ("reasoning_content", "reasoning", "thinking"))
    return Completion(Reply(content, finish, tokens_in or 0, tokens_out or 0), has_usage, reasons)


def _join_stream(text: str) -> Any:
    """Join server-sent events into one completion; raise ValueError if one is not JSON or the stream breaks off."""
    events = [line[5:].strip() for line in re.split(r"\r?\n", text) if line.startswith("data:")]
    chunks = [_object(loads(event)) for event in events if event and event != "[DONE]"]
    if error := next((chunk for chunk in chunks if chunk.get("error")), None):
        return error
    choices = [choice for chunk in chunks if (choice := _first(chunk.get("choices"))) and not choice.get("index")]
    finish = next((choice["finish_reason"] for choice in reversed(choices) if choice.get("finish_reason")), None)
    if "[DONE]" not in events and not finish:
        raise ValueError("the stream breaks off")
    deltas = [_object(choice.get("delta") or choice.get("message")) for choice in choices]
    keys = ("content", "reasoning_content", "reasoning", "refusal")
    message: dict[str, Any] = {key: "".join(_text(delta.get(key)) for delta in deltas) for key in keys}
    message["function_call"] = {"arguments": "".join(map(_arguments, deltas))}
    usage = next((chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage")), None)
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(choices: Any) -> dict[str, Any] | None:
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None


def _text(content: Any) -> str:
    """Return a message's content as text: some endpoints send parts, or the object that the text should encode."""
    if isinstance(content, list) and all(isinstance(part, str | dict) for part in content):
        parts = [p for p in content if isinstance(p, str) or not re.search("reason|think|thought", str(p.get("type")))]
        return "".join(part if isinstance(part, str) else _text(part.get("text")) for part in parts)
    if isinstance(content, dict | list):
        return dumps(content)
    return content if isinstance(content, str) else ""


def _arguments(message: Mapping[str, Any]) -> str:
    """Return the arguments of a message's tool call: where a schema is turned into a tool, they are the answer."""
    call = _first(message.get("tool_calls")) or {}
    return _text(_object(call.get("function") or message.get("function_call")).get("arguments"))


def _tokens(count: Any) -> int | None:
    """Return a number of tokens, None for what cannot be one."""
    try:
        number = float(count)
    except (TypeError, ValueError):
        return None
    return int(number) if 0 <= number <= 1e7 and not isinstance(count, bool) else None
