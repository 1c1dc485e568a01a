"""Trainings that are killed and resumed, from complete checkpoints alone."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from kills import CountedTraining
from trainings import evaluations, train_evaluated, write_rows
from utils.errors import InputError
from utils.training.checkpoints import MANIFEST, find_fault, owned, write_manifest

pytestmark = pytest.mark.usefixtures("one_thread")

# Twelve steps at most, with an evaluation after every second and a checkpoint after every third; patience ends them
# earlier, and the shares of the base are tried.
FLAGS = ["--query_max_len", "16", "--passage_max_len", "16", "--batch_size", "16", "--epochs", "1"]
FLAGS += ["--report_to", "none"]
FLAGS += ["--learning_rate", "1e-3", "--eval_fraction", "0.2", "--eval_steps", "2", "--save_steps", "3"]
FLAGS += ["--patience", "2", "--mix_with_base", "auto"]
MODES = {
    "one process": ["--num_gpus", "1"],
    "DeepSpeed": ["--num_gpus", "1", "--use_deepspeed"],
    "two processes": ["--num_gpus", "2", "--batch_size", "8"],
}


@pytest.mark.parametrize("kills", [pytest.param(2, id="two"), pytest.param(10, id="ten", marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", MODES)
def test_killed_trainings_leave_the_bytes_of_an_undisturbed_one(
    mode: str, kills: int, tiny_reranker: Path, data: Path, tmp_path: Path
) -> None:
    guard = write_rows(tmp_path / "guard.jsonl", [json.loads(line) for line in data.read_text().splitlines()[:30]])
    flags = ["--model_path", str(tiny_reranker), "--train_data", str(data), "--guard_data", str(guard), *FLAGS]
    victims, rng = ["launcher", "first"] if mode == "two processes" else ["script"], random.Random(f"{mode} {kills}")
    whole = CountedTraining(tmp_path / "whole" / "out", flags + MODES[mode])
    assert whole.run(victim=victims[0]) == 0, whole.log
    points = evaluations(whole.output)["points"]
    assert 0 < points[-1]["step"] < 12, "patience did not end the training"
    left, done, trained = kills, whole.moments, 0
    while left:
        killed = CountedTraining(tmp_path / f"killed{trained}" / "out", flags + MODES[mode])
        trained += 1
        while left:
            moment, victim = rng.randint(1, done), victims[left % len(victims)]
            if (code := killed.run("--resume", moment=moment, victim=victim)) == 0:
                break  # it had fewer moments left
            assert code == -signal.SIGKILL or "was killed (SIGKILL)" in killed.log, killed.log
            left -= 1
            deadline = time.monotonic() + 30
            while killed.living():
                assert time.monotonic() < deadline, f"killed at {moment}, and a process lives on"
                time.sleep(0.1)
        else:
            assert killed.run("--resume", victim=victims[0]) == 0, killed.log
        different = {name for name, content in killed.files.items() if whole.files.get(name) != content}
        assert not different, f"{mode}: {sorted(different)}"
        assert killed.files.keys() == whole.files.keys()


def test_unusable_checkpoints_are_reported_and_left_aside(
    tiny_reranker: Path, data: Path, killed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut = killed / "checkpoint-8" / "model.safetensors"
    os.truncate(cut, cut.stat().st_size // 2)
    with pytest.raises(InputError, match=r"checkpoint-8 cannot be resumed: model.safetensors has \d+ bytes, not \d+"):
        train_evaluated(tiny_reranker, data, killed, "--resume", str(cut.parent))
    with pytest.raises(InputError, match="was started with --seed 42, not 1"):
        train_evaluated(tiny_reranker, data, killed, "--resume", "--seed", "1")
    assert train_evaluated(tiny_reranker, data, killed, "--resume") == 0
    assert "checkpoint-8 cannot be resumed and is left aside: model.safetensors has" in caplog.text
    for file in killed.glob("checkpoint-*/optimizer.pt"):
        file.unlink()
    with pytest.raises(InputError, match="no complete checkpoint"):
        train_evaluated(tiny_reranker, data, killed, "--resume")


@pytest.fixture(scope="module")
def deepspeed_checkpoint(tiny_reranker: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of ZeRO's second stage, which pickles classes of its own."""
    folder = tmp_path_factory.mktemp("zero")
    assert train_evaluated(tiny_reranker, data, folder / "out", *zero(folder)) == 0
    return folder / "out" / "checkpoint-12"


