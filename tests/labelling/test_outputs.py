"""The generator's files: what is resumed, and what is never overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from utils.errors import InputError
from utils.labelling.outputs import Outputs


def choose(folder: Path, name: str | None = None, split: bool = False, overwrite: bool = False) -> Outputs:
    return Outputs.choose(folder, name, None, split, overwrite)


def started(folder: Path, name: str, finished: bool | None = None) -> Outputs:
    """Leave the files of a run; without ``finished`` it has no summary."""
    outputs = Outputs.named(folder, name)
    outputs.examples.touch()
    outputs.provenance.touch()
    if finished is not None:
        outputs.summary.write_text(json.dumps({"summary": {"finished": finished}}))
    return outputs


def test_the_latest_unfinished_run_is_resumed(tmp_path: Path) -> None:
    for day, finished in ((1, False), (2, None), (3, True)):
        started(tmp_path, f"contrastive_examples_2026010{day}_000000.jsonl", finished)
    assert choose(tmp_path).examples.name == "contrastive_examples_20260102_000000.jsonl"
    assert choose(tmp_path, overwrite=True).examples.name > "contrastive_examples_20260103"


def test_files_of_a_finished_run_are_refused(tmp_path: Path) -> None:
    run = started(tmp_path, "run.jsonl", finished=True)
    with pytest.raises(InputError, match=r"run\.jsonl already exists: name another --output_dir, or use --overwrite"):
        choose(tmp_path, "run.jsonl")
    assert choose(tmp_path, "run.jsonl", overwrite=True) == run
    (tmp_path / "test_data.jsonl").touch()
    assert choose(tmp_path, "other.jsonl").examples == tmp_path / "other.jsonl"
    with pytest.raises(InputError, match="test_data"):
        choose(tmp_path, "other.jsonl", split=True)
    run.summary.write_text("{")  # cut: the run has not finished
    assert choose(tmp_path, "run.jsonl", split=True) == run
