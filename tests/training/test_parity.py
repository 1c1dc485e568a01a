"""The losses are those of FlagEmbedding's stock trainer, in one process and two, plain and with DeepSpeed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PARITY = Path(__file__).parent / "parity.py"


@pytest.mark.parametrize("processes", [1, 2])
def test_first_losses_equal_the_stock_trainers(still_model: Path, tmp_path: Path, processes: int) -> None:
    towns = ["arden", "belmont", "corwen", "dunmore", "elgin", "falmouth", "girvan", "harlech"] * 5
    rows = [
        {
            "query": f"what of {town}?",
            "pos": [f"{town} lies here " * (n % 5 + 1)],
            "neg": [f"{town} {i} was far " * (n % 3 + i) for i in (1, 2, 3)],
        }
        for n, town in enumerate(towns)
    ]
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [sys.executable, *(torchrun if processes > 1 else []), str(PARITY)]
    command += [str(still_model), str(data), str(tmp_path), "plain", "deepspeed"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = json.loads((tmp_path / "losses.json").read_text())
    for mode in ("plain", "deepspeed"):
        theirs, ours = losses[f"stock {mode}"], losses[f"ours {mode}"]
        assert len(ours) == 20
        assert max(theirs) - min(theirs) > 0.01  # the weights have moved
        assert ours == pytest.approx(theirs, abs=1e-4)
