"""A training's output folder: what may stand in it, what is resumed from it, and the settings recorded there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.files import write_json
from utils.models.folders import weights_fingerprint
from utils.progress import log
from utils.training import checkpoints, held_out, launch
from utils.training.settings import TrainingJob, TrainingSettings

SETTINGS_FILE = "training.json"
CARD_FILE = "README.md"  # the model card, written last
# What a run leaves before it has a model or a checkpoint; "runs" are TensorBoard's logs.
FIRST_FILES = (SETTINGS_FILE, held_out.FILE, held_out.CURVE, "runs")


def check_output(output: Path, model: Path, settings: TrainingSettings) -> None:
    """Refuse, with an InputError, an output folder whose contents a training would spoil."""
    if output.exists() and not output.is_dir():
        raise InputError(f"output folder {output} is a file: choose another --output_dir")
    if model.is_relative_to(output):
        raise InputError(f"output folder {output} holds the model to start from: choose another --output_dir")
    if settings.overwrite_output_dir or settings.resume or not output.is_dir():
        return
    if any(file.name not in FIRST_FILES and not file.name.startswith(".") for file in output.iterdir()):
        raise InputError(
            f"output folder {output} is not empty: choose another --output_dir, "
            "resume with --resume, or replace the model in it with --overwrite_output_dir"
        )


def find_resume(job: TrainingJob) -> Path | None:
    """Return the checkpoint to resume from; None where the run ended before it wrote one.

    Raises:
        InputError: no checkpoint is complete, or they are of a training with other settings or data.
    """
    if job.settings.resume is True and not any(job.output.glob("checkpoint-*")):
        if (job.output / CARD_FILE).exists():
            raise InputError(
                f"{job.output} holds a finished model and no checkpoint to resume from: use it as it is, "
                "or replace it with --overwrite_output_dir"
            )
        log.info("no checkpoint in %s: training from the beginning", job.output)
        return None
    found = checkpoints.find_checkpoint(job.output, job.settings.resume)
    recorded = found.parent / SETTINGS_FILE
    if recorded.is_file():
        before, now = read_object(recorded), fixed_settings(job)
        # What an earlier version did not record is not compared.
        different = [f"{k} {before[k]!s:.40}, not {now[k]!s:.40}" for k in now if k in before and before[k] != now[k]]
        if different:
            raise InputError(
                f"{found.parent} was started with {'; '.join(different)}: resume with the same, "
                "or start from scratch with --overwrite_output_dir"
            )
    return found


def fixed_settings(job: TrainingJob) -> dict[str, Any]:
    """Return all that steps, rates, rows or sums depend on: what must not change when a run is resumed."""
    from utils.training.arguments import precision

    names = ["epochs", "batch_size", "gradient_accumulation_steps", "learning_rate", "warmup_ratio", "weight_decay"]
    names += ["train_group_size", "negative_fill", "knowledge_distillation", "use_deepspeed", "seed"]
    kept = {f"--{name}": getattr(job.settings, name) for name in names}
    half = [name for name, chosen in precision(job.settings).items() if chosen]
    return kept | {
        "rows with the digest": job.facts.digest,
        "held-out rows with the digest": job.facts.held_out_digest,
        "model with the digest": weights_fingerprint(job.model),  # its path says nothing: models are moved, replaced
        "processes": launch.world_size(job.settings.num_gpus),
        "precision": half[0] if half else "fp32",
        "DeepSpeed configuration": None if job.ds_config is None else read_object(job.ds_config),
        "lengths": list(job.lengths),
    }


def open_output(job: TrainingJob) -> None:
    """Make the output folder, record the settings and, unless a run is resumed, remove an older one's checkpoints.

    They would be counted among the new ones. The old model stays until the new one replaces it.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        job.output.mkdir(parents=True, exist_ok=True)
        if job.resume is None:
            checkpoints.remove_all(job.output)
            for name in (held_out.FILE, held_out.CURVE):
                (job.output / name).unlink(missing_ok=True)
        write_json(job.output / SETTINGS_FILE, fixed_settings(job))
    except OSError as error:
        raise InputError(f"output folder {job.output} cannot be written: {error.strerror}") from None


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or raise InputError where it holds none."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable as JSON ({error}): fix or replace it") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object, not {type(value).__name__}: fix or replace it")
    return value
