"""Processes: how many, on how many machines."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from endpoint import free_port
from trainings import EVALUATED
from utils.errors import InputError
from utils.files import SCRIPTS
from utils.training import launch

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("visible", "num_gpus", "processes"), [(0, None, 1), (0, 2, 2), (4, None, 4), (4, 1, 1), (4, 2, 2)]
)
def test_processes_are_counted(
    monkeypatch: pytest.MonkeyPatch, visible: int, num_gpus: int | None, processes: int
) -> None:
    for name in launch.LAUNCHERS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: visible)
    assert launch.count_processes(num_gpus) == processes
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(InputError, match="unset them"):  # left over from something else
        launch.count_processes(2)
    for name in launch.LAUNCHERS_VARIABLES:
        monkeypatch.setenv(name, "1")  # one of a launcher's processes launches no more
    assert launch.count_processes(num_gpus) == 1


def test_more_gpus_than_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in launch.LAUNCHERS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(InputError, match="--num_gpus 3"):
        launch.count_processes(3)


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
    script = ["--model_path", str(tiny_reranker), "--train_data", str(data), *EVALUATED, "--batch_size", "8"]
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


WORKER = """
import os, subprocess, sys, time
from utils.training import launch
if len(sys.argv) > 1:
    launch.end_with_launcher()
    os.write(1, b"working\\n")  # at once, which print, with unbuffered output, does not
    time.sleep(600)
variables = {"ours": {launch.LAUNCHER: str(os.getpid())}, "torchrun's": {"TORCHELASTIC_RUN_ID": "1"}}
for one in variables.values():
    subprocess.Popen([sys.executable, __file__, "worker"], env=os.environ | one)
time.sleep(600)
"""


def test_processes_end_when_their_launcher_is_killed(tmp_path: Path) -> None:
    (script := tmp_path / "script.py").write_text(WORKER)
    command, environment = [sys.executable, str(script)], os.environ | {"PYTHONPATH": str(SCRIPTS)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout
        assert [launcher.stdout.readline() for _ in range(2)] == ["working\n"] * 2
        launcher.kill()
        assert launcher.stdout.read() == ""  # which ends when the last of them has
