"""What passes between us and an endpoint: its settings, what its replies and refusals mean.

Nothing here waits or sends; :mod:`utils.llm.client` does.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from utils.errors import InputError
from utils.files import dumps, loads
from utils.teachers.ledger import Price
from utils.teachers.reply_cache import Reply

TIMEOUT = 60.0  # seconds that a reply may take, unless the configuration says otherwise
FORMATS = ("json_schema", "json_object", None)  # response_format, from the strictest down


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """One model behind an OpenAI-compatible endpoint, and how it is to be asked.

    ``provider`` names the section ``<provider>_setting`` and ``model_key`` the key that the model came from, for error
    messages; ``params`` are ``generation_params``, sent as they are but for the two that only local generation knows.
    ``model_revision`` tells models apart that are served under one name.
    ``response_format`` (one of ``FORMATS``) and ``system_message`` are what a request has at first.
    """

    provider: str
    base_url: str
    model: str
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    params: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = TIMEOUT
    price: Price | None = None
    api_type: str = "openai"
    api_version: str | None = None
    model_key: str = "generator_model"
    model_revision: str | None = None
    response_format: str | None = FORMATS[0]
    system_message: bool = True

    def __post_init__(self) -> None:
        """Bring keys and parameters into the shape in which they are sent.

        Raises:
            InputError: a key or the address is one that no request can carry.
        """
        params = {name: value for name, value in self.params.items() if name != "do_sample" and value is not None}
        if "max_new_tokens" in params:
            params.setdefault("max_tokens", params.pop("max_new_tokens"))
        object.__setattr__(self, "params", params)
        if "response_format" in params:
            object.__setattr__(self, "response_format", None)
        object.__setattr__(self, "api_keys", tuple(key.strip() for key in self.api_keys))
        for number, key in enumerate(self.api_keys, 1):
            if not re.fullmatch(r"[!-~]+", key):
                raise InputError(f"{self.section}: API key no. {number} is empty or has characters that no key has")
        object.__setattr__(self, "base_url", self._usable_url())
        try:
            json.dumps(params, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"generation_params cannot be sent to {self.where}: {error}; fix the value") from None
        if self.api_type == "azure" and not self.api_version:
            raise InputError(f"{self.section}: api_type azure wants an api_version, too")

    def _usable_url(self) -> str:
        """Return ``base_url`` without what is often pasted with it: spaces, quotes, the path of the one call."""
        url = self.base_url.strip(" \t\r\n\"'")
        url = re.sub(r"(?:/chat)?/completions/*$", "", url)
        where = f"{self.section}: base_url"  # not quoted, since it may hold a password
        if not re.match(r"https?://[^/?#]", url):
            raise InputError(f"{where} must be an address that begins with http:// or https://")
        try:
            parts = urlsplit(url)
            if parts.port == 0 or not parts.hostname:
                raise ValueError
            parts.hostname.encode("ascii" if parts.hostname.isascii() else "idna")
        except ValueError:
            raise InputError(f"{where} has no usable host and port (1 to 65535); fix it") from None
        if re.search(r"[\s\"'<>\x00-\x1f]|^https?://.*https?://", url):
            raise InputError(f"{where} has a space, a quote or a second http:// in it; fix it")
        return url

    @property
    def section(self) -> str:
        """The YAML section that the endpoint is described in."""
        return f"{self.provider}_setting"

    @property
    def shown_url(self) -> str:
        """The address without what may be secret in it: user, password and query."""
        url = urlsplit(self.base_url)
        return url._replace(netloc=url.netloc.rpartition("@")[2], query="", fragment="").geturl()

    @property
    def where(self) -> str:
        """Provider, model and address, for a message."""
        return f"{self.provider} (model {self.model}, {self.shown_url})"


class Scrubber:
    """Takes API keys out of text that somebody else wrote: endpoints like to quote them, whole or in part."""

    _KEY_LIKE = re.compile(
        r"bearer\s+\S+|\b(?:sk|pk|rk|gsk|xai|hf)[-_][\w.*-]{5,}|\bAIza[\w-]{8,}|[\w.-]*\*{3,}[\w.-]*",
        re.IGNORECASE,
    )
    _FRAGMENT = 5  # fewer characters of a key tell nothing, and occur in innocent words

    def __init__(self, keys: Iterable[str]) -> None:
        """Know the keys that are in use."""
        self._keys = tuple(keys)

    def message(self, text: str, max_chars: int = 300) -> str:
        """Return one line of ``text`` in which nothing is left that is, or looks like, a part of a key."""
        hidden = bytearray(len(text))
        for key in self._keys:
            size = min(self._FRAGMENT, len(key))
            for piece in {key[start : start + size] for start in range(len(key) - size + 1)}:
                for found in re.finditer(f"(?={re.escape(piece)})", text):
                    hidden[found.start() : found.start() + size] = b"\1" * size
        shown = "".join("\0" if hide else char for char, hide in zip(text, hidden, strict=True))
        line = " ".join(self._KEY_LIKE.sub("[key]", re.sub("\0+", "[key]", shown)).split())
        return line if len(line) <= max_chars else f"{line[:max_chars]}..."

    def content(self, text: str) -> str:
        """Return a model's reply without any whole key in it; short stand-ins (``EMPTY``, ``ollama``) are words."""
        for key in self._keys:
            if len(key) >= 12:
                text = text.replace(key, "[key]")
        return text


