"""HTTP to one endpoint, by the ``openai`` package: one request in, a completion or an error out."""

import asyncio
import os
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from utils.errors import InputError
from utils.teachers.completion import Completion, read_completion
from utils.teachers.endpoint import EndpointSettings, Scrubber
from utils.teachers.endpoint_errors import EndpointError, Kind, connection_error, status_error

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class Transport:
    """Sends requests with any of the endpoint's API keys, over one pool of connections."""

    def __init__(self, settings: EndpointSettings) -> None:
        """Prepare the connections; raise InputError for an unusable address, proxy or certificate."""
        # A local server needs no key, but without one the package takes one from the environment.
        self._connections = _connect(settings, settings.api_keys or ("no-key",))
        self._scrub = Scrubber(settings.api_keys)
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
        # The body as extra_body and the raw response, since validating both with the package's types takes as long as
        # the rest of a call.
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
        except openai.APIConnectionError as error:
            return connection_error(error.__cause__ or error, self._scrub)
        except (ValueError, OSError) as error:
            return connection_error(error, self._scrub)
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
