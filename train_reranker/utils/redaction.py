"""Keys, tokens and passwords, which no file, log line or error shows: those of a configuration, and lookalikes.

A secret is known by the name of its key, in the YAML file or the environment, or by its place in an address. It is
found as it stands and as JSON, Python, addresses and HTML escape it, but not in base64 or piecemeal.
"""

import base64
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

MASK = "[key]"
SHORTEST = 12  # characters of a known secret; shorter ones, such as EMPTY or ollama, are words that occur in texts
# Keys of a <provider>_setting that hold no secret. Any other one there may be a mistyped api_key.
PUBLIC = {"base_url", "api_base", "api_type", "api_version", "model_revision", "response_format", "timeout"}

_SECRET_NAME = re.compile(r"(?i)key|token|secret|passw|auth|credential")
_KEY_SHAPED = re.compile(
    r"(?<=://)[^\s/?#@]+(?=@)"  # user and password of an address
    r"|\b(?:sk|pk|rk|gsk|xai|ghp|glpat)[-_](?=[\w-]*\d)[\w-]{16,}|\bhf_\w{20,}|\bAIza[\w-]{20,}"
    r"|(?i:\b(?:bearer|basic)\s+)(?=\S*\d)[\w.~+/=-]{8,}|\beyJ[\w-]{10,}\.[\w-]+\.[\w-]*"
)
# Bounded, so that a text of nothing but backslashes takes no longer than others.
_ESCAPE = re.compile(
    r"(?i)\\{1,8}(?:u(?P<json>[0-9a-f]{4})|x(?P<hex>[0-9a-f]{2})|/)|%(?:25){0,4}(?P<url>[0-9a-f]{2})"
    r"|&#(?:x0{0,6}(?P<html>[0-9a-f]{2,4})|0{0,6}(?P<decimal>[0-9]{2,5}));"
)
_known: set[str] = set()


def remember(*secrets: str) -> None:
    """Hide these from now on, if they are long enough to be no words."""
    _known.update(secret for secret in secrets if len(secret) >= SHORTEST and "${" not in secret)


def remember_in(value: Any, name: str = "") -> None:
    """Hide the secrets in a configuration, or in a value of it that has this name."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            secret = name.endswith("_setting") and key not in PUBLIC
            remember_in(item, f"{key} (a key)" if secret else name if _SECRET_NAME.search(name) else str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            remember_in(item, name)
    elif isinstance(value, str):
        remember(*secrets_in_url(value), *(value.split(",") if _SECRET_NAME.search(name) else ()))


def remember_variable(name: str) -> str:
    """Return the value of an environment variable, and hide it if its name says that it is secret."""
    value = os.environ[name]
    remember_in(value, name)
    return value


def secrets_in_url(text: str) -> Iterator[str]:
    """Yield what looks secret in an address: user and password, parameters, and parts of the path that look random."""
    try:
        url = urlsplit(text.strip())
        user, password = unquote(url.username or ""), unquote(url.password or "")
    except ValueError:
        return
    if not url.scheme or not url.netloc:
        return
    yield from filter(None, (user, password))
    if user or password:
        yield base64.b64encode(f"{user}:{password}".encode()).decode()  # as HTTP sends it
    yield from (value for name, value in parse_qsl(url.query) if _SECRET_NAME.search(name) or _looks_random(value))
    yield from filter(_looks_random, map(unquote, url.path.split("/")))


def _looks_random(text: str) -> bool:
    words = re.findall(r"[A-Za-z0-9]+", text)
    return any(len(word) >= 10 and re.search(r"\d", word) and re.search(r"\D", word) for word in words)


def redact(text: str) -> str:
    """Return a text to show or write without known secrets and what has the shape of one."""
    return _KEY_SHAPED.sub(MASK, redact_known(text))


def redact_known(text: str) -> str:
    """Return a text, such as a model's reply, without known secrets; what only looks like one may be its subject."""
    plain = unescaped(text) if _known else ""
    if not any(secret in plain for secret in _known):
        return text
    return _pattern(frozenset(_known)).sub(MASK, text)


def unescaped(text: str) -> str:
    """Return a text with the characters that JSON, Python, addresses or HTML escape in it, if they can be printed."""

    def character(match: re.Match[str]) -> str:
        hexadecimal, decimal = match["json"] or match["hex"] or match["url"] or match["html"], match["decimal"]
        shown = chr(int(hexadecimal, 16) if hexadecimal else int(decimal)) if hexadecimal or decimal else "/"
        return shown if shown.isprintable() else match[0]

    return _ESCAPE.sub(character, text)


def redact_values(value: Any, name: str = "") -> Any:
    """Return a value of a configuration as a record may show it."""
    remember_in(value, name)
    if isinstance(value, Mapping):
        return {key: redact_values(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_values(item, name) for item in value]
    return redact(value) if isinstance(value, str) else value


@lru_cache(maxsize=8)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(_escaped, sorted(secrets, key=lambda secret: (-len(secret), secret)))))


def _escaped(text: str) -> str:
    """Return a pattern that finds a text as it stands, and with any of its characters escaped."""
    return "".join(map(_escaped_character, text))


@lru_cache(maxsize=256)
def _escaped_character(character: str) -> str:
    code = ord(character)
    escapes = rf"\\{{1,8}}(?:u{code:04x}|x{code:02x})|%(?:25){{0,4}}{code:02x}|&#(?:0{{0,6}}{code}|x0{{0,6}}{code:x});"
    return rf"(?:\\{{0,8}}{re.escape(character)}|(?i:{escapes}))"
