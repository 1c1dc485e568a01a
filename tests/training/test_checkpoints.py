"""A training that is killed, resumed, starved or fed nonsense, and what it says of its own worth."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import train_reranker
from endpoint import free_port
from utils.errors import EXIT_REGRESSION, InputError, RunError
from utils.files import SCRIPTS
from utils.training import held_out
from utils.training.checkpoints import find_fault

pytestmark = pytest.mark.usefixtures("one_thread")
FLAGS = ["--query_max_len", "16", "--passage_max_len", "16", "--batch_size", "16", "--epochs", "1", "--num_gpus", "1"]
FLAGS += ["--learning_rate", "3e-3", "--report_to", "none", "--eval_steps", "4", "--save_steps", "4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 rows, all passages different; a river answers, a market does not."""
    rows = [
        {"query": f"what of {n}?", "pos": [f"a river {n}"], "neg": [f"the market {n} {i}" for i in range(3)]}
        for n in range(240)
    ]
    return write(tmp_path_factory.mktemp("data") / "train.jsonl", rows)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train(model: Path, data: Path, output: Path, *flags: str) -> int:
    argv = ["--model_path", str(model), "--train_data", str(data), "--output_dir", str(output), *FLAGS, *flags]
    return train_reranker.main(argv)


def history(folder: Path) -> dict[str, Any]:
    return json.loads((folder / held_out.FILE).read_text())


@pytest.fixture(scope="module")
def trained(tiny_reranker: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted training leaves."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    assert train(tiny_reranker, data, folder, "--report_to", "tensorboard", "--fail_on_regression") == 0
    return folder


# --- what a training says of itself


def test_better_is_told_logged_and_drawn(trained: Path, tiny_reranker: Path) -> None:
    found = history(trained)
    assert [point["step"] for point in found["points"]] == [0, 4, 8, 12, 14]
    assert found["queries"] == 24
    assert found["difference"]["verdict"] == "better"
    assert found["best"]["MRR"] == max(point["MRR"] for point in found["points"])
    assert (trained / held_out.CURVE).read_bytes().startswith(b"\x89PNG")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (log,) = trained.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(log)).Reload()
    assert [event.step for event in events.Scalars("eval/MRR")] == [0, 4, 8, 12, 14]
    assert events.Scalars("eval/nDCG@10")
    header, body = (trained / "README.md").read_text().split("---\n", 2)[1:]
    metadata = yaml.safe_load(header)
    assert metadata["base_model"] == tiny_reranker.name
    assert metadata["pipeline_tag"] == "text-ranking"
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == round(found["best"]["MRR"], 4)
    assert "SHA-256" in body
    for snippet in body.split("```python\n")[1:]:
        exec(snippet.partition("```")[0].replace('"out"', repr(str(trained))))


def test_folder_holds_the_best_model(trained: Path, data: Path) -> None:
    from utils.data.rows import read_examples
    from utils.evaluation import metrics
    from utils.scoring import open_reranker

    found = history(trained)
    rows = held_out.hold_out(read_examples([data]), 0.1, 42).test
    scores = open_reranker(trained, max_length=32, half=False).score(metrics.pairs_of(rows))
    (row, *_) = metrics.compare({"model": metrics.pools_of(rows, scores)})
    assert row.values["model"] == pytest.approx(found["best"]["MRR"], abs=1e-3)


