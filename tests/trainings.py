"""Trainings of a tiny model on miniature data: their flags, and what they leave."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

import train_reranker
from utils.files import SCRIPTS
from utils.training import history

QUICK = ["--learning_rate", "1e-3", "--query_max_len", "32", "--passage_max_len", "32", "--save_steps", "0"]
QUICK += ["--eval_fraction", "0", "--report_to", "none"]
# Processes, micro-batches and libraries agree to the last digits in full precision only.
QUICK += ["--no_mixed_precision"]
# Four evaluations and checkpoints.
EVALUATED = ["--query_max_len", "16", "--passage_max_len", "16", "--batch_size", "16", "--epochs", "1"]
EVALUATED += ["--num_gpus", "1", "--learning_rate", "3e-3", "--report_to", "none"]
EVALUATED += ["--eval_steps", "4", "--save_steps", "4"]

# Trains as the command line says, and is killed after step 10, between two checkpoints.
KILLED = """
import os, signal
import train_reranker
from utils import cli
from utils.training import fit

step_end = fit.StepCallback.on_step_end

def kill(self, args, state, control, **kwargs):
    step_end(self, args, state, control, **kwargs)
    if state.global_step == 10:
        os.kill(os.getpid(), signal.SIGKILL)

fit.StepCallback.on_step_end = kill
cli.run(train_reranker.main)
"""


def train(model: Path, data: Path, output: Path, *flags: str) -> Path:
    argv = ["--model_path", str(model), "--train_data", str(data), "--output_dir", str(output)]
    assert train_reranker.main([*argv, *QUICK, "--num_gpus", "1", *flags]) == 0
    return output


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def largest_change(one: Path, other: Path) -> float:
    first, second = weights(one), weights(other)
    # A softmax over a group does not see a constant: this bias has no gradient but rounding's.
    del first["classifier.bias"], second["classifier.bias"]
    assert first.keys() == second.keys()
    return max(float((values - second[name]).abs().max()) for name, values in first.items())


def river_rows(count: int) -> list[dict[str, Any]]:
    """Rows whose passages are all different; a river answers, a market does not."""
    return [
        {"query": f"what of {n}?", "pos": [f"a river {n}"], "neg": [f"the market {n} {i}" for i in range(3)]}
        for n in range(count)
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train_evaluated(model: Path, data: Path, output: Path, *flags: str) -> int:
    argv = ["--model_path", str(model), "--train_data", str(data), "--output_dir", str(output), *EVALUATED, *flags]
    return train_reranker.main(argv)


def evaluations(folder: Path) -> dict[str, Any]:
    return json.loads((folder / history.FILE).read_text())


def train_and_kill(model: Path, data: Path, output: Path, *flags: str) -> Path:
    argv = ["--model_path", str(model), "--train_data", str(data), "--output_dir", str(output), *EVALUATED, *flags]
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", KILLED, *argv], env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    return output


def assert_as_uninterrupted(ours: Path, theirs: Path) -> None:
    points = [evaluations(folder)["points"] for folder in (ours, theirs)]
    assert [point["step"] for point in points[0]] == [point["step"] for point in points[1]]
    for one, other in zip(*points, strict=True):
        assert one["MRR"] == pytest.approx(other["MRR"], abs=1e-3)
        assert one["nDCG_10"] == pytest.approx(other["nDCG_10"], abs=1e-3)


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def distillation_by_hand(scores: list[list[float]], targets: list[list[float]]) -> float:
    divergences, errors = [], []
    for ours, theirs in zip(scores, targets, strict=True):
        pairs = zip(softmax(theirs), softmax(ours), strict=True)
        divergences.append(sum(p * math.log(p / q) for p, q in pairs))
        errors += [(a - fmean(ours) - b + fmean(theirs)) ** 2 for a, b in zip(ours, theirs, strict=True)]
    return fmean(divergences) + 0.1 * fmean(errors)
