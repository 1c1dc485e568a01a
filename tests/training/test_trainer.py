"""Trainings that diverge or cannot write, and what they keep."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from trainings import train_evaluated
from utils.errors import InputError, RunError
from utils.training import checkpoints

pytestmark = pytest.mark.usefixtures("one_thread")


def test_full_disk_keeps_complete_checkpoints(
    tiny_reranker: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from utils.training import trainer

    save = trainer.RerankerTrainer._save_optimizer_and_scheduler

    def fill(self: Any, folder: str) -> None:
        save(self, folder)
        if self.state.global_step == 8:
            os.truncate(Path(folder) / "optimizer.pt", 99)
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trainer.RerankerTrainer, "_save_optimizer_and_scheduler", fill)
    with pytest.raises(RunError, match=r"checkpoint-8 .*No space left on device.*resume with --resume"):
        train_evaluated(tiny_reranker, data, tmp_path / "out", "--save_total_limit", "1")
    assert [*(tmp_path / "out").glob("checkpoint-*")] == [checkpoints.last_complete(tmp_path / "out")]
    assert (tmp_path / "out" / "checkpoint-4").is_dir()
    assert not (tmp_path / "out" / checkpoints.STAGING).exists()
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_loss_of_nan_stops_the_training(tiny_reranker: Path, data: Path, tmp_path: Path) -> None:
    from utils.training import fit

    def explode(self: Any, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        if state.global_step == 6:
            next(model.parameters()).data.fill_(float("nan"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit.StepCallback, "on_step_begin", explode, raising=False)
        with pytest.raises(RunError, match=r"stopped at step 6: the loss is nan; the best model, of step 4, is in"):
            train_evaluated(tiny_reranker, data, tmp_path / "out")


def test_equal_scores_stop_the_training(tiny_reranker: Path, data: Path, tmp_path: Path) -> None:
    flat = spoil(tiny_reranker, tmp_path / "flat", "classifier.weight", 0.0)
    flags = ("--learning_rate", "1e-12", "--eval_fraction", "0", "--epochs", "2", "--save_steps", "0")
    with pytest.raises(RunError, match="all scores are the same in 20 batches in a row; there is no checkpoint yet"):
        train_evaluated(flat, data, tmp_path / "out", *flags)
    with pytest.raises(RunError, match="all held-out pairs have the same score"):
        train_evaluated(flat, data, tmp_path / "other", "--learning_rate", "1e-12")


def test_a_weight_of_nan_is_refused(tiny_reranker: Path, data: Path, tmp_path: Path) -> None:
    broken = spoil(tiny_reranker, tmp_path / "broken", "bert.pooler.dense.bias", float("nan"))
    with pytest.raises(InputError, match=r"weights that are not finite \(bert.pooler.dense.bias\)"):
        train_evaluated(broken, data, tmp_path / "out")


def spoil(model: Path, folder: Path, name: str, value: float) -> Path:
    """Copy a model and fill one of its weights."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    weights[name].fill_(value)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
