"""Models of many architectures, each made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from architectures import ARCHITECTURES


@pytest.fixture(scope="session")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make a model of ``ARCHITECTURES`` once."""
    root = tmp_path_factory.mktemp("architectures")

    def make(name: str) -> Path:
        folder = root / name.replace(" ", "-").replace(",", "")
        if not folder.exists():
            torch.manual_seed(0)
            ARCHITECTURES[name](folder)
        return folder

    return make