class Kind(StrEnum):
    """What can go wrong with a request, as it is counted in the ledger."""

    RATE_LIMIT = "rate_limit"
    QUOTA = "quota"
    KEY = "key"
    MODEL = "model"
    SERVER = "server_error"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    UNREACHABLE = "unreachable"
    GARBLED = "garbled"  # status 200, but no chat completion
    EMPTY = "empty"  # a completion without a text
    REFUSED = "refused"  # the request itself, or a parameter of it


@dataclass(frozen=True)
class EndpointError:
    """A request that brought no reply.

    ``text`` is what may be shown of it, ``said`` what the endpoint really said, which may quote a key; ``wait`` is how
    long it asks us to wait.
    """

    kind: Kind
    text: str
    status: int | None = None
    code: str = ""
    param: str = ""
    said: str = field(default="", repr=False)
    wait: float | None = None

    @property
    def billed(self) -> bool:
        """Whether the endpoint may have worked on the request."""
        return self.kind in (Kind.SERVER, Kind.TIMEOUT, Kind.CONNECTION, Kind.GARBLED)

    @property
    def refuses(self) -> bool:
        """Whether the endpoint turned the request away for something in it, or does not know what it asks for."""
        return self.kind in (Kind.REFUSED, Kind.MODEL)

    @property
    def alike(self) -> tuple[Kind, int | None, str]:
        """What two faults have in common that say the same, but for numbers, names of requests and the like."""
        return self.kind, self.status, re.sub(r"\S*\d\S*", "#", self.said or self.text)[:200]

    @property
    def shown(self) -> str:
        """The fault in a few words."""
        status = "" if self.status is None else f" {self.status}"
        return f"{self.kind.replace('_', ' ')}{status}{f': {self.text}' if self.text else ''}"


_NO_MONEY = re.compile(r"insufficient_quota|insufficient_balance|billing_|credit balance|exceeded_current_quota_error")
_DAILY = re.compile(r"per[- ]day|daily", re.I)
_NO_MODEL = re.compile(r"model[^.]{0,80}(?:not exist|not found|unknown|is invalid)|(?:unknown|invalid) model", re.I)
_NO_KEY = re.compile(r"api[ _-]?key[^.]{0,40}(?:not valid|invalid|missing|incorrect|required)|invalid_api_key", re.I)
_MISHAP = re.compile(r"json_validate_failed|tool_use_failed|failed_generation|failed to generate json", re.I)
_RETRY_AFTER = re.compile(
    r'(?:retryDelay"\s*:\s*"|(?:try again|retry) (?:in|after) )'
    r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?) ?s(?:ec\w*)?)?(?:(\d+(?:\.\d+)?)ms)?(?!\w)",
    re.I,
)
_NEVER_CONNECTED = {
    *("ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol", "LocalProtocolError"),
    "TooManyRedirects",
}
_ABOUT_THE_REQUEST = {400, *range(411, 418), 406, 422, 426, 428, 431, 451}  # any other 4xx is asked again
MAY_REFUSE = (200, 400, 500, 501)  # of a server's error, which some make of a request that they do not understand
_SENT_AS_GET = (301, 302, 303)  # redirects after which an HTTP client asks without the question


