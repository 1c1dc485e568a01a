"""Trainings that are killed and resumed, from complete checkpoints alone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from trainings import assert_as_uninterrupted, train_and_kill, train_evaluated
from utils.errors import InputError
from utils.training.checkpoints import find_fault

pytestmark = pytest.mark.usefixtures("one_thread")


def test_resumed_run_ends_as_if_never_killed(tiny_reranker: Path, data: Path, trained: Path, killed: Path) -> None:
    assert sorted(p.name for p in killed.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-8"]
    assert train_evaluated(tiny_reranker, data, killed, "--resume") == 0
    assert_as_uninterrupted(killed, trained)


def test_resumed_run_of_deepspeed_ends_as_if_never_killed(tiny_reranker: Path, data: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train_evaluated(tiny_reranker, data, whole, "--use_deepspeed") == 0
    train_and_kill(tiny_reranker, data, killed, "--use_deepspeed")
    assert train_evaluated(tiny_reranker, data, killed, "--use_deepspeed", "--resume") == 0
    assert_as_uninterrupted(killed, whole)


def test_truncated_checkpoints_are_reported_and_left_aside(
    tiny_reranker: Path, data: Path, killed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut = killed / "checkpoint-8" / "model.safetensors"
    os.truncate(cut, cut.stat().st_size // 2)
    with pytest.raises(InputError, match=r"checkpoint-8 cannot be resumed: model.safetensors is truncated"):
        train_evaluated(tiny_reranker, data, killed, "--resume", str(cut.parent))
    with pytest.raises(InputError, match="was started with --seed 42, not 1"):
        train_evaluated(tiny_reranker, data, killed, "--resume", "--seed", "1")
    assert train_evaluated(tiny_reranker, data, killed, "--resume") == 0
    assert "checkpoint-8 is incomplete and left aside: model.safetensors is truncated" in caplog.text
    for file in killed.glob("checkpoint-*/optimizer.pt"):
        os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(InputError, match="no complete checkpoint"):
        train_evaluated(tiny_reranker, data, killed, "--resume")


@pytest.mark.parametrize(
    ("file", "content", "reported"),
    [
        ("scheduler.pt", None, "it has no state of the optimizer and the scheduler"),
        ("trainer_state.json", "[]", "trainer_state.json is truncated"),
        ("trainer_state.json", "{}", "trainer_state.json is truncated"),
    ],
)
def test_faults_that_transformers_ignores_are_reported(
    file: str, content: str | None, reported: str, interrupted: Path, tmp_path: Path
) -> None:
    checkpoint = Path(shutil.copytree(interrupted / "checkpoint-8", tmp_path / "checkpoint-8"))
    assert find_fault(checkpoint) is None
    (checkpoint / file).unlink()
    if content is not None:
        (checkpoint / file).write_text(content)
    assert find_fault(checkpoint) == reported
