"""What an endpoint's failures mean: status codes, error bodies of many shapes, redirects, broken connections."""

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import StrEnum

from utils.files import loads
from utils.teachers.endpoint import Scrubber


class Kind(StrEnum):
    """What went wrong with a request, as it is counted in the ledger."""

    RATE_LIMIT = "rate_limit"
    QUOTA = "quota"
    ACCESS = "access_denied"  # status 401 or 403
    NOT_FOUND = "not_found"  # the model, or the address
    SERVER = "server_error"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    UNREACHABLE = "unreachable"
    INVALID_RESPONSE = "invalid_response"  # status 200, but not a chat completion
    EMPTY = "empty_reply"  # a completion without text
    REFUSED = "refused"  # the request itself, or a parameter of it


MAY_BE_BILLED = (
    Kind.SERVER,
    Kind.TIMEOUT,
    Kind.CONNECTION,
    Kind.INVALID_RESPONSE,
)  # it may have been worked on


@dataclass(frozen=True)
class EndpointError:
    """A request without a reply; ``wait`` is its Retry-After in seconds."""

    kind: Kind
    text: str  # safe to show
    status: int | None = None
    code: str = ""
    param: str = ""
    raw: str = field(default="", repr=False)  # what the endpoint said, which may quote a key
    wait: float | None = None

    @property
    def refuses(self) -> bool:
        """Whether the endpoint rejected something in the request, or does not know what it asks for."""
        return self.kind in (Kind.REFUSED, Kind.NOT_FOUND)

    @property
    def denies_access(self) -> bool:
        """Whether the key, or its account, has no access; any other 403 may be about one question."""
        text = f"{self.code} {self.raw}"
        forbidden = _NO_ACCESS.search(text) is not None and _MODERATION.search(text) is None
        return self.kind is Kind.ACCESS and (self.status != 403 or forbidden)

    @property
    def signature(self) -> tuple[Kind, int | None, str]:
        """Equal for errors that say the same, apart from numbers, request ids and the like."""
        return self.kind, self.status, re.sub(r"\S*\d\S*", "#", self.raw or self.text)[:200]

    def __str__(self) -> str:
        """Return the error in a few words."""
        status = "" if self.status is None else f" {self.status}"
        return f"{self.kind.replace('_', ' ')}{status}{f': {self.text}' if self.text else ''}"


_NO_MONEY = re.compile(r"insufficient_quota|insufficient_balance|billing_|credit balance|exceeded_current_quota_error")
_DAILY = re.compile(r"per[- ]day|daily", re.I)
_NO_MODEL = re.compile(r"model[^.]{0,80}(?:not exist|not found|unknown|is invalid)|(?:unknown|invalid) model", re.I)
_NO_KEY = re.compile(r"api[ _-]?key[^.]{0,40}(?:not valid|invalid|missing|incorrect|required)|invalid_api_key", re.I)
_NO_ACCESS = re.compile(
    r"(?i)\bkey\b|api_key|token|credential|\bauth|permission|access|project|account|organi[sz]ation|subscri|\bplan\b|billing"
    r"|region|countr|territor|location|\bmodel"
)
_MODERATION = re.compile(r"flagged|moderat|content[ _]filter|safety", re.I)
_TRANSIENT = re.compile(r"json_validate_failed|tool_use_failed|failed_generation|failed to generate json", re.I)
_RETRY_AFTER = re.compile(
    r'(?i)(?:retryDelay"\s*:\s*"|(?:try again|retry) (?:in|after) )'
    r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?) ?s(?:ec\w*)?)?(?:(\d+(?:\.\d+)?)ms)?(?!\w)"
)
_NEVER_CONNECTED = {
    "ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol", "LocalProtocolError", "TooManyRedirects",
}  # fmt: skip
_ABOUT_THE_REQUEST = {400, *range(411, 418), 406, 422, 426, 428, 431, 451}  # other 4xx are retried


def connection_error(error: BaseException, scrub: Scrubber) -> EndpointError:
    """Classify an exception of the HTTP library, raised when there is no response."""
    name = type(error).__name__  # by name, since the openai package has changed its HTTP library before
    if name in _NEVER_CONNECTED or isinstance(error, ValueError):  # ValueError: an impossible host name
        text = name if name == "LocalProtocolError" else f"{name} {error}"
        return EndpointError(Kind.UNREACHABLE, scrub.message(text))
    if name == "DecodingError":
        text = "no chat completion, but a body that does not match its Content-Encoding"
        return EndpointError(Kind.INVALID_RESPONSE, text)
    return EndpointError(Kind.TIMEOUT if "Timeout" in name else Kind.CONNECTION, name)


