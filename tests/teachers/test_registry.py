"""A teacher is one entry of ``TEACHERS``; a configuration's section is read into the settings of an endpoint."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from miniature import CORPUS
from utils.config import load_config
from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.files import write_jsonl
from utils.schema import BridgeEntity, Document, Outcome, Verdict
from utils.teachers.base import Teacher
from utils.teachers.endpoint import EndpointSettings
from utils.teachers.language_model import LLMTeacher
from utils.teachers.ledger import Ledger
from utils.teachers.offline import OfflineTeacher
from utils.teachers.registry import TEACHERS, configured_endpoint, open_teacher


class Agreeable(Teacher):
    """A third teacher: the title is the entity, and every candidate is usable."""

    @property
    def settings(self) -> dict[str, Any]:
        return {"teacher": "agreeable"}

    async def extract(self, document: Document, turn: int = 0) -> BridgeEntity | None:
        return BridgeEntity(document.title, "title", document.contents, document.title)

    async def judge(self, entity: BridgeEntity, candidate: Document) -> Verdict:
        return Verdict(Outcome.USABLE, "as always")


def opened(folder: Path, generator_model: str) -> Teacher:
    section = {"api_key": "some-key", "base_url": "http://localhost:8000/v1"}
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump({"generator_model": generator_model, "openai_setting": section}))
    return open_teacher(load_config(path), Corpus(CORPUS), folder / "replies.sqlite", Ledger())


@pytest.mark.parametrize(
    ("name", "kind"), [("offline", OfflineTeacher), ("gpt-small", LLMTeacher), ("agreeable", Agreeable)]
)
def test_name_of_an_entry_opens_it_and_any_other_is_a_language_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: type
) -> None:
    monkeypatch.setitem(TEACHERS, "agreeable", lambda *_: Agreeable())
    teacher = opened(tmp_path, name)
    assert isinstance(teacher, kind)
    asyncio.run(teacher.aclose())


@pytest.mark.parametrize(
    ("rows", "queries", "complaint"),
    [
        (
            [{"id": "1", "contents": "Short."}],
            "questions",
            "corpus.jsonl: the offline teacher has nothing to ask about",
        ),
        (
            [{"id": "1", "contents": "Short."}],
            "riddles",
            "offline_queries must be questions or keywords, not 'riddles'",
        ),
    ],
)
def test_offline_teacher_is_refused_in_one_line(
    tmp_path: Path, rows: list[dict[str, str]], queries: str, complaint: str
) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", rows)
    path = tmp_path / "c.yaml"
    path.write_text(f"offline_queries: {queries}")
    with pytest.raises(InputError, match=complaint):
        open_teacher(load_config(path), Corpus(tmp_path / "corpus.jsonl"), tmp_path / "replies.sqlite", Ledger())


def test_unknown_level_of_evidence_is_refused_in_one_line(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", [{"id": "1", "contents": "Short."}])
    path = tmp_path / "c.yaml"
    path.write_text("generator_model: m\nevidence: loose")
    with pytest.raises(InputError, match="evidence must be one of strict, quotes, none, not 'loose'"):
        open_teacher(load_config(path), Corpus(tmp_path / "corpus.jsonl"), tmp_path / "replies.sqlite", Ledger())


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
        *(("timeout", value) for value in (0, -1, "soon", float("nan"), float("inf"), [5])),
        *(("base_url", value) for value in (8000, ["http://localhost:8000/v1"], "http://localhost:eighty/v1")),
    ],
)
def test_unusable_value_is_an_input_error_that_names_its_key(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"openai_setting\b.*{key}") as caught:
        configured(tmp_path, **{key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "price", ["{input: .nan, output: 1}", "{input: 1, output: -3}", "{input: 1, output: .inf}", "{input: 1}"]
)
def test_a_price_that_would_defeat_the_cost_limit_is_refused(tmp_path: Path, price: str) -> None:
    path = tmp_path / "c.yaml"
    setting = "openai_setting: {api_key: k, base_url: http://localhost}"
    path.write_text(f"generator_model: small\n{setting}\nprice_per_million_tokens: {price}\n")
    with pytest.raises(InputError, match="two numbers of at least 0"):
        configured_endpoint(load_config(path), "generator_model")


def test_an_api_version_may_look_like_a_date(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "generator_model: small\n"
        "openai_setting: {api_key: k, base_url: http://localhost, api_type: azure, api_version: 2024-02-01}\n"
    )
    assert configured_endpoint(load_config(path), "generator_model").api_version == "2024-02-01"
