"""A miniature data set, and trainings on it that ended or were killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainings import river_rows, train_and_kill, train_evaluated, write_rows


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", river_rows(240))


@pytest.fixture(scope="session")
def trained(tiny_reranker: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted training leaves."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    assert train_evaluated(tiny_reranker, data, folder, "--report_to", "tensorboard", "--fail_on_regression") == 0
    return folder


@pytest.fixture
def killed(tiny_reranker: Path, data: Path, tmp_path: Path) -> Path:
    """A training that was killed between two checkpoints, after step 10."""
    return train_and_kill(tiny_reranker, data, tmp_path / "out")


@pytest.fixture(scope="session")
def interrupted(tiny_reranker: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training in full precision that was killed."""
    return train_and_kill(tiny_reranker, data, tmp_path_factory.mktemp("interrupted") / "out", "--no_mixed_precision")