def connection_error(error: BaseException, scrub: Scrubber) -> EndpointError:
    """Say what an exception of the HTTP library means that stands for no reply at all."""
    name = type(error).__name__  # by name, since the openai package has changed the library under it before
    if name in _NEVER_CONNECTED or isinstance(error, ValueError):  # a host's name that none can be
        return EndpointError(
            Kind.UNREACHABLE, scrub.message(f"{name} {error}" if name != "LocalProtocolError" else name)
        )
    if name == "DecodingError":
        return EndpointError(
            Kind.GARBLED, "no chat completion, but a body that is not packed as its Content-Encoding says"
        )
    return EndpointError(Kind.TIMEOUT if "Timeout" in name else Kind.CONNECTION, name)


def redirect_error(status: int, location: str, scrub: Scrubber) -> EndpointError | None:
    """Say what it means that a request was redirected; None where the HTTP client has followed rightly."""
    if status not in _SENT_AS_GET:
        return None
    return EndpointError(Kind.MODEL, scrub.message(f"it redirects to {location.partition('?')[0]}"), status)


def status_error(status: int, headers: Mapping[str, str], body: str, scrub: Scrubber) -> EndpointError:
    """Say what an error means, in a reply with an error status or in one of status 200 that holds an error.

    ``headers`` must not care for case.
    """
    message, code, param = _read_error(body)
    wait = retry_after(headers, body)
    if status < 400:
        number = re.match(r"[45]\d\d\b", code)
        # Without a number it is a gateway that passes on what went wrong behind it.
        kind = _kind_of(int(number[0]) if number else 400, code, message, wait)
        kind = Kind.SERVER if kind is Kind.REFUSED and not number else kind
    else:
        kind = _kind_of(status, code, message, wait)
    return EndpointError(kind, scrub.message(message), status, code, param, message, wait)


def _kind_of(status: int, code: str, message: str, wait: float | None) -> Kind:
    said = f"{code} {message}"
    if status == 402 or (status in (400, 403, 429) and _NO_MONEY.search(said)):
        return Kind.QUOTA
    if status == 429:
        return Kind.QUOTA if wait is None and _DAILY.search(said) else Kind.RATE_LIMIT
    if status in (401, 403) or (status == 400 and _NO_KEY.search(said)):
        return Kind.KEY
    if status in (404, 405, 410) or (status in (400, 422) and ("model_not_found" in code or _NO_MODEL.search(message))):
        return Kind.MODEL
    if status == 407:
        return Kind.UNREACHABLE
    if status == 408:
        return Kind.TIMEOUT
    if status not in _ABOUT_THE_REQUEST or _MISHAP.search(said):
        return Kind.SERVER
    return Kind.REFUSED


def _read_error(body: str) -> tuple[str, str, str]:
    """Return (message, code and type, parameter) out of the many shapes that endpoints give their errors."""
    try:
        error = loads(body)
    except ValueError:
        return _read_page(body) or body[:2000], "", ""
    while isinstance(error, list) and error:  # Gemini wraps the object in a list
        error = error[0]
    if isinstance(error, dict):
        error = error.get("error") or error.get("errors") or error.get("detail") or error
    if isinstance(error, list) and error and isinstance(error[0], dict):
        if not isinstance(error[0].get("loc"), list):
            return _read_error(json.dumps(error[0]))
        place = [str(part) for part in error[0]["loc"] if part != "body"]  # FastAPI: what does not validate
        return json.dumps(error)[:2000], str(error[0].get("type") or ""), place[0] if place else ""
    if not isinstance(error, dict):
        return str(error)[:2000], "", ""
    code = f"{error.get('code') or ''} {error.get('type') or ''}".strip()
    return str(error.get("message") or error.get("msg") or body)[:2000], code, str(error.get("param") or "")


def _read_page(body: str) -> str:
    """Return what an HTML page is called, or says first; "" for what is no HTML page."""
    if not re.match(r"\s*<(?:!doctype|html|head|body|!--|\?xml)", body, re.I):
        return ""
    title = re.search(r"<(title|h1)[^>]*>(.*?)</\1", body, re.I | re.S)
    words = title[2] if title else re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", body, flags=re.I | re.S)
    return f"an HTML page, {' '.join(words.split())[:100]!r}"


