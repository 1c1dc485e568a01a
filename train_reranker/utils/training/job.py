"""A training's settings, checked against its inputs before anything heavy is imported."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import random
from collections.abc import Sequence
from pathlib import Path

from utils.data.negatives import fill_negatives
from utils.data.rows import canonical, read_examples
from utils.data.split import Split
from utils.errors import InputError
from utils.files import dumps, find_input
from utils.models.folders import find_model
from utils.models.lengths import length_limit, training_lengths
from utils.models.loading import load_tokenizer
from utils.schema import ContrastiveExample
from utils.training import held_out, launch
from utils.training.output import check_output, find_resume, read_object
from utils.training.settings import DataStats, TrainingJob, TrainingSettings, check_settings


def prepare(settings: TrainingSettings) -> TrainingJob:
    """Find and check all inputs of a training, and write nothing; an InputError says what cannot be used."""
    check_settings(settings)
    model = find_model(settings.model_path)
    ds_config = _find_ds_config(settings) if settings.use_deepspeed else None
    rows, held_out, facts = _read_rows(settings)
    output = Path(settings.output_dir).resolve()
    tokenizer, config = load_tokenizer(model)
    limit = length_limit(config, tokenizer)
    lengths = training_lengths(settings.query_max_len, settings.passage_max_len, limit, settings.pad_to_multiple_of)
    job = TrainingJob(settings, model, output, rows, held_out, lengths, facts, ds_config)
    if launch.is_main_process():  # when another process comes here, the first may be writing
        check_output(output, model, settings)
    return job._replace(resume=find_resume(job)) if settings.resume else job


def _read_rows(settings: TrainingSettings) -> tuple[list[ContrastiveExample], list[ContrastiveExample], DataStats]:
    """Return the rows to train on, with the negatives of a group, those to evaluate on, and what became of them."""
    notes: list[str] = []
    rows = read_examples(settings.train_data, warn=notes.append)
    if settings.knowledge_distillation:
        _check_teacher_scores(rows, settings)
    if settings.eval_data:
        split = Split(rows, _read_eval_data(rows, settings, notes), 0, 0, 0, 0)
    else:
        # A row without negatives has no scores to distil from.
        keep_negatives = settings.knowledge_distillation
        split = held_out.hold_out(rows, settings.eval_fraction, settings.seed, keep_negatives)
        if reason := held_out.shortfall(split):
            notes.append(reason)
    needed = settings.train_group_size - 1
    short = sum(len(row.neg) < needed for row in split.train)
    # To be repeated, one negative is enough.
    trained = fill_negatives(split.train, 1 if settings.fill == "repeat" else needed, random.Random(settings.seed))
    digests = _digest(rows), _digest(split.test)
    return trained, split.test, DataStats(*digests, len(rows), short, split.dropped, split.pruned, split.thinned, notes)


def _read_eval_data(
    rows: Sequence[ContrastiveExample], settings: TrainingSettings, notes: list[str]
) -> list[ContrastiveExample]:
    found = read_examples(settings.eval_data, "evaluation data", notes.append)
    if not any(row.neg for row in found):
        raise InputError(f"evaluation data {', '.join(settings.eval_data)}: no row has a negative to rank against")
    texts = {canonical(text) for row in found for text in (row.query, *row.passages)}
    overlap = sum(any(canonical(text) in texts for text in (row.query, *row.passages)) for row in rows)
    if overlap:
        notes.append(f"{overlap} rows share a query or passage with --eval_data: it will flatter the model")
    return found


def _check_teacher_scores(rows: Sequence[ContrastiveExample], settings: TrainingSettings) -> None:
    for number, row in enumerate(rows, 1):
        if not row.neg or row.pos_scores is None or row.neg_scores is None:
            raise InputError(
                f"{', '.join(settings.train_data)}, row {number}: --knowledge_distillation needs "
                '"pos_scores" and "neg_scores" beside "pos" and "neg" in each row'
            )


def _digest(rows: Sequence[ContrastiveExample]) -> str:
    """Return the SHA-256 of rows as they stand in a data file."""
    return hashlib.sha256(b"".join(dumps(row.row()).encode() + b"\n" for row in rows)).hexdigest()


# DeepSpeed compares these with the flags and fails where one is no number; the second list it requires.
DS_COUNTS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
DS_REQUIRED = ("train_batch_size", "train_micro_batch_size_per_gpu")


def _find_ds_config(settings: TrainingSettings) -> Path:
    """Return DeepSpeed's configuration file, once it can be used here and DeepSpeed is installed."""
    if importlib.util.find_spec("deepspeed") is None:
        raise InputError("--use_deepspeed needs a package: pip install deepspeed")
    remedy = "name one with --ds_config, as train_reranker/ds_stage0.json"
    path = find_input(settings.ds_config, "DeepSpeed configuration", remedy)
    config = read_object(path)
    for name in DS_COUNTS:
        value = config.get(name, None if name in DS_REQUIRED else "auto")
        if value != "auto" and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(f'{path}: {name} must be "auto" or a number, not {json.dumps(value)}')
    zero = config.get("zero_optimization", {})
    # Stage 3 shards the weights: each forward pass is then one of all processes together, which micro-batches and an
    # evaluation in shares are not. A reranker's weights fit on one device.
    if not isinstance(zero, dict) or zero.get("stage", 0) not in (0, 1, 2):
        raise InputError(f"{path}: zero_optimization.stage must be 0, 1 or 2, as in train_reranker/ds_stage0.json")
    return path