def test_shuffled_labels_exit_3(
    tiny_reranker: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(0)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for row in rows:
        texts = [*row["pos"], *row["neg"]]
        rng.shuffle(texts)
        row |= {"pos": texts[:1], "neg": texts[1:]}
    shuffled = write(tmp_path / "shuffled.jsonl", rows)
    assert train(tiny_reranker, shuffled, tmp_path / "out", "--fail_on_regression") == EXIT_REGRESSION
    assert "no difference" in capsys.readouterr().out


def test_worse_is_told_loudly(trained: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    wrong = write(tmp_path / "wrong.jsonl", [row | {"pos": row["neg"][:1], "neg": row["pos"]} for row in rows])
    flags = ("--eval_data", str(data), "--patience", "2", "--save_steps", "0")
    assert train(trained, wrong, tmp_path / "out", *flags) == 0
    assert "WORSE THAN ITS BASE" in caplog.text
    assert "share a query or passage with --eval_data" in caplog.text
    points = history(tmp_path / "out")["points"]
    assert len(points) == 4  # the base, the first, and two that were no better


def test_dry_run_counts_and_writes_nothing(
    tiny_reranker: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tiny_reranker, data, tmp_path / "out", "--dry_run", "--gradient_accumulation_steps", "2") == 0
    shown = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines()[2:])
    numbers = {key: value.strip() for key, value in shown.items()}
    assert numbers["rows held out for evaluation"] == "24"
    assert numbers["rows trained on (groups an epoch)"] == "216"
    assert numbers["rows a step (effective batch)"] == "32"
    assert numbers["steps"] == "7"
    assert numbers["steps of warm-up"] == "1"
    assert not (tmp_path / "out").exists()


# --- interruptions


# Trains as the command line says, and is killed after step 10, between two checkpoints.
KILLED = """
import os, signal
import train_reranker
from utils import cli
from utils.training import trainer

step_end = trainer.LastStepCallback.on_step_end

def kill(self, args, state, control, **kwargs):
    step_end(self, args, state, control, **kwargs)
    if state.global_step == 10:
        os.kill(os.getpid(), signal.SIGKILL)

trainer.LastStepCallback.on_step_end = kill
cli.run(train_reranker.main)
"""


def train_and_kill(model: Path, data: Path, output: Path, *flags: str) -> Path:
    argv = ["--model_path", str(model), "--train_data", str(data), "--output_dir", str(output), *FLAGS, *flags]
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", KILLED, *argv], env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    return output


@pytest.fixture
def killed(tiny_reranker: Path, data: Path, tmp_path: Path) -> Path:
    """A training that was killed between two checkpoints, after step 10."""
    return train_and_kill(tiny_reranker, data, tmp_path / "out")


def is_as_uninterrupted(ours: Path, theirs: Path) -> None:
    points = [history(folder)["points"] for folder in (ours, theirs)]
    assert [point["step"] for point in points[0]] == [point["step"] for point in points[1]]
    for one, other in zip(*points, strict=True):
        assert one["MRR"] == pytest.approx(other["MRR"], abs=1e-3)
        assert one["nDCG_10"] == pytest.approx(other["nDCG_10"], abs=1e-3)


def test_resumed_run_ends_as_if_never_killed(tiny_reranker: Path, data: Path, trained: Path, killed: Path) -> None:
    assert sorted(p.name for p in killed.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-8"]
    assert train(tiny_reranker, data, killed, "--resume") == 0
    is_as_uninterrupted(killed, trained)


def test_resumed_run_of_deepspeed_ends_as_if_never_killed(tiny_reranker: Path, data: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train(tiny_reranker, data, whole, "--use_deepspeed") == 0
    train_and_kill(tiny_reranker, data, killed, "--use_deepspeed")
    assert train(tiny_reranker, data, killed, "--use_deepspeed", "--resume") == 0
    is_as_uninterrupted(killed, whole)


def test_cut_checkpoints_are_told(
    tiny_reranker: Path, data: Path, killed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut = killed / "checkpoint-8" / "model.safetensors"
    os.truncate(cut, cut.stat().st_size // 2)
    with pytest.raises(InputError, match=r"checkpoint-8 cannot be gone on from: model.safetensors is cut"):
        train(tiny_reranker, data, killed, "--resume", str(cut.parent))
    with pytest.raises(InputError, match="was begun with --seed 42, not 1"):
        train(tiny_reranker, data, killed, "--resume", "--seed", "1")
    assert train(tiny_reranker, data, killed, "--resume") == 0
    assert "checkpoint-8 is not whole and left aside: model.safetensors is cut" in caplog.text
    for file in killed.glob("checkpoint-*/optimizer.pt"):
        os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(InputError, match="no whole checkpoint"):
        train(tiny_reranker, data, killed, "--resume")


@pytest.mark.parametrize(
    ("flags", "told"),
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
    flags: list[str], told: str, tiny_reranker: Path, data: Path, begun: Path
) -> None:
    with pytest.raises(InputError, match=f"was begun with .*{told}"):
        train(tiny_reranker, data, begun, "--no_mixed_precision", "--resume", *flags, *UNDO.get(flags[0], ()))


def test_model_is_held_by_what_it_is_and_not_by_where_it_is(
    tiny_reranker: Path, data: Path, begun: Path, tmp_path: Path
) -> None:
    model, output = Path(shutil.copytree(tiny_reranker, tmp_path / "moved")), shutil.copytree(begun, tmp_path / "out")
    flags = ["--no_mixed_precision", "--resume", "--dry_run"]
    assert train(model, data, output, *flags) == 0
    with (model / "tokenizer.json").open("a") as file:
        file.write(" ")
    with pytest.raises(InputError, match="was begun with model with the digest"):
        train(model, data, output, *flags)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("scheduler.pt", None, "it has no state of the optimizer and the scheduler"),
        ("trainer_state.json", "[]", "trainer_state.json is cut"),
        ("trainer_state.json", "{}", "trainer_state.json is cut"),
    ],
)
def test_checkpoint_that_transformers_would_pass_over_is_told(
    file: str, content: str | None, told: str, begun: Path, tmp_path: Path
) -> None:
    checkpoint = Path(shutil.copytree(begun / "checkpoint-8", tmp_path / "checkpoint-8"))
    assert find_fault(checkpoint) is None
    (checkpoint / file).unlink()
    if content is not None:
        (checkpoint / file).write_text(content)
    assert find_fault(checkpoint) == told


# --bf16 and --no_mixed_precision exclude each other.
UNDO = {"--bf16": ("--no_mixed_precision", "false")}


@pytest.fixture(scope="module")
def begun(tiny_reranker: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training in full precision that was killed."""
    return train_and_kill(tiny_reranker, data, tmp_path_factory.mktemp("begun") / "out", "--no_mixed_precision")


def test_resumed_run_saves_as_often_as_is_asked_now(tiny_reranker: Path, data: Path, killed: Path) -> None:
    assert train(tiny_reranker, data, killed, "--resume", "--save_steps", "3") == 0
    assert sorted(p.name for p in killed.glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-9"]


def test_checkpoint_of_another_folder_is_held_against_its_own_settings(
    tiny_reranker: Path, data: Path, begun: Path, tmp_path: Path
) -> None:
    flags = ("--no_mixed_precision", "--seed", "1", "--resume", str(begun / "checkpoint-8"))
    with pytest.raises(InputError, match="was begun with --seed 42, not 1"):
        train(tiny_reranker, data, tmp_path / "other", *flags)


def test_checkpoint_of_another_folder_is_gone_on_from(
    tiny_reranker: Path, data: Path, trained: Path, killed: Path, tmp_path: Path
) -> None:
    assert train(tiny_reranker, data, tmp_path / "other", "--resume", str(killed / "checkpoint-8")) == 0
    is_as_uninterrupted(tmp_path / "other", trained)
    (killed / held_out.FILE).unlink()
    assert train(tiny_reranker, data, tmp_path / "another", "--resume", str(killed / "checkpoint-8")) == 0
    assert "Not compared with its base" in (tmp_path / "another" / "README.md").read_text()


def test_full_disk_keeps_what_was_whole(
    tiny_reranker: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from utils.training import checkpoints, trainer

    save = trainer.RerankerTrainer._save_optimizer_and_scheduler

    def fill(self: Any, folder: str) -> None:
        save(self, folder)
        if self.state.global_step == 8:
            os.truncate(Path(folder) / "optimizer.pt", 99)
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trainer.RerankerTrainer, "_save_optimizer_and_scheduler", fill)
    with pytest.raises(RunError, match=r"checkpoint-8 .*No space left on device.*go on with --resume"):
        train(tiny_reranker, data, tmp_path / "out", "--save_total_limit", "1")
    assert [folder.name for folder in checkpoints.whole_checkpoints(tmp_path / "out")] == ["checkpoint-4"]
    assert not (tmp_path / "out" / checkpoints.STAGING).exists()
    assert (tmp_path / "out" / "model.safetensors").is_file()


# --- nonsense


def test_loss_that_is_no_number_stops(tiny_reranker: Path, data: Path, tmp_path: Path) -> None:
    from utils.training import trainer

    def explode(self: Any, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        if state.global_step == 6:
            next(model.parameters()).data.fill_(float("nan"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.LastStepCallback, "on_step_begin", explode, raising=False)
        with pytest.raises(RunError, match=r"stopped at step 6: the loss is nan; the best model, of step 4, is in"):
            train(tiny_reranker, data, tmp_path / "out")


def test_scores_all_alike_stop(tiny_reranker: Path, data: Path, tmp_path: Path) -> None:
    flat = spoil(tiny_reranker, tmp_path / "flat", "classifier.weight", 0.0)
    flags = ("--learning_rate", "1e-12", "--eval_fraction", "0", "--epochs", "2", "--save_steps", "0")
    with pytest.raises(RunError, match="scores of 20 batches on end are all alike; there is no checkpoint yet"):
        train(flat, data, tmp_path / "out", *flags)
    with pytest.raises(RunError, match="scores of all held-out pairs are alike"):
        train(flat, data, tmp_path / "other", "--learning_rate", "1e-12")


def test_weight_that_is_no_number_is_told(tiny_reranker: Path, data: Path, tmp_path: Path) -> None:
    broken = spoil(tiny_reranker, tmp_path / "broken", "bert.pooler.dense.bias", float("nan"))
    with pytest.raises(InputError, match=r"weights that are not finite \(bert.pooler.dense.bias\)"):
        train(broken, data, tmp_path / "out")


def spoil(model: Path, folder: Path, name: str, value: float) -> Path:
    """Copy a model and fill one of its weights."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    weights[name].fill_(value)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


# --- several machines


def torchrun(rank: int, port: int, folder: Path) -> list[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
    return [*command, f"--node_rank={rank}", "--master_addr=127.0.0.1", f"--master_port={port}"]


def deepspeed(rank: int, port: int, folder: Path) -> list[str]:
    (folder / "hostfile").write_text("localhost slots=1\n127.0.0.1 slots=1\n")
    command = [sys.executable, "-m", "deepspeed.launcher.runner", f"--hostfile={folder / 'hostfile'}", "--no_ssh"]
    return [*command, f"--node_rank={rank}", "--master_addr=127.0.0.1", f"--master_port={port}"]


@pytest.mark.parametrize("launcher", [torchrun, deepspeed])
def test_two_machines_train_one_model(
    launcher: Callable[[int, int, Path], list[str]], tiny_reranker: Path, data: Path, tmp_path: Path
) -> None:
    port = free_port()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    script = ["--model_path", str(tiny_reranker), "--train_data", str(data), *FLAGS, "--batch_size", "8"]
    script += ["--use_deepspeed"] if launcher is deepspeed else []
    agents = []
    for rank in range(2):
        # Each has an output folder of its own, as machines without a common disk do.
        output = ["--output_dir", str(tmp_path / f"out{rank}")]
        command = [*launcher(rank, port, tmp_path), str(SCRIPTS / "train_reranker.py"), *script, *output]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        agents.append(subprocess.Popen(command, env=environment, **pipes))  # type: ignore[call-overload]
    (first, first_log), (second, second_log) = (agent.communicate(timeout=300) for agent in agents)
    assert [agent.returncode for agent in agents] == [0, 0], first_log + second_log
    assert "better" in first
    assert "MRR" not in second
    assert any((tmp_path / "out0" / "checkpoint-12").rglob("*rng_state_1.pth"))
    assert not (tmp_path / "out1").exists()
