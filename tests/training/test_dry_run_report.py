"""What a training would do."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainings import train_evaluated

pytestmark = pytest.mark.usefixtures("one_thread")


def test_dry_run_counts_and_writes_nothing(
    tiny_reranker: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        train_evaluated(tiny_reranker, data, tmp_path / "out", "--dry_run", "--gradient_accumulation_steps", "2") == 0
    )
    shown = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines()[2:])
    numbers = {key: value.strip() for key, value in shown.items()}
    assert numbers["rows held out for evaluation"] == "24"
    assert numbers["rows trained on (groups per epoch)"] == "216"
    assert numbers["rows per step (effective batch)"] == "32"
    assert numbers["steps"] == "7"
    assert numbers["warm-up steps"] == "1"
    assert not (tmp_path / "out").exists()
