"""A cache for each test, and a check that no test leaks a key."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from llm_teacher import KEYS


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "replies.sqlite"


@pytest.fixture(autouse=True)
def no_key_anywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Any:
    """Whatever a test does, no file, log line or output of it has a key."""
    with caplog.at_level(logging.DEBUG):
        yield
    out, err = capfd.readouterr()
    texts = [
        caplog.text,
        out,
        err,
        *(path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*.*") if path.is_file()),
    ]
    for key in KEYS:
        assert not any(key[3:] in text or key[:12] in text for text in texts)
