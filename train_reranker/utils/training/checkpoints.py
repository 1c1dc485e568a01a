"""Checkpoints that are whole or not there: written beside their place, then renamed; checked before they are used."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import zipfile
from pathlib import Path

from utils.errors import InputError
from utils.models.folders import stored_types
from utils.progress import log

# A name that neither the resumption nor transformers takes for a checkpoint.
STAGING = ".unfinished"


def whole_checkpoints(output: Path) -> list[Path]:
    """Return the whole checkpoints of a training's folder, latest first; each broken one is told in a line."""
    found = []
    for folder in sorted(output.glob("checkpoint-*"), key=step_of, reverse=True):
        fault = find_fault(folder)
        if fault is None:
            found.append(folder)
        else:
            log.warning("%s is not whole and left aside: %s", folder, fault)
    return found


def step_of(checkpoint: Path) -> int:
    """Return the step that a checkpoint's folder is named for, 0 where its name has none."""
    match = re.fullmatch(r"checkpoint-(\d+)", checkpoint.name)
    return int(match[1]) if match else 0


def find_checkpoint(output: Path, wanted: str | bool) -> Path:
    """Return the checkpoint to go on from: the one that is named, or the latest whole one of the folder.

    Raises:
        InputError: the one that is named is broken, or there is none.
    """
    if isinstance(wanted, str):
        folder = Path(wanted).resolve()
        fault = find_fault(folder) if folder.is_dir() else "it is not there"
        if fault is not None:
            raise InputError(f"checkpoint {folder} cannot be gone on from: {fault}; name another with --resume")
        return folder
    if not (found := whole_checkpoints(output)):
        raise InputError(f"{output} holds no whole checkpoint to go on from: train anew with --overwrite_output_dir")
    return found[0]


def find_fault(checkpoint: Path) -> str | None:
    """Say what a checkpoint lacks, or which of its files is cut; None if it is whole. Reads no weights."""
    if not (checkpoint / "trainer_state.json").is_file():
        return "trainer_state.json is missing"
    try:
        json.loads((checkpoint / "trainer_state.json").read_bytes())["global_step"]
    except (ValueError, TypeError, KeyError):
        return "trainer_state.json is cut"
    if not any(checkpoint.glob("*.safetensors")):
        return "it has no weights (*.safetensors)"
    # Without both of the first two, transformers goes on with fresh ones and says nothing; DeepSpeed has its own.
    kept = ("optimizer.*", "scheduler.pt"), ("global_step*/*.pt",)
    if not any(all(any(checkpoint.glob(name)) for name in names) for names in kept):
        return "it has no state of the optimizer and the scheduler"
    for file in sorted(checkpoint.rglob("*")):
        if (file.suffix == ".safetensors" and stored_types(file) is None) or (
            file.suffix in (".pt", ".pth", ".bin") and not zipfile.is_zipfile(file)
        ):
            return f"{file.relative_to(checkpoint)} is cut"
    return None


def publish(staged: Path, place: Path) -> None:
    """Move what has been written whole into its place, file by file where the place is a folder in use."""
    if not place.exists():
        staged.rename(place)
        return
    for file in staged.iterdir():
        file.replace(place / file.name)
    staged.rmdir()


def remove_all(output: Path) -> None:
    """Remove a training's checkpoints and what one that was killed left unfinished.

    Raises:
        OSError: the folder cannot be written.
    """
    for folder in (*output.glob("checkpoint-*"), output / STAGING):
        if folder.exists():
            shutil.rmtree(folder)


def remove_staging(output: Path) -> None:
    """Remove what was written beside its place and not put there, and the output folder if nothing else is in it."""
    shutil.rmtree(output / STAGING, ignore_errors=True)
    with contextlib.suppress(OSError):
        output.rmdir()  # which an empty folder allows only


def rotate(output: Path, keep: int) -> None:
    """Remove all but the ``keep`` latest checkpoints."""
    for folder in sorted(output.glob("checkpoint-*"), key=step_of, reverse=True)[keep:]:
        shutil.rmtree(folder, ignore_errors=True)
