"""A training's settings, checked against its inputs and its output folder before anything heavy is imported."""

import hashlib
import importlib.util
import itertools
import json
import os
import random
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from utils.data.judged import JudgedPool
from utils.data.near import text_groups
from utils.data.rows import fill_negatives, pools_of_rows, read_examples
from utils.data.seen import note_queries, share_seen
from utils.data.split import Split
from utils.errors import InputError
from utils.files import dumps, find_input, write_json
from utils.models.devices import half_precision, visible_devices
from utils.models.folders import find_model, weights_fingerprint
from utils.models.lengths import length_limit, trained_lengths, training_lengths
from utils.models.loading import load_tokenizer
from utils.progress import log
from utils.schema import ContrastiveExample
from utils.training import checkpoints, held_out, history, launch
from utils.training.guard import as_json, read_guard
from utils.training.settings import AUTO, UNMIXED, DataStats, TrainingJob, TrainingSettings, check_settings

SETTINGS_FILE = "training.json"
QUERIES = "queries with the hashes"  # among these settings, though they may change
CARD_FILE = "README.md"  # the model card, written last
# What a run leaves before it has a model or a checkpoint; "runs" are TensorBoard's logs.
FIRST_FILES = (SETTINGS_FILE, history.FILE, history.CURVE, "runs")
# DeepSpeed compares these with the flags and fails where one is no number; it requires the first two.
DS_COUNTS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")


def prepare(settings: TrainingSettings) -> TrainingJob:
    """Find and check all inputs of a training, and write nothing; an InputError says what cannot be used."""
    check_settings(settings)
    model = find_model(settings.model_path)
    ds_config = _find_ds_config(settings) if settings.use_deepspeed else None
    rows, test, guard, facts = _read_rows(settings)
    output = Path(settings.output_dir).resolve()
    tokenizer, config = load_tokenizer(model)
    limit = length_limit(config, tokenizer)
    asked = settings.query_max_len, settings.passage_max_len
    lengths = training_lengths(*asked, trained_lengths(tokenizer), limit, settings.pad_to_multiple_of)
    job = TrainingJob(settings, model, output, rows, test, lengths, facts, guard, ds_config, _find_teacher(settings))
    if settings.mix_with_base == AUTO and not job.evaluates:
        raise InputError("--mix_with_base auto needs queries to choose by: give --eval_data, --guard_data or a share")
    if launch.is_main_process():  # when another process comes here, the first may be writing
        _check_output(job)
    return job._replace(resume=_find_resume(job)) if settings.resume else job


def _read_rows(
    settings: TrainingSettings,
) -> tuple[list[ContrastiveExample], list[ContrastiveExample], list[JudgedPool], DataStats]:
    """Return the rows to train on, with the negatives of a group, those to evaluate on, the guard, and their facts."""
    notes: list[str] = []
    # Without negatives, a row still tells what answers its query.
    rows = read_examples(settings.train_data, warn=notes.append, drop=False)
    if settings.knowledge_distillation and (unscored := sum(row.neg_scores is None for row in rows)):
        named = ", ".join(settings.train_data)
        if unscored == len(rows):
            remedy = "write them with `python -m tools.score_examples`"
            raise InputError(f"{named}: no row has the scores that --knowledge_distillation learns from: {remedy}")
        notes.append(f"{named}: {unscored} of {len(rows)} rows have no scores: they learn from their labels alone")
    if settings.eval_data:
        split = Split(rows, _read_eval_data(rows, settings, notes), 0, 0, 0, 0)
    else:
        split = held_out.hold_out(rows, settings.eval_fraction, settings.seed)
        if reason := held_out.shortfall(split):
            notes.append(reason)
    needed = settings.train_group_size - 1
    short = sum(len(row.neg) < needed for row in split.train)
    # To be repeated, one negative is enough.
    wanted = 1 if settings.negative_fill == "repeat" else needed
    trained = fill_negatives(split.train, wanted, random.Random(settings.seed), rows)
    guard = read_guard(settings.guard_data, settings.seed, notes.append)
    _note_overlap(rows, guard, "--guard_data", notes)
    digests = [_digest(row.row() for row in part) for part in (rows, split.test)]
    queries = note_queries(row.query for row in (*rows, *split.test))
    stats = len(rows), short, split.dropped, split.pruned, split.thinned
    facts = DataStats(digests[0], digests[1], _digest(map(as_json, guard)), queries, *stats, notes)
    return trained, split.test, guard, facts


