"""A resumed training: what it takes from the checkpoint, and what from the flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainings import assert_as_uninterrupted, evaluations, train_evaluated
from utils.training import history

pytestmark = pytest.mark.usefixtures("one_thread")


def test_resumed_run_saves_as_often_as_is_asked_now(tiny_reranker: Path, data: Path, killed: Path) -> None:
    assert train_evaluated(tiny_reranker, data, killed, "--resume", "--save_steps", "3") == 0
    assert sorted(p.name for p in killed.glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-9"]


def test_checkpoint_of_another_folder_is_resumed(
    tiny_reranker: Path, data: Path, trained: Path, killed: Path, tmp_path: Path
) -> None:
    assert train_evaluated(tiny_reranker, data, tmp_path / "other", "--resume", str(killed / "checkpoint-8")) == 0
    assert_as_uninterrupted(tmp_path / "other", trained)
    # A checkpoint lacks nothing of what the folder held beside it, and follows none of it.
    for name in (history.FILE, "model.safetensors"):
        (killed / name).unlink()
        (killed / name).write_text("of another time")
    assert train_evaluated(tiny_reranker, data, tmp_path / "another", "--resume", str(killed / "checkpoint-8")) == 0
    assert evaluations(tmp_path / "another") == evaluations(tmp_path / "other")
    assert weights_of(tmp_path / "another") == weights_of(tmp_path / "other")


def test_a_base_that_is_right_already_is_told_before_the_training(
    data: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert train_evaluated(trained, data, tmp_path / "again") == 0
    assert evaluations(tmp_path / "again")["points"][0]["MRR"] == 1
    told = [record.message for record in caplog.records]
    assert next(i for i, one in enumerate(told) if "cannot show a gain" in one) < told.index(
        next(one for one in told if one.startswith("step 4"))
    )


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()