def retry_after(headers: Mapping[str, str], body: str = "") -> float | None:
    """Return for how many seconds an endpoint asks us to wait, None where it does not say."""
    try:
        if "retry-after-ms" in headers:
            told = float(headers["retry-after-ms"]) / 1000
        else:
            told = _seconds(headers["retry-after"], headers.get("date"))
        if math.isfinite(told):
            return max(0.0, told)
    except (KeyError, ValueError, TypeError, OverflowError):
        pass  # a header that says nothing we understand is one that is not there
    found = _RETRY_AFTER.search(body)
    if found is None or not any(found.groups()):
        return None
    return sum(float(part or 0) * unit for part, unit in zip(found.groups(), (3600, 60, 1, 0.001), strict=True))


def _seconds(retry_after: str, date: str | None) -> float:
    try:
        return float(retry_after)
    except ValueError:
        # Measured by the endpoint's own clock where it tells, since ours may be off by more than the wait.
        now = time.time() if date is None else parsedate_to_datetime(date).timestamp()
        return parsedate_to_datetime(retry_after).timestamp() - now


class Completion(NamedTuple):
    """A reply, whether the endpoint told its tokens (else they are estimated), and whether it holds but a thought."""

    reply: Reply
    counted: bool
    only_thought: bool


def read_completion(content: bytes, prompt_chars: int, scrub: Scrubber) -> Completion | EndpointError:
    """Return what the body of a reply with status 200 holds: a completion, whole or streamed, or a fault.

    Texts can be encoded, whatever came. Tokens that are not told are estimated at four characters each.
    """
    text = content.decode(json.detect_encoding(content), "replace").lstrip()
    try:
        body = _join_stream(text) if re.match(r"(?:data|event|id|retry)?:", text) else loads(text)
        return _read_completion(body, text, prompt_chars, scrub)
    except (ValueError, RecursionError):  # no JSON, or nested too deeply
        page = _read_page(text)
        return EndpointError(Kind.GARBLED, scrub.message(f"no chat completion, but {page or repr(text[:80])}"))


def _read_completion(body: Any, text: str, prompt_chars: int, scrub: Scrubber) -> Completion | EndpointError:
    choice = _first(body.get("choices")) if isinstance(body, dict) else None
    if choice is None:
        if isinstance(body, dict) and any(body.get(key) for key in ("error", "errors", "detail", "message", "msg")):
            return status_error(200, {}, json.dumps(body), scrub)
        return EndpointError(Kind.GARBLED, scrub.message(f"no chat completion, but {text[:80]!r}"))
    if choice.get("error"):
        return status_error(200, {}, json.dumps({"error": choice["error"]}), scrub)
    message = _object(choice.get("message"))
    said = _text(message.get("content")) or _text(choice.get("text")) or _arguments(message)
    said = scrub.content(said).replace("\0", "\ufffd")
    usage = _object(body.get("usage"))
    told = [_count(usage.get(key)) for key in ("prompt_tokens", "completion_tokens")]
    tokens_in, tokens_out = told if None not in told else (prompt_chars // 4, len(said) // 4)
    finish = "refusal" if message.get("refusal") and not said else str(choice.get("finish_reason") or "")
    thought = not said.strip() and any(message.get(key) for key in ("reasoning_content", "reasoning", "thinking"))
    return Completion(Reply(said, finish, tokens_in or 0, tokens_out or 0), None not in told, thought)


def _join_stream(text: str) -> Any:
    """Return a stream of server-sent events as the completion that it adds up to.

    Raises:
        ValueError: an event is no JSON, or the stream breaks off.
    """
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
    """Return a message's content as text: some endpoints give it in parts, or as the object that the text should be."""
    if isinstance(content, list) and all(isinstance(part, str | dict) for part in content):
        said = [p for p in content if isinstance(p, str) or not re.search("reason|think|thought", str(p.get("type")))]
        return "".join(part if isinstance(part, str) else _text(part.get("text")) for part in said)
    if isinstance(content, dict | list):
        return dumps(content)
    return content if isinstance(content, str) else ""


def _arguments(message: Mapping[str, Any]) -> str:
    """Return the arguments of a message's tool call: where a schema is made a tool, they are the answer."""
    call = _first(message.get("tool_calls")) or {}
    return _text(_object(call.get("function") or message.get("function_call")).get("arguments"))


def _count(tokens: Any) -> int | None:
    """Return a number of tokens, None for what cannot be one."""
    try:
        number = float(tokens)
    except (TypeError, ValueError):
        return None
    return int(number) if 0 <= number <= 1e7 and not isinstance(tokens, bool) else None
