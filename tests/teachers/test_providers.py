"""A configuration's section is read into the settings of an endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from utils.config import load_config
from utils.errors import InputError
from utils.teachers.endpoint import EndpointSettings
from utils.teachers.providers import configured_endpoint


def configured(folder: Path, **setting: Any) -> EndpointSettings:
    """Return the settings that a file with this section comes to."""
    section = {"api_key": "some-key", "base_url": "http://localhost:8000/v1"} | setting
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump({"generator_model": "small", "openai_setting": section}))
    return configured_endpoint(load_config(path), "question_generator_model")


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ({}, ("json_schema", True)),
        ({"response_format": None, "system_message": None}, ("json_schema", True)),
        ({"response_format": True, "system_message": True}, ("json_schema", True)),
        ({"response_format": False, "system_message": False}, (None, False)),
        ({"response_format": "json_object"}, ("json_object", True)),
        ({"response_format": "json_schema"}, ("json_schema", True)),
    ],
)
def test_request_format_is_configured(tmp_path: Path, given: dict[str, Any], means: tuple[Any, ...]) -> None:
    settings = configured(tmp_path, **given)
    assert (settings.response_format, settings.system_message) == means


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("response_format", value) for value in ("yaml", 1, ["json_object"], {"type": "json_object"})),
        *(("system_message", value) for value in ("no", 0, [])),
        *(("timeout", value) for value in (-1, "soon", float("nan"), float("inf"), [5])),
        *(("base_url", value) for value in (8000, ["http://localhost:8000/v1"], "http://localhost:eighty/v1")),
    ],
)
def test_unusable_value_is_an_input_error_that_names_its_key(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"openai_setting\b.*{key}") as caught:
        configured(tmp_path, **{key: value})
    assert "\n" not in str(caught.value)


def test_an_api_version_may_look_like_a_date(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "generator_model: small\n"
        "openai_setting: {api_key: k, base_url: http://localhost, api_type: azure, api_version: 2024-02-01}\n"
    )
    assert configured_endpoint(load_config(path), "generator_model").api_version == "2024-02-01"
