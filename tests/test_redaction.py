"""Secrets are hidden however they are escaped, and nothing else is."""

from __future__ import annotations

import json
import logging
import sys
import time
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
import yaml

from utils import cli, redaction
from utils.config import load_config
from utils.errors import InputError, RunError
from utils.progress import log
from utils.redaction import MASK, redact, redact_known, redact_values, remember, remember_in, secrets_in_url

KEY = "zq8vNw3XyLr7/TbKc+Hd5"


@pytest.fixture(autouse=True)
def none_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set())


def in_json(text: str) -> str:
    return "".join(f"\\u{ord(character):04X}" for character in text)


ESCAPES = {
    "as it stands": str,
    "one letter as JSON": lambda key: in_json(key[0]) + key[1:],
    "JSON": in_json,
    "JSON in JSON": lambda key: json.dumps(json.dumps({"a": in_json(key)})),
    "slashes": lambda key: key.replace("/", "\\/"),
    "Python": lambda key: "".join(f"\\x{ord(character):02x}" for character in key),
    "an address": urllib.parse.quote_plus,
    "an address in an address": lambda key: urllib.parse.quote(urllib.parse.quote_plus(key)),
    "HTML": lambda key: "".join(f"&#{ord(character)};" for character in key),
    "HTML, hexadecimal": lambda key: "".join(f"&#x{ord(character):x};" for character in key),
}


@pytest.mark.parametrize("how", ESCAPES)
def test_a_known_secret_is_hidden_however_it_is_escaped(how: str) -> None:
    text = f"it is {ESCAPES[how](KEY)}!"
    assert redact_known(text) == text
    remember(KEY)
    shown = redact_known(text)
    assert MASK in shown
    assert shown.startswith(("it is", '"it'))
    assert not any(part in redaction.unescaped(shown) for part in (KEY[:5], KEY[-5:]))


@pytest.mark.parametrize(
    "text",
    [
        "sk-proj-Wm4tRb7YzQe9LkNs", "hf_AbCdEfGhIjKlMnOpQrStUvWx", "Authorization: Bearer abc.def-123=",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "http://joe:pw@host/v1", "http://pw@host",
    ],
)  # fmt: skip
def test_what_has_the_shape_of_a_key_is_hidden(text: str) -> None:
    assert MASK in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "model /data/hf_models/bge-reranker-v2-m3 not found", "task-based scikit-learn, sk-learn-contrib",
        "basic understanding", "http://127.0.0.1:8000/v1", "gpt-4o-mini-2024-07-18", "joe@example.org", "\\" * 9,
    ],
)  # fmt: skip
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == text


def test_an_address_holds_secrets_in_all_its_parts() -> None:
    url = "https://joe%21:s3cret@host:1/compatible-mode/v1beta/ab12cd34ef56/openai?api_key=x&v=2024-02-01"
    assert set(secrets_in_url(url)) == {"joe!", "s3cret", "am9lITpzM2NyZXQ=", "ab12cd34ef56", "x"}
    assert list(secrets_in_url("http://[::1")) == []
    assert list(secrets_in_url("C:/models/ab12cd34ef56")) == []


def test_a_configuration_holds_secrets_by_name() -> None:
    first, second, third, fourth = (f"{KEY}{number}" for number in range(4))
    remember_in(
        {
            "openai_setting": {"api_keys": [first], "api_kye": second, "model_revision": "0123456789abcdef"},
            "generation_params": {"extra_headers": {"Authorization": f"Bearer {third}"}, "max_tokens": 9},
            "milvus_token": f"root,{fourth}",
            "generator_model": "a-model-of-12-letters",
        }
    )
    assert redaction._known == {first, second, f"Bearer {third}", fourth}
    shown = redact_values({"user_token": first, "stop": [second, "\n"], "temperature": 0.1})
    assert shown == {"user_token": MASK, "stop": [MASK, "\n"], "temperature": 0.1}


WRONG: list[dict[str, Any]] = [
    {"milvus_tokne": KEY}, {"milvus_token": [KEY]}, {"generator_model": {"api_key": KEY}},
    {"retrieval_batch_size": "${MY_API_KEY}"}, {"seed": "http://host/?token=" + urllib.parse.quote_plus(KEY)},
    {"openai_settings": {"api_key": KEY}}, {"openai_setting": KEY}, {"corpus_path": f"http://{'k' * 12}@host/{KEY}"},
]  # fmt: skip


@pytest.mark.parametrize("values", WRONG, ids=lambda values: next(iter(values)))
def test_no_error_about_a_configuration_shows_a_key(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_API_KEY", KEY)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda _: load_config(path).corpus and None)
    assert ended.value.code == 2
    assert KEY[:8] not in capsys.readouterr().err


def test_no_error_log_or_traceback_shows_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    remember(KEY)
    assert str(InputError(f"bad {KEY}")) == str(RunError(f"bad {KEY}")) == f"bad {MASK}"
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        with pytest.raises(SystemExit):
            cli.run(lambda _: log.warning("%s", KEY))
        logging.getLogger("another").error("failed", exc_info=ValueError(KEY))
    finally:
        root.handlers = handlers
    sys.excepthook(ValueError, ValueError(KEY), None)
    sys.excepthook = sys.__excepthook__
    said = capsys.readouterr().err
    assert said.count(MASK) == 3
    assert KEY not in said


def test_hostile_text_takes_no_longer_than_other_text() -> None:
    remember(KEY, KEY[::-1])
    started = time.process_time()
    for hostile in ("\\" * 100_000, "&#0" * 30_000, "%25" * 30_000, KEY[:-1] * 5000):
        redact(f"{hostile}{KEY}")
    assert time.process_time() - started < 10