def status_error(status: int, headers: Mapping[str, str], body: str, scrub: Scrubber) -> EndpointError:
    """Classify a response with an error status or body; ``headers`` must be case-insensitive."""
    message, code, param = _read_error(body)
    wait = retry_after(headers, body)
    inner = re.match(r"[45]\d\d\b", code) if status < 400 else None
    kind = _classify(int(inner[0]) if inner else max(status, 400), code, message, wait)
    if status < 400 and not inner and kind is Kind.REFUSED:  # a gateway that reports an error of the service behind it
        kind = Kind.SERVER
    return EndpointError(kind, scrub.message(message), status, code, param, message, wait)


def _classify(status: int, code: str, message: str, wait: float | None) -> Kind:
    text = f"{code} {message}"
    if status == 402 or (status in (400, 403, 429) and _NO_MONEY.search(text)):
        return Kind.QUOTA
    if status == 429:
        return Kind.QUOTA if wait is None and _DAILY.search(text) else Kind.RATE_LIMIT
    if status in (401, 403) or (status == 400 and _NO_KEY.search(text)):
        return Kind.ACCESS
    if status in (404, 405, 410) or (status in (400, 422) and ("model_not_found" in code or _NO_MODEL.search(message))):
        return Kind.NOT_FOUND
    if status in (407, 408):
        return Kind.UNREACHABLE if status == 407 else Kind.TIMEOUT
    if status not in _ABOUT_THE_REQUEST or _TRANSIENT.search(text):
        return Kind.SERVER
    return Kind.REFUSED


def _read_error(body: str) -> tuple[str, str, str]:
    """Return (message, code and type, parameter) of an error body, in any of the shapes that endpoints use."""
    try:
        error = loads(body)
    except ValueError:
        return html_summary(body) or body[:2000], "", ""
    while isinstance(error, list) and error:  # Gemini wraps the object in a list
        error = error[0]
    if isinstance(error, dict):
        error = error.get("error") or error.get("errors") or error.get("detail") or error
    if isinstance(error, list) and error and isinstance(error[0], dict):
        if not isinstance(error[0].get("loc"), list):
            return _read_error(json.dumps(error[0]))
        place = [str(part) for part in error[0]["loc"] if part != "body"]  # FastAPI's validation errors
        return json.dumps(error)[:2000], str(error[0].get("type") or ""), place[0] if place else ""
    if not isinstance(error, dict):
        return str(error)[:2000], "", ""
    code = f"{error.get('code') or ''} {error.get('type') or ''}".strip()
    return str(error.get("message") or error.get("msg") or body)[:2000], code, str(error.get("param") or "")


def html_summary(body: str) -> str:
    """Return an HTML page's title or first words; "" for anything else."""
    body = body[:4000]  # the patterns take quadratic time
    if not re.match(r"\s*<(?:!doctype|html|head|body|!--|\?xml)", body, re.I):
        return ""
    title = re.search(r"<(title|h1)[^>]*>(.*?)</\1", body, re.I | re.S)
    words = title[2] if title else re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", body, flags=re.I | re.S)
    return f"an HTML page, {' '.join(words.split())[:100]!r}"


def retry_after(headers: Mapping[str, str], body: str = "") -> float | None:
    """Return the seconds that an endpoint asks to wait, from its headers, else its body; None if it does not say."""
    try:
        milliseconds = headers.get("retry-after-ms")
        seconds = float(milliseconds) / 1000 if milliseconds is not None else _header_seconds(headers)
        if math.isfinite(seconds):
            return max(0.0, seconds)
    except (KeyError, ValueError, TypeError, OverflowError):
        pass  # a header that cannot be understood counts as absent
    found = _RETRY_AFTER.search(body)
    if found is None or not any(found.groups()):
        return None
    seconds = sum(float(part or 0) * unit for part, unit in zip(found.groups(), (3600, 60, 1, 0.001), strict=True))
    return seconds if math.isfinite(seconds) else None


def _header_seconds(headers: Mapping[str, str]) -> float:
    try:
        return float(headers["retry-after"])
    except ValueError:
        # By the endpoint's own clock if it sends one: ours may be off by more than the wait.
        now = parsedate_to_datetime(headers["date"]).timestamp() if "date" in headers else time.time()
        return parsedate_to_datetime(headers["retry-after"]).timestamp() - now
