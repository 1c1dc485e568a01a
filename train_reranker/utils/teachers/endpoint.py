"""One model behind an OpenAI-compatible endpoint: its settings, and the API keys that must not leak."""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from utils.errors import InputError
from utils.redaction import MASK, redact, remember, secrets_in_url, unescaped
from utils.teachers.ledger import Price

TIMEOUT = 60.0  # seconds per reply, unless configured
_USUAL_PART = re.compile(r"v\d\w{0,5}|[a-z]{1,9}")  # of an address's path: /openai/v1
RESPONSE_FORMATS = ("json_schema", "json_object", None)  # from the strictest down


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """How to reach and ask one model; its request format applies until the endpoint refuses it."""

    provider: str  # of the section ``<provider>_setting``
    base_url: str
    model: str
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    params: Mapping[str, Any] = field(default_factory=dict)  # ``generation_params``
    timeout: float = TIMEOUT
    price: Price | None = None
    api_type: str = "openai"
    api_version: str | None = None
    model_key: str = "generator_model"  # the key that the model came from, for messages
    model_revision: str | None = None  # distinguishes models that are served under one name
    response_format: str | None = RESPONSE_FORMATS[0]
    system_message: bool = True

    def __post_init__(self) -> None:
        """Normalise keys, address and parameters; raise InputError for what no request can carry."""
        params = {name: value for name, value in self.params.items() if name != "do_sample" and value is not None}
        if "max_new_tokens" in params:  # like do_sample, it is known to local generation only
            params.setdefault("max_tokens", params.pop("max_new_tokens"))
        object.__setattr__(self, "params", params)
        if "response_format" in params:
            object.__setattr__(self, "response_format", None)
        object.__setattr__(self, "api_keys", tuple(key.strip() for key in self.api_keys))
        for number, key in enumerate(self.api_keys, 1):
            if not re.fullmatch(r"[!-~]+", key):
                raise InputError(f"{self.section}: API key no. {number} is empty or has characters that cannot be sent")
        object.__setattr__(self, "base_url", _clean_url(self.base_url, f"{self.section}: base_url"))
        remember(*self.secrets)
        try:
            json.dumps(params, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"generation_params cannot be sent to {self.where}: {error}; fix the value") from None
        if self.api_type == "azure" and not self.api_version:
            raise InputError(f"{self.section}: api_type azure needs an api_version")

    @property
    def section(self) -> str:
        """The YAML section that describes the endpoint."""
        return f"{self.provider}_setting"

    @property
    def where(self) -> str:
        """Provider, model and address for a message; of the latter, only what is certainly no secret."""
        url = urlsplit(self.base_url)
        path = ["…" if part and not _USUAL_PART.fullmatch(part) else part for part in url.path.split("/")]
        host = url.netloc.rpartition("@")[2]
        return redact(f"{self.provider} (model {self.model}, {url.scheme}://{host}{'/'.join(path)})")

    @property
    def secrets(self) -> tuple[str, ...]:
        """The API keys, and what looks secret in the address."""
        return (*self.api_keys, *secrets_in_url(self.base_url))


def _clean_url(text: str, where: str) -> str:
    """Return a base URL without spaces, quotes, the chat API's path and a fragment; errors show no part of it."""
    text = text.strip(" \t\r\n\"'")
    if not re.match(r"https?://[^/?#]", text):
        raise InputError(f"{where} must be an address that begins with http:// or https://")
    if re.search(r"[\s\"'<>\x00-\x1f]|^https?://.*https?://", text):
        raise InputError(f"{where} has a space, a quote or a second http:// in it; fix it")
    try:
        url = urlsplit(text)
        host, place = url.hostname or "", url.netloc.rpartition("@")[2]
        host.encode("ascii" if host.isascii() else "idna")
        usable = host and url.port != 0 and unicodedata.normalize("NFKC", place) == place  # no full-width digits
    except ValueError:
        usable = False
    if not usable:
        raise InputError(f"{where} has no usable host and port (1 to 65535); fix it")
    return url._replace(path=re.sub(r"(?:/chat)?/completions/*$", "", url.path), fragment="").geturl()


class Scrubber:
    """Removes API keys from text that others wrote: endpoints like to quote them, whole or in part."""

    _KEY_LIKE = re.compile(
        r"(?i)bearer\s+\S+|\b(?:sk|pk|rk|gsk|xai|hf)[-_][\w.*-]{5,}|\bAIza[\w-]{8,}|[\w.-]*\*{3,}[\w.-]*"
    )
    _FRAGMENT = 5  # fewer characters of a key reveal nothing, and occur in ordinary words

    def __init__(self, keys: Iterable[str]) -> None:
        """Remember the keys."""
        sizes = ((key, min(self._FRAGMENT, len(key))) for key in keys if key)
        pieces = {key[start : start + size] for key, size in sizes for start in range(len(key) - size + 1)}
        self._pieces = re.compile(f"(?=({'|'.join(map(re.escape, sorted(pieces)))}))") if pieces else None

    def message(self, text: str, max_chars: int = 300) -> str:
        """Return one line of ``text`` without anything that is, or looks like, a part of a key."""
        text = unescaped(text)
        hidden = bytearray(len(text))
        for found in self._pieces.finditer(text) if self._pieces else ():
            hidden[found.start(1) : found.end(1)] = b"\1" * len(found[1])
        shown = "".join("\0" if hide else char for char, hide in zip(text, hidden, strict=True))
        line = " ".join(redact(self._KEY_LIKE.sub(MASK, re.sub("\0+", MASK, shown))).split())
        return line if len(line) <= max_chars else f"{line[:max_chars]}..."
