"""Checkpoints: all that a resumed training goes on from, written beside their place, renamed, checked before use."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from utils.errors import InputError
from utils.files import write_json
from utils.models.folders import stored_tensors
from utils.progress import log

STAGING = ".unfinished"  # which transformers does not take for a checkpoint
MANIFEST = "checkpoint.json"  # the sizes of a checkpoint's files; a folder without it is not the trainer's
BEST = "best"  # the folder, in a checkpoint, of the best model until then
# What optimizers' and random states consist of beside tensors, numbers and texts. Other classes are never loaded, for
# a pickle that names one can run any code.
CLASSES = {"numpy.ndarray", "numpy.dtype", "numpy._core.multiarray._reconstruct"}
DEEPSPEED_CLASSES = {
    "deepspeed.utils.tensor_fragment.fragment_address", "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler", "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
}  # fmt: skip


def numbered(output: Path) -> list[Path]:
    """Return the folders with a checkpoint's name, the latest step first."""
    return sorted((one for one in output.glob("checkpoint-*") if one.is_dir() and step_of(one)), key=step_of)[::-1]


def owned(output: Path) -> list[Path]:
    """Return the checkpoints that the trainer wrote, the latest step first."""
    return [folder for folder in numbered(output) if (folder / MANIFEST).is_file()]


def last_complete(output: Path) -> Path | None:
    """Return the latest complete checkpoint of an output folder, if any; log a line for each broken one after it."""
    for folder in owned(output):
        if (fault := find_fault(folder)) is None:
            return folder
        log.warning("%s cannot be resumed and is left aside: %s", folder, fault)
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
    """Name the file that a checkpoint lacks, or that is damaged or would run code; None if it is complete."""
    try:
        sizes = json.loads((checkpoint / MANIFEST).read_bytes())["bytes"].items()
    except OSError:
        return f"{MANIFEST} is missing"
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"{MANIFEST} is damaged"
    for name, size in sizes:
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, not {size}"
        if fault := _fault_inside(file):
            return f"{name} {fault}"
    return None


def _fault_inside(file: Path) -> str | None:
    """Say what is wrong with a file of the right size, as far as can be told without reading tensors."""
    classes: set[str] = set()
    try:
        if file.suffix == ".json":
            json.loads(file.read_bytes())
        elif file.suffix in (".pt", ".pth", ".bin"):
            from torch.serialization import get_unsafe_globals_in_checkpoint

            classes = {*get_unsafe_globals_in_checkpoint(file)} - CLASSES - DEEPSPEED_CLASSES
        elif file.suffix == ".safetensors" and stored_tensors(file) is None:
            return "is damaged"
    except Exception:  # pickle's and zip's readers raise many kinds
        return "is damaged"
    return f"would run code ({', '.join(sorted(classes))})" if classes else None


def write_manifest(checkpoint: Path) -> None:
    """Bring a checkpoint's files to the disk, and note their sizes."""
    files = sorted(file for file in checkpoint.rglob("*") if file.is_file() and file.name != MANIFEST)
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    sizes = {str(file.relative_to(checkpoint)): file.stat().st_size for file in files}
    write_json(checkpoint / MANIFEST, {"bytes": sizes})


def link(files: Iterable[Path], folder: Path) -> None:
    """Give files a second name in a new folder, which takes no space, or copy them where a disk has no hard links.

    They must be replaced, as all here are, and not be written to in place.
    """
    folder.mkdir(parents=True)
    for file in files:
        try:
            os.link(file, folder / file.name)
        except OSError:
            shutil.copy(file, folder)


def publish(staged: Path, place: Path) -> list[str]:
    """Move a complete folder into its place, file by file where that exists; return the names of its files."""
    names = sorted(file.name for file in staged.iterdir())
    if not place.exists():
        staged.rename(place)
        return names
    for name in names:
        (staged / name).replace(place / name)
    shutil.rmtree(staged)  # a second name of the very file that is there has stayed
    return names


@contextlib.contextmanager
def adding(output: Path) -> Iterator[Path]:
    """Yield a folder for new files, which then move into the output folder; a kill leaves none of them half written."""
    (folder := output / STAGING / "files").mkdir(parents=True, exist_ok=True)
    yield folder
    publish(folder, output)
    remove_staging(output)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint at once: one that is killed half-way leaves nothing that looks like one."""
    (staging := checkpoint.parent / STAGING).mkdir(exist_ok=True)
    checkpoint.rename(removed := staging / f"removed-{checkpoint.name}")
    shutil.rmtree(removed)


def rotate(output: Path, newest: Path, limit: int) -> None:
    """Keep ``newest`` and the latest of the others that the trainer wrote, ``limit`` in all."""
    for folder in [one for one in owned(output) if one != newest][limit - 1 :]:
        remove(folder)


def remove_staging(output: Path) -> None:
    """Remove what was left unfinished, and the output folder if it is then empty."""
    shutil.rmtree(output / STAGING, ignore_errors=True)
    with contextlib.suppress(OSError):
        output.rmdir()  # fails unless it is empty
