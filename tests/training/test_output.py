"""The output folder: what may stand in it, and what a training is resumed with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from trainings import train, train_evaluated
from utils.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")


# --bf16 and --no_mixed_precision exclude each other.
FP32 = ("--no_mixed_precision", "--resume")
UNDO = {"--bf16": ("--no_mixed_precision", "false")}


def test_overwriting_replaces_a_training_and_no_more(tiny_reranker: Path, examples_file: Path, tmp_path: Path) -> None:
    folder = train(tiny_reranker, examples_file, tmp_path / "out", "--epochs", "1", "--save_steps", "4")
    (folder / "notes.txt").write_text("mine")
    before = (folder / "model.safetensors").read_bytes()
    assert (folder / "checkpoint-4").is_dir()
    train(tiny_reranker, examples_file, folder, "--epochs", "2", "--overwrite_output_dir")
    assert (folder / "model.safetensors").read_bytes() != before
    assert (folder / "notes.txt").read_text() == "mine"
    assert not list(folder.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("flags", "reported"),
    [
        (["--num_gpus", "2"], "processes 1, not 2"),
        (["--batch_size", "8"], "--batch_size 16, not 8"),
        (["--gradient_accumulation_steps", "2"], "--gradient_accumulation_steps 1, not 2"),
        (["--learning_rate", "1e-3"], "--learning_rate 0.003, not 0.001"),
        (
            ["--train_group_size", "3", "--warmup_ratio", "0"],
            "--warmup_ratio 0.1, not 0.0; --train_group_size 4, not 3",
        ),
        (["--eval_fraction", "0.2"], "held-out rows with the digest"),
        (["--passage_max_len", "24"], r"lengths \[16, 16\], not \[16, 24\]"),
        (["--bf16"], "precision fp32, not bf16"),
    ],
)
def test_resuming_with_what_changes_the_training_is_refused(
    flags: list[str], reported: str, tiny_reranker: Path, data: Path, interrupted: Path
) -> None:
    with pytest.raises(InputError, match=f"was started with .*{reported}"):
        train_evaluated(
            tiny_reranker, data, interrupted, "--no_mixed_precision", "--resume", *flags, *UNDO.get(flags[0], ())
        )


def test_a_model_is_compared_by_content_and_not_by_path(
    tiny_reranker: Path, data: Path, interrupted: Path, tmp_path: Path
) -> None:
    model, output = (
        Path(shutil.copytree(tiny_reranker, tmp_path / "moved")),
        shutil.copytree(interrupted, tmp_path / "out"),
    )
    flags = ["--no_mixed_precision", "--resume", "--dry_run"]
    assert train_evaluated(model, data, output, *flags) == 0
    with (model / "tokenizer.json").open("a") as file:
        file.write(" ")
    with pytest.raises(InputError, match="was started with model with the digest"):
        train_evaluated(model, data, output, *flags)


def test_checkpoint_of_another_folder_is_compared_with_its_own_settings(
    tiny_reranker: Path, data: Path, interrupted: Path, tmp_path: Path
) -> None:
    flags = ("--no_mixed_precision", "--seed", "1", "--resume", str(interrupted / "checkpoint-8"))
    with pytest.raises(InputError, match="was started with --seed 42, not 1"):
        train_evaluated(tiny_reranker, data, tmp_path / "other", *flags)
