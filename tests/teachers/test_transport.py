"""Addresses, proxies, certificates and encodings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from endpoint import ScriptedEndpoint, canned
from llm_teacher import KEY, ROMANS, extract_all, traceback_of, use
from utils.errors import InputError, RunError
from utils.teachers.endpoint_errors import EndpointError, Kind
from utils.teachers.transport import Transport


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
