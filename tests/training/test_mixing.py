"""Averages of the trained and the base's weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainings import (
    EVALUATED,
    assert_as_uninterrupted,
    evaluations,
    train,
    train_and_kill,
    train_evaluated,
    weights,
    write_rows,
)
from utils.errors import InputError
from utils.files import SCRIPTS
from utils.training.mixing import average

pytestmark = pytest.mark.usefixtures("one_thread")


def test_tensors_are_averaged_by_name_in_full_precision() -> None:
    trained = {"a": torch.tensor([1.0, 2.0]), "half": torch.tensor([1.0], dtype=torch.bfloat16), "n": torch.tensor([7])}
    base = {"n": torch.tensor([9]), "half": torch.tensor([1.01]), "a": torch.tensor([3.0, 0.0])}
    mixed = average(trained, base, 0.25)
    assert mixed["a"].tolist() == [1.5, 1.5]
    assert mixed["half"].dtype == torch.float32
    assert float(mixed["half"]) == pytest.approx(1.0025)
    assert mixed["n"].tolist() == [7]


def test_a_share_is_what_the_folder_holds(tiny_reranker: Path, examples_file: Path, tmp_path: Path) -> None:
    folder = train(tiny_reranker, examples_file, tmp_path / "out", "--epochs", "1", "--mix_with_base", "0.25")
    mixed, trained, base = weights(folder), weights(folder / "unmixed"), weights(tiny_reranker)
    assert any(not torch.equal(trained[name], base[name]) for name in base)
    for name, values in mixed.items():
        assert torch.allclose(values, 0.75 * trained[name] + 0.25 * base[name], atol=1e-7)
    assert (folder / "config.json").is_file()


def test_the_best_share_is_found_and_told(
    tiny_reranker: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "out"
    caplog.set_level("INFO")
    assert train_evaluated(tiny_reranker, data, folder, "--mix_with_base", "auto", "--save_steps", "0") == 0
    found = evaluations(folder)
    tried = found["mix"]["tried"]
    assert [one["share"] for one in tried] == [0, 0.25, 0.5, 0.75]
    best = max(tried, key=lambda one: (one["mean"], one["share"]))
    assert found["mix"]["share"] == best["share"]
    assert found["mixed"]["MRR"] == best["mean"]
    assert found["difference"]["difference"] == pytest.approx(best["mean"] - found["points"][0]["MRR"])
    assert tried[0]["mean"] == pytest.approx(found["best"]["MRR"])
    assert f"{best['share']:g} (held-out MRR {best['mean']:.3f})" in (folder / "README.md").read_text()
    assert "mixed with 0.75 of the base: held-out MRR" in caplog.text
    mixed, trained, base = weights(folder), weights(folder / "unmixed"), weights(tiny_reranker)
    name = "classifier.weight"
    assert torch.allclose(mixed[name], torch.lerp(trained[name], base[name], best["share"]), atol=1e-7)


@pytest.mark.parametrize("flags", [[], ["--use_deepspeed"]])
def test_several_processes_score_the_same_mixes(
    flags: list[str], tiny_reranker: Path, data: Path, tmp_path: Path
) -> None:
    guard = write_rows(tmp_path / "guard.jsonl", [json.loads(line) for line in data.read_text().splitlines()[:30]])
    asked = [*EVALUATED, "--mix_with_base", "auto", "--guard_data", str(guard), "--keep_close", "0.5", *flags]
    asked += ["--freeze_embeddings", "--num_gpus", "2", "--batch_size", "8", "--no_mixed_precision"]
    command = [sys.executable, str(SCRIPTS / "train_reranker.py"), "--model_path", str(tiny_reranker)]
    command += ["--train_data", str(data), "--output_dir", str(tmp_path / "out"), *asked]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found, name = evaluations(tmp_path / "out"), "bert.embeddings.word_embeddings.weight"
    assert found["mix"]["tried"][0]["held-out MRR"] == pytest.approx(found["best"]["MRR"])
    assert found["mix"]["tried"][0]["guard nDCG@10"] == pytest.approx(found["guard"]["best"]["nDCG_10"])
    assert found["guard"]["queries"] == 30
    assert torch.equal(weights(tmp_path / "out")[name], weights(tiny_reranker)[name])


def test_a_base_without_a_head_is_refused(tiny_encoder: Path, examples_file: Path, tmp_path: Path) -> None:
    for flag in ("--mix_with_base", "--keep_close"):
        with pytest.raises(InputError, match=r"has no trained head .*start from a reranker"):
            train(tiny_encoder, examples_file, tmp_path / flag, flag, "0.5")


@pytest.mark.parametrize("flags", [[], ["--use_deepspeed"]])
def test_a_resumed_run_mixes_as_if_never_killed(
    flags: list[str], tiny_reranker: Path, data: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    guard = write_rows(tmp_path / "guard.jsonl", rows[:30])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    asked = [
        "--guard_data",
        str(guard),
        "--mix_with_base",
        "auto",
        "--keep_close",
        "0.5",
        "--freeze_embeddings",
        *flags,
    ]
    assert train_evaluated(tiny_reranker, data, whole, *asked) == 0
    train_and_kill(tiny_reranker, data, killed, *asked)
    assert (killed / "unmixed" / "model.safetensors").is_file()
    assert not (killed / "model.safetensors").exists()
    assert train_evaluated(tiny_reranker, data, killed, *asked, "--resume") == 0
    assert_as_uninterrupted(killed, whole)
    ours, theirs = evaluations(killed), evaluations(whole)
    assert ours["mix"]["share"] == theirs["mix"]["share"]
    for one, other in zip(ours["guard"]["points"], theirs["guard"]["points"], strict=True):
        assert one["nDCG_10"] == pytest.approx(other["nDCG_10"], abs=1e-3)
    with pytest.raises(InputError, match=r"was started with .*--mix_with_base auto, not 0"):
        train_evaluated(tiny_reranker, data, killed, *asked, "--mix_with_base", "0", "--resume")
