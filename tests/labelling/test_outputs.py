"""Names that no two runs share, and files that belong to their run."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from utils.errors import InputError
from utils.labelling.outputs import Outputs, named_run


def test_runs_that_start_at_once_have_names_of_their_own(tmp_path: Path) -> None:
    def resumable(start: str) -> bool:
        return start != "run_20260103_000000"

    for day in range(1, 4):
        (tmp_path / f"run_2026010{day}_000000.journal").touch()
    with ExitStack() as held:
        names = [held.enter_context(named_run(tmp_path, "run", ".json", ".journal", resumable)) for _ in range(5)]
        assert names[:2] == ["run_20260102_000000", "run_20260101_000000"]  # each unfinished run is resumed by one
        assert len(set(names)) == 5
        (tmp_path / f"{names[4]}.json").touch()
    with named_run(tmp_path, "run", ".json") as new:
        assert new not in {names[0], names[1], names[4]}


def choose(
    folder: Path, name: str | None = None, split: bool = False, overwrite: bool = False, retry: bool = False
) -> Outputs:
    with Outputs.choose(folder, name, None, split, overwrite, retry) as outputs:
        return outputs


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
    assert choose(tmp_path, retry=True).examples.name == "contrastive_examples_20260103_000000.jsonl"  # also a finished


def test_files_of_a_finished_run_are_refused(tmp_path: Path) -> None:
    run = started(tmp_path, "run.jsonl", finished=True)
    with pytest.raises(InputError, match=r"run\.jsonl already exists: name another --output_dir, or use --overwrite"):
        choose(tmp_path, "run.jsonl")
    assert choose(tmp_path, "run.jsonl", overwrite=True) == choose(tmp_path, "run.jsonl", retry=True) == run
    (tmp_path / "test_data.jsonl").touch()
    assert choose(tmp_path, "other.jsonl").examples == tmp_path / "other.jsonl"
    with pytest.raises(InputError, match="test_data"):
        choose(tmp_path, "other.jsonl", split=True)
    run.summary.write_text("{")  # cut: the run has not finished
    assert choose(tmp_path, "run.jsonl") == run


def test_split_belongs_to_the_run_that_wrote_it(tmp_path: Path) -> None:
    """Also beside another run that has failed, or was killed before its summary said that it has finished."""
    run, split = started(tmp_path, "run.jsonl"), tmp_path / "train_data.jsonl"
    split.write_text("rows")
    with pytest.raises(InputError, match=r"train_data\.jsonl already exists"):
        choose(tmp_path, "run.jsonl", split=True)
    assert choose(tmp_path, "run.jsonl", split=True, overwrite=True) == run
    hashes = {split.name: hashlib.sha256(b"rows").hexdigest()}
    run.summary.write_text(json.dumps({"summary": {"finished": False}, "split": hashes}))
    assert choose(tmp_path, "run.jsonl", split=True) == run
    split.write_text("other rows")
    with pytest.raises(InputError, match=r"train_data\.jsonl already exists"):
        choose(tmp_path, "run.jsonl", split=True)
    run.summary.write_text('{"summary": {}, "split": ["train_data.jsonl"]}')
    with pytest.raises(InputError, match=r"train_data\.jsonl already exists"):
        choose(tmp_path, "run.jsonl", split=True)


@pytest.mark.parametrize("shared", ["run.jsonl", "train_data.jsonl", "s.json"])
def test_two_runs_do_not_write_one_file(tmp_path: Path, shared: str) -> None:
    def claim(name: str) -> AbstractContextManager[Outputs]:
        name = shared if shared == "run.jsonl" else name
        return Outputs.choose(
            tmp_path, name, shared if shared == "s.json" else None, shared == "train_data.jsonl", False
        )

    told = rf"another run \(process {os.getpid()}\) is writing .*{shared}: wait for it, or name another output"
    other = Outputs.choose(tmp_path, "c.jsonl", None, False, False)
    with claim("a.jsonl"), other, pytest.raises(InputError, match=told), claim("b.jsonl"):
        pass
    with claim("b.jsonl"):
        pass