def _read_eval_data(
    rows: Sequence[ContrastiveExample], settings: TrainingSettings, notes: list[str]
) -> list[ContrastiveExample]:
    found = read_examples(settings.eval_data, "evaluation data", notes.append)
    if not any(row.neg for row in found):
        raise InputError(f"evaluation data {', '.join(settings.eval_data)}: no row has a negative to rank against")
    _note_overlap(rows, pools_of_rows(found), "--eval_data", notes)
    return found


def _note_overlap(rows: Sequence[ContrastiveExample], pools: Sequence[JudgedPool], flag: str, notes: list[str]) -> None:
    theirs = {text for pool in pools for text in (pool.query, *pool.passages)}
    if not theirs:
        return
    group = text_groups(itertools.chain(theirs, *((row.query, *row.passages) for row in rows)))
    groups = {group[text] for text in theirs}
    if overlap := sum(any(group[text] in groups for text in (row.query, *row.passages)) for row in rows):
        notes.append(f"{overlap} rows share a query or passage with {flag}, up to wording: it will flatter the model")


def _digest(rows: Iterable[Any]) -> str:
    """Return the SHA-256 of JSON values as they stand on the lines of a file."""
    return hashlib.sha256(b"".join(dumps(row).encode() + b"\n" for row in rows)).hexdigest()


def _find_teacher(settings: TrainingSettings) -> Path | None:
    """Return the folder of the reranker to stay close to, if to any."""
    return find_model(settings.keep_close_to or settings.model_path) if settings.keep_close else None


def _find_ds_config(settings: TrainingSettings) -> Path:
    """Return DeepSpeed's configuration file, once it can be used here and DeepSpeed is installed."""
    if importlib.util.find_spec("deepspeed") is None:
        raise InputError("--use_deepspeed needs a package: pip install deepspeed")
    remedy = "name one with --ds_config, as train_reranker/ds_stage0.json"
    path = find_input(settings.ds_config, "DeepSpeed configuration", remedy)
    config = _read_object(path)
    for name in DS_COUNTS:
        value = config.get(name, None if name in DS_COUNTS[:2] else "auto")
        if value != "auto" and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(f'{path}: {name} must be "auto" or a number, not {json.dumps(value)}')
    zero = config.get("zero_optimization", {})
    # Stage 3 shards the weights: each forward pass is then one of all processes together, which micro-batches and an
    # evaluation in shares are not. A reranker's weights fit on one device.
    if not isinstance(zero, dict) or zero.get("stage", 0) not in (0, 1, 2):
        raise InputError(f"{path}: zero_optimization.stage must be 0, 1 or 2, as in train_reranker/ds_stage0.json")
    return path


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable as JSON ({error}): fix or replace it") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object, not {type(value).__name__}: fix or replace it")
    return value


