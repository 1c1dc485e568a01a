"""What passes between us and an endpoint: its settings, requests in its dialect, what its replies and refusals mean.

Nothing here waits or sends; :mod:`utils.llm.client` does.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from utils.cli import InputError
from utils.llm.ledger import Price
from utils.llm.prompts import Question
from utils.llm.replies import Reply

TIMEOUT = 60.0  # seconds that a reply may take, unless the configuration says otherwise


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """One model behind an OpenAI-compatible endpoint, and how it is to be asked.

    ``provider`` names the section ``<provider>_setting`` and ``model_key`` the key that the model came from, for error
    messages; ``params`` are ``generation_params``, sent as they are but for the two that only local generation knows.
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

    def __post_init__(self) -> None:
        """Bring keys and parameters into the shape in which they are sent.

        Raises:
            InputError: a key or the address is one that no request can carry.
        """
        params = {name: value for name, value in self.params.items() if name != "do_sample" and value is not None}
        if "max_new_tokens" in params:
            params.setdefault("max_tokens", params.pop("max_new_tokens"))
        object.__setattr__(self, "params", params)
        object.__setattr__(self, "api_keys", tuple(key.strip() for key in self.api_keys))
        for number, key in enumerate(self.api_keys, 1):
            if not re.fullmatch(r"[!-~]+", key):
                raise InputError(f"{self.section}: API key no. {number} is empty or has characters that no key has")
        if not re.match(r"https?://[^/]", self.base_url):
            raise InputError(f"{self.section}: base_url must be an address that begins with http:// or https://")
        if self.api_type == "azure" and not self.api_version:
            raise InputError(f"{self.section}: api_type azure wants an api_version, too")

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
    REFUSED = "refused"  # any other 4xx: the request itself, or a parameter of it


@dataclass(frozen=True)
class Fault:
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
    def shown(self) -> str:
        """The fault in a few words."""
        status = "" if self.status is None else f" {self.status}"
        return f"{self.kind.replace('_', ' ')}{status}{f': {self.text}' if self.text else ''}"


_NO_MONEY = re.compile(r"insufficient_quota|insufficient_balance|billing_|credit balance|exceeded_current_quota_error")
_NO_MODEL = re.compile(r"model[^.]{0,80}(?:not exist|not found|unknown|is invalid)|(?:unknown|invalid) model", re.I)
_NO_KEY = re.compile(r"api[ _-]?key[^.]{0,40}(?:not valid|invalid|missing|incorrect|required)|invalid_api_key", re.I)
_TOLD_WAIT = re.compile(r'(?:retryDelay"\s*:\s*"|try again in )(\d+(?:\.\d+)?)(ms|s)\b')
_NEVER_CONNECTED = {"ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol", "LocalProtocolError"}


def connection_fault(error: Exception, scrub: Scrubber) -> Fault:
    """Say what an exception of the ``openai`` package means that stands for no reply at all."""
    cause = error.__cause__
    name = type(cause).__name__  # by name, since the package has changed the HTTP library under it before
    if name in _NEVER_CONNECTED:
        return Fault(Kind.UNREACHABLE, scrub.message(f"{name} {cause}" if name != "LocalProtocolError" else name))
    return Fault(Kind.TIMEOUT if "Timeout" in name else Kind.CONNECTION, name)


def status_fault(status: int, headers: Mapping[str, str], body: str, scrub: Scrubber) -> Fault:
    """Say what a reply with an error status means; ``headers`` must not care for case."""
    message, code, param = _read_error(body)
    kind = _kind_of(status, code, message)
    # What is said of a refused key is all but certain to quote it, and says nothing more.
    text = "" if kind is Kind.KEY else scrub.message(message)
    return Fault(kind, text, status, code, param, message, told_wait(headers, body))


def _kind_of(status: int, code: str, message: str) -> Kind:
    said = f"{code} {message}"
    if status == 402 or (status in (400, 403, 429) and _NO_MONEY.search(said)):
        return Kind.QUOTA
    if status in (401, 403) or (status == 400 and _NO_KEY.search(said)):
        return Kind.KEY
    if status in (404, 405) or (status in (400, 422) and ("model_not_found" in code or _NO_MODEL.search(message))):
        return Kind.MODEL
    if status == 429:
        return Kind.RATE_LIMIT
    if status == 408:
        return Kind.TIMEOUT
    return Kind.SERVER if status >= 500 or status in (409, 425) else Kind.REFUSED


