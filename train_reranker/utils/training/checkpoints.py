"""Checkpoints: written beside their place and then renamed, checked before they are used."""

import contextlib
import json
import re
import shutil
import zipfile
from pathlib import Path

from utils.errors import InputError
from utils.models.folders import stored_tensors
from utils.progress import log

STAGING = ".unfinished"  # which transformers does not take for a checkpoint


def last_complete(output: Path) -> Path | None:
    """Return the latest complete checkpoint of an output folder, if any; log a line for each broken one after it."""
    for folder in sorted(output.glob("checkpoint-*"), key=step_of, reverse=True):
        if (fault := find_fault(folder)) is None:
            return folder
        log.warning("%s is incomplete and left aside: %s", folder, fault)
    return None


def step_of(checkpoint: Path) -> int:
    """Return the step in a checkpoint's name, 0 where it has none."""
    match = re.fullmatch(r"checkpoint-(\d+)", checkpoint.name)
    return int(match[1]) if match else 0


def find_checkpoint(output: Path, named: str | bool) -> Path:
    """Return the checkpoint that is named, or the latest complete one of the folder; an InputError if there is none."""
    if isinstance(named, str):
        folder = Path(named).resolve()
        if fault := find_fault(folder) if folder.is_dir() else "not found":
            raise InputError(f"checkpoint {folder} cannot be resumed: {fault}; name another with --resume")
        return folder
    if (found := last_complete(output)) is None:
        raise InputError(
            f"{output} holds no complete checkpoint to resume from: start from scratch with --overwrite_output_dir"
        )
    return found


def find_fault(checkpoint: Path) -> str | None:
    """Say what a checkpoint lacks, or which of its files is truncated; None if it is complete. Reads no weights."""
    if not (checkpoint / "trainer_state.json").is_file():
        return "trainer_state.json is missing"
    try:
        json.loads((checkpoint / "trainer_state.json").read_bytes())["global_step"]
    except (ValueError, TypeError, KeyError):
        return "trainer_state.json is truncated"
    if not any(checkpoint.glob("*.safetensors")):
        return "it has no weights (*.safetensors)"
    # Without both of the first two, transformers silently resumes with fresh ones; DeepSpeed has its own.
    kept = ("optimizer.*", "scheduler.pt"), ("global_step*/*.pt",)
    if not any(all(any(checkpoint.glob(name)) for name in names) for names in kept):
        return "it has no state of the optimizer and the scheduler"
    for file in sorted(checkpoint.rglob("*")):
        if (file.suffix == ".safetensors" and stored_tensors(file) is None) or (
            file.suffix in (".pt", ".pth", ".bin") and not zipfile.is_zipfile(file)
        ):
            return f"{file.relative_to(checkpoint)} is truncated"
    return None


def publish(staged: Path, place: Path) -> None:
    """Move a complete folder into its place, file by file where that exists."""
    if not place.exists():
        staged.rename(place)
        return
    for file in staged.iterdir():
        file.replace(place / file.name)
    staged.rmdir()


def remove_staging(output: Path) -> None:
    """Remove what was left unfinished, and the output folder if it is then empty."""
    shutil.rmtree(output / STAGING, ignore_errors=True)
    with contextlib.suppress(OSError):
        output.rmdir()  # fails unless it is empty