def _check_output(job: TrainingJob) -> None:
    """Refuse an output folder whose contents the training would spoil."""
    output, settings = job.output, job.settings
    place = next(folder for folder in (output, *output.parents) if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        reason = "cannot be written" if place.is_dir() else "is a file"
        raise InputError(f"output folder {output}: {place} {reason}: choose another --output_dir")
    for read, purpose in ((job.model, "model to start from"), (job.teacher, "reranker to stay close to")):
        if read and read.is_relative_to(output):
            raise InputError(f"output folder {output} holds the {purpose}: choose another --output_dir")
    if settings.overwrite_output_dir or settings.resume or not output.is_dir():
        if foreign := {*checkpoints.numbered(output)} - {*checkpoints.owned(output)}:
            raise InputError(
                f"{min(foreign)} has no {checkpoints.MANIFEST}, so it is not a checkpoint of this trainer (or of an "
                "earlier version): move it away, for its name will be needed"
            )
        return
    if any(file.name not in FIRST_FILES and not file.name.startswith(".") for file in output.iterdir()):
        raise InputError(
            f"output folder {output} is not empty: choose another --output_dir, "
            "resume with --resume, or replace the model in it with --overwrite_output_dir"
        )


def _find_resume(job: TrainingJob) -> Path | None:
    """Return the checkpoint to resume from; None where the run ended before it wrote one."""
    if job.settings.resume is True and not checkpoints.owned(job.output):
        if (job.output / CARD_FILE).exists():
            raise InputError(
                f"{job.output} holds a finished model and no checkpoint to resume from: use it as it is, "
                "or replace it with --overwrite_output_dir"
            )
        log.info("no checkpoint in %s: training from the beginning", job.output)
        return None
    found = checkpoints.find_checkpoint(job.output, job.settings.resume)
    recorded = found.parent / SETTINGS_FILE
    before, now = _read_object(recorded) if recorded.is_file() else {}, _fixed_settings(job)
    # What an earlier version did not record is not compared.
    different = [f"{k} {before[k]!s:.40}, not {now[k]!s:.40}" for k in now if k in before and before[k] != now[k]]
    if different:
        raise InputError(
            f"{found.parent} was started with {'; '.join(different)}: resume with the same, "
            "or start from scratch with --overwrite_output_dir"
        )
    return found


def _fixed_settings(job: TrainingJob) -> dict[str, Any]:
    """Return all that steps, rates, rows or sums depend on: what must not change when a run is resumed."""
    names = ["epochs", "batch_size", "gradient_accumulation_steps", "learning_rate", "warmup_ratio", "weight_decay"]
    names += ["train_group_size", "negative_fill", "knowledge_distillation", "use_deepspeed", "seed"]
    names += ["soft_labels_only", "dropout", "freeze_embeddings", "keep_close", "mix_with_base", "deterministic"]
    half = [name for name, chosen in precision(job.settings).items() if chosen]
    return {f"--{name}": getattr(job.settings, name) for name in names} | {
        "rows with the digest": job.facts.digest,
        "held-out rows with the digest": job.facts.held_out_digest,
        "guard queries with the digest": job.facts.guard_digest,
        "reranker to stay close to with the digest": job.teacher and weights_fingerprint(job.teacher),
        "model with the digest": weights_fingerprint(job.model),  # its path says nothing: models are moved, replaced
        "processes": int(os.environ.get("WORLD_SIZE") or launch.count_processes(job.settings.num_gpus)),
        "precision": half[0] if half else "fp32",
        "DeepSpeed configuration": None if job.ds_config is None else _read_object(job.ds_config),
        "lengths": list(job.lengths),
    }


def trained_on(folder: Path, queries: Iterable[str]) -> float:
    """Return the share of the queries, 0 to 1, that a model's folder says it was trained or chosen on; 0 if unknown."""
    place = folder if (folder / SETTINGS_FILE).is_file() else folder.parent  # as of a checkpoint, or what was not mixed
    try:
        noted = _read_object(place / SETTINGS_FILE).get(QUERIES)
    except InputError:  # not trained by this project
        return 0.0
    return share_seen(noted, queries) if isinstance(noted, str) else 0.0


def precision(settings: TrainingSettings) -> dict[str, bool]:
    """Return the Trainer's precision flags: as asked, else the half precision that the device is fast at.

    DeepSpeed on a CPU stays at fp32: it would keep the weights themselves in bf16. An InputError refuses fp16 there.
    """
    import torch

    cuda, chosen = torch.cuda.is_available(), None
    if settings.fp16 and not cuda:
        raise InputError("--fp16 needs a GPU, and none can be seen: use --bf16, or leave the flag out")
    if not (settings.fp16 or settings.bf16 or settings.no_mixed_precision or (settings.use_deepspeed and not cuda)):
        chosen = half_precision(visible_devices()[0])
    return {"bf16": settings.bf16 or chosen == torch.bfloat16, "fp16": settings.fp16 or chosen == torch.float16}


def open_output(job: TrainingJob) -> None:
    """Record the settings in the output folder and, unless a run is resumed, remove an older one's checkpoints.

    They would be counted among the new ones. The old model stays until the new one replaces it. An InputError says
    that the folder cannot be written.
    """
    _check_output(job)  # again: another run may have ended here since
    kept = checkpoints.owned(job.output)
    if job.settings.resume is True and (job.resume not in kept if job.resume else kept):
        raise InputError(f"another run has just written to {job.output}: run this one again")
    try:
        checkpoints.remove_staging(job.output)
        if job.resume is None:
            for folder in kept:
                checkpoints.remove(folder)
            shutil.rmtree(job.output / UNMIXED, ignore_errors=True)
            checkpoints.remove_staging(job.output)
            for name in (history.FILE, history.CURVE):
                (job.output / name).unlink(missing_ok=True)
        with checkpoints.adding(job.output) as staged:
            write_json(staged / SETTINGS_FILE, _fixed_settings(job) | {QUERIES: job.facts.queries})
    except OSError as error:
        raise InputError(f"output folder {job.output} cannot be written: {error.strerror}") from None
