"""A teacher is one entry of ``TEACHERS``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from miniature import CORPUS
from utils.config import load_config
from utils.corpus.documents import Corpus
from utils.schema import BridgeEntity, Document, Outcome, Verdict
from utils.teachers.base import Teacher
from utils.teachers.language_model import LLMTeacher
from utils.teachers.ledger import Ledger
from utils.teachers.offline import OfflineTeacher
from utils.teachers.registry import TEACHERS, open_teacher


class Agreeable(Teacher):
    """A third teacher: the title is the entity, and every candidate is usable."""

    @property
    def settings(self) -> dict[str, Any]:
        return {"teacher": "agreeable"}

    async def extract(self, document: Document) -> BridgeEntity | None:
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
