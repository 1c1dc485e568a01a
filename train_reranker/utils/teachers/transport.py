"""HTTP to one endpoint, by the ``openai`` package: one request in, a completion (whole or streamed) or an error out."""

import asyncio
import json
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from utils.errors import InputError
from utils.files import dumps, loads
from utils.redaction import redact_known
from utils.teachers.endpoint import EndpointSettings, Scrubber
from utils.teachers.endpoint_errors import EndpointError, Kind, connection_error, html_summary, status_error
from utils.teachers.reply_cache import Reply

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class Completion(NamedTuple):
    """A reply; whether the endpoint reported its tokens (otherwise estimated), and whether it is reasoning only."""

    reply: Reply
    has_usage: bool
    only_reasoning: bool


class Transport:
    """Sends requests with any of the endpoint's API keys, over one pool of connections."""

    def __init__(self, settings: EndpointSettings) -> None:
        """Prepare the connections; raise InputError for an unusable address, proxy or certificate."""
        # A local server needs no key, but without one the package takes one from the environment.
        self._connections = _connect(settings, settings.api_keys or ("no-key",))
        self._scrub = Scrubber(settings.secrets)
        self.reached = False  # whether the endpoint has ever responded

    async def aclose(self) -> None:
        """Close all connections."""
        await self._connections[0].close()  # they share one pool

    async def post(
        self, settings: EndpointSettings, key: int, body: dict[str, Any], prompt_chars: int
    ) -> Completion | EndpointError:
        """Send a request's ``body`` to the settings' model with key number ``key``."""
        import openai

        timeout = openai.Timeout(settings.timeout, connect=min(10.0, settings.timeout))
        # Validating the body and the response with the package's types would take as long as the rest of a call.
        create = self._connections[key].chat.completions.with_raw_response.create
        try:
            # The package's timeout restarts with every byte; this one is for the whole call.
            async with asyncio.timeout(settings.timeout):
                raw = await create(model=settings.model, messages=[], extra_body=body, timeout=timeout)
            response = raw.http_response
        except TimeoutError:
            return EndpointError(Kind.TIMEOUT, f"no reply within {settings.timeout:g} s")
        except openai.APIStatusError as error:
            response = error.response
        except (openai.APIConnectionError, ValueError, OSError) as error:
            cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else None
            return connection_error(cause or error, self._scrub)
        self.reached = True
        for hop in response.history:
            if hop.status_code in (301, 302, 303):  # followed without the body
                target = hop.headers.get("location", "").partition("?")[0]
                return EndpointError(Kind.NOT_FOUND, self._scrub.message(f"it redirects to {target}"), hop.status_code)
        if response.is_error:
            return status_error(response.status_code, response.headers, response.text, self._scrub)
        charset = response.charset_encoding or "utf-8"
        content = response.content if charset.lower() in ("utf-8", "utf8") else response.text.encode()
        return read_completion(content, prompt_chars, self._scrub)


def named_in_environment(*variables: str) -> str:
    """Return those environment variables, in upper or lower case, that are set."""
    return " and ".join(name for name, value in os.environ.items() if name.upper() in variables and value)


def _connect(settings: EndpointSettings, keys: tuple[str, ...]) -> list[Any]:
    """Return one client of the ``openai`` package for each key."""
    import openai

    proxies = f"{named_in_environment(*PROXIES)} in the environment"
    try:
        pool = openai.DefaultAsyncHttpxClient()  # up to 1,000 connections, of which 100 are kept
    except ImportError:
        raise InputError(f"{proxies} names a SOCKS proxy: pip install socksio, or unset it") from None
    except OSError as error:
        file = "SSL_CERT_FILE in the environment"
        raise InputError(f"{file} is not a certificate file ({error.strerror or error}); fix or unset it") from None
    except Exception:  # ValueError, and the HTTP library's InvalidURL, which has no better base
        raise InputError(f"{proxies} is not a proxy address; fix or unset it") from None
    url = urlsplit(settings.base_url)
    address, query = url._replace(query="").geturl(), dict(parse_qsl(url.query, keep_blank_values=True))
    shared: dict[str, Any] = {"max_retries": 0, "http_client": pool, "default_query": query}
    try:
        if settings.api_type == "azure":
            shared |= {"azure_endpoint": address, "api_version": settings.api_version}
            return [openai.AsyncAzureOpenAI(api_key=key, **shared) for key in keys]
        return [openai.AsyncOpenAI(api_key=key, base_url=address, **shared) for key in keys]
    except Exception:  # InvalidURL again
        raise InputError(f"{settings.section}: base_url is not a usable address; fix it") from None


def read_completion(content: bytes, prompt_chars: int, scrub: Scrubber) -> Completion | EndpointError:
    """Return the completion in a body of status 200, or the error; tokens not reported are four characters each."""
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
    content = redact_known(content).replace("\0", "\ufffd")
    usage = _object(body.get("usage"))
    tokens_in, tokens_out = _tokens(usage.get("prompt_tokens")), _tokens(usage.get("completion_tokens"))
    # Zeros would never reach a limit on cost.
    has_usage = bool(tokens_in) and tokens_out is not None and (tokens_out > 0 or not content)
    if not has_usage:
        tokens_in, tokens_out = prompt_chars // 4, len(content) // 4
    finish = " ".join(redact_known(str(choice.get("finish_reason") or ""))[:100].split())
    finish = "refusal" if message.get("refusal") and not content else finish
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