def _read_error(body: str) -> tuple[str, str, str]:
    """Return (message, code and type, parameter) out of the many shapes that endpoints give their errors."""
    try:
        error = json.loads(body)
    except ValueError:
        return body[:2000], "", ""
    while isinstance(error, list) and error:  # Gemini wraps the object in a list
        error = error[0]
    if isinstance(error, dict):
        error = error.get("error") or error.get("detail") or error
    if isinstance(error, list) and error and isinstance(error[0], dict):  # FastAPI: a list of what does not validate
        place = [str(part) for part in error[0].get("loc", ()) if part != "body"]
        return json.dumps(error)[:2000], str(error[0].get("type") or ""), place[0] if place else ""
    if not isinstance(error, dict):
        return str(error)[:2000], "", ""
    code = f"{error.get('code') or ''} {error.get('type') or ''}".strip()
    return str(error.get("message") or body)[:2000], code, str(error.get("param") or "")


def told_wait(headers: Mapping[str, str], body: str = "") -> float | None:
    """Return for how many seconds an endpoint asks us to wait, None where it does not say."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        if "retry-after" in headers:
            return max(0.0, _seconds(headers["retry-after"], headers.get("date")))
    except (ValueError, TypeError):
        pass  # a header that says nothing we understand is one that is not there
    found = _TOLD_WAIT.search(body)
    return None if found is None else float(found[1]) / (1000 if found[2] == "ms" else 1)


def _seconds(retry_after: str, date: str | None) -> float:
    try:
        return float(retry_after)
    except ValueError:
        # Measured by the endpoint's own clock where it tells, since ours may be off by more than the wait.
        now = time.time() if date is None else parsedate_to_datetime(date).timestamp()
        return parsedate_to_datetime(retry_after).timestamp() - now


def read_completion(content: bytes, prompt_chars: int, scrub: Scrubber) -> tuple[Reply, bool] | None:
    """Return the reply in the body of a chat completion and whether it told its tokens; None if it is no completion.

    Tokens that are not told are estimated at four characters each.
    """
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        message = choice["message"]
        text, refusal = message.get("content") or "", message.get("refusal")
        if isinstance(text, list):  # some endpoints give the content in parts
            text = "".join(part.get("text") or "" for part in text)
        usage = body.get("usage") or {}
        told: tuple[Any, Any] = usage.get("prompt_tokens"), usage.get("completion_tokens")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None
    text = scrub.content(str(text)).encode("utf-8", "replace").decode("utf-8")
    tokens_in, tokens_out = told
    known = isinstance(tokens_in, int) and isinstance(tokens_out, int)
    if not known:
        tokens_in, tokens_out = prompt_chars // 4, len(text) // 4
    finish = "refusal" if refusal and not text else str(choice.get("finish_reason") or "")
    return Reply(text, finish, tokens_in, tokens_out), known


class Dialect:
    """How one model wants to be asked: everything at first, then without what it turned out not to know."""

    _FORMATS = ("json_schema", "json_object", None)
    _FORMAT_WORDS = re.compile(r"response_format|json_schema|json_object|structured.output|guided", re.IGNORECASE)
    _UNKNOWN = re.compile(
        r"unsupported|unrecogni[sz]ed|unknown|unexpected|extra|deprecated|(?:not|n't) (?:be |yet )?(?:support|allow|"
        r"permit|implement|accept|available|compatible|recogni[sz]ed)|use 'max_completion_tokens'",
        re.IGNORECASE,
    )

    def __init__(self, params: Mapping[str, Any]) -> None:
        """Start with all generation parameters, a schema and a system message."""
        self._params = dict(params)
        self._format = 0
        self._system = True

    def body(self, question: Question) -> dict[str, Any]:
        """Return the request's body, without the model."""
        messages = [dict(message) for message in question.messages]
        if not self._system:
            system, user, *rest = messages
            messages = [{"role": "user", "content": f"{system['content']}\n\n{user['content']}"}, *rest]
        body = {"messages": messages, **self._params}
        if self._FORMATS[self._format] == "json_schema":
            schema = {"name": question.schema_name, "strict": True, "schema": dict(question.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self._FORMATS[self._format] == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body

    def learn(self, fault: Fault) -> str | None:
        """Leave out what ``fault`` complains of, and say what that was; None if it is about something else."""
        name = next((name for name in self._params if name == fault.param), None) or self._named(fault.said)
        if name is not None and self._UNKNOWN.search(f"{fault.code} {fault.said}"):
            value = self._params.pop(name)
            if name == "max_tokens" and "max_completion_tokens" in fault.said:
                self._params["max_completion_tokens"] = value
                return "max_completion_tokens for max_tokens"
            return f"no {name}"
        if self._FORMATS[self._format] and self._FORMAT_WORDS.search(f"{fault.param} {fault.said}"):
            self._format += 1
            return f"response_format {self._FORMATS[self._format] or 'none'}"
        if self._system and re.search(
            r"system.{0,20}(?:role|message|prompt|instruction)|role.{0,20}system", fault.said, re.I
        ):
            self._system = False
            return "no system message"
        return None

    def _named(self, text: str) -> str | None:
        return next((name for name in self._params if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)), None)