def zero(folder: Path) -> list[str]:
    config = {"zero_optimization": {"stage": 2}, "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto"}
    (folder / "zero.json").write_text(json.dumps(config))
    return ["--use_deepspeed", "--ds_config", str(folder / "zero.json")]


class Planted:
    """Runs code when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.proof),)


def test_every_file_of_a_checkpoint_is_needed_and_runs_no_code(
    interrupted: Path, deepspeed_checkpoint: Path, tmp_path: Path
) -> None:
    import torch

    proof, names = tmp_path / "proof", set()
    for kind, whole in (("plain", interrupted / "checkpoint-8"), ("zero", deepspeed_checkpoint)):
        checkpoint = Path(shutil.copytree(whole, tmp_path / kind / whole.name))
        assert find_fault(checkpoint) is None
        for file in sorted(file for file in checkpoint.rglob("*") if file.is_file()):
            name, content = str(file.relative_to(checkpoint)), file.read_bytes()
            names.add(file.name)
            file.unlink()
            assert find_fault(checkpoint) == f"{name} is missing"
            file.write_bytes(content[:-9] if name == MANIFEST else content + b" ")
            assert str(find_fault(checkpoint)).startswith(name)
            if file.suffix in (".pt", ".pth"):
                torch.save(Planted(proof), file)
                write_manifest(checkpoint)
                assert find_fault(checkpoint) == f"{name} would run code (posix.mkdir)"
                file.write_bytes(pickle.dumps(Planted(proof)))
                write_manifest(checkpoint)
                assert find_fault(checkpoint) == f"{name} is damaged"
            file.write_bytes(content)
            if name != MANIFEST:
                write_manifest(checkpoint)
            assert find_fault(checkpoint) is None
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "evaluation.json"} <= names
    assert {"mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"} <= names
    assert not proof.exists()


def test_planted_states_run_no_code_where_no_check_finds_them(
    tiny_reranker: Path, data: Path, interrupted: Path, deepspeed_checkpoint: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import torch

    monkeypatch.setattr("utils.training.checkpoints._fault_inside", lambda file: None)
    for whole, flags in (
        (interrupted / "checkpoint-8", ["--no_mixed_precision"]),
        (deepspeed_checkpoint, zero(tmp_path)),
    ):
        for file in sorted(file for file in whole.rglob("*") if file.suffix in (".pt", ".pth")):
            output = Path(shutil.copytree(whole.parent, tmp_path / whole.parent.parent.name / file.name))
            torch.save(Planted(tmp_path / "proof"), output / file.relative_to(whole.parent))
            write_manifest(output / whole.name)
            with pytest.raises(InputError, match=f"{whole.name} holds classes that could run code"):
                train_evaluated(tiny_reranker, data, output, *flags, "--resume", str(output / whole.name))
            assert not (tmp_path / "proof").exists()


def test_only_the_trainers_own_checkpoints_are_removed(
    tiny_reranker: Path, data: Path, interrupted: Path, tmp_path: Path
) -> None:
    output = Path(shutil.copytree(interrupted, tmp_path / "out"))
    for name in ("checkpoint-best", "checkpoint-notes", "checkpoint-"):
        (output / name).mkdir()
        (output / name / "model.safetensors").write_text("mine")
    flags = ("--no_mixed_precision", "--save_steps", "2", "--save_total_limit", "1")
    assert train_evaluated(tiny_reranker, data, output, *flags, "--resume") == 0
    assert [folder.name for folder in owned(output)] == ["checkpoint-12"]
    assert train_evaluated(tiny_reranker, data, output, *flags, "--save_steps", "0", "--overwrite_output_dir") == 0
    assert sorted(folder.name for folder in output.glob("checkpoint-*")) == [
        "checkpoint-", "checkpoint-best", "checkpoint-notes",
    ]  # fmt: skip
    (output / "checkpoint-100").mkdir()
    for flag in ("--resume", "--overwrite_output_dir"):
        with pytest.raises(InputError, match=r"checkpoint-100 has no checkpoint.json, .*: move it away"):
            train_evaluated(tiny_reranker, data, output, *flags, flag)
