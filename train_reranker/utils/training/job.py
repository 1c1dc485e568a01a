"""What a training is asked to do: its settings, checked against the inputs before anything heavy is imported."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import netrc
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from utils.data.negatives import fill_negatives
from utils.data.rows import canonical, read_examples
from utils.data.split import Split
from utils.errors import InputError
from utils.files import dumps, find_input
from utils.models.folders import find_model, weights_fingerprint
from utils.models.lengths import length_limit
from utils.models.loading import load_tokenizer
from utils.progress import log
from utils.schema import ContrastiveExample
from utils.training import checkpoints, held_out, launch
from utils.training.groups import Lengths

# What `--report_to` can name, and the package that each needs.
REPORTERS = {"none": None, "tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}

# What `--negative_fill` can name.
NEGATIVE_FILLS = ("other_rows", "repeat")
# Where a run notes what it was begun with, so that it is not gone on with differently.
BEGUN = "training.json"
CARD = "README.md"  # the model card, which a run writes last
# What a run leaves before it has a model or a checkpoint; "runs" are TensorBoard's logs.
LEFTOVERS = (BEGUN, held_out.FILE, held_out.CURVE, "runs")

_SHORTEST_PASSAGE = 8  # room for the special tokens and some text


@dataclass(frozen=True)
class TrainingSettings:
    """All that a training depends on, with the defaults that the command line shows."""

    model_path: str = "./models/bge-reranker-v2-m3"
    train_data: Sequence[str] = ("./data/train_data.jsonl",)
    output_dir: str = "./output"
    overwrite_output_dir: bool = False
    epochs: float = 2.0
    batch_size: int = 4
    gradient_accumulation_steps: int = 1
    learning_rate: float = 6e-6
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01
    train_group_size: int = 4
    negative_fill: str = "other_rows"
    query_max_len: int = 512
    passage_max_len: int | None = None
    pad_to_multiple_of: int = 8
    max_tokens_per_chunk: int | None = None
    knowledge_distillation: bool = False
    num_gpus: int | None = None
    use_deepspeed: bool = False
    ds_config: str = "./ds_stage0.json"
    fp16: bool = False
    bf16: bool = False
    no_mixed_precision: bool = False
    gradient_checkpointing: bool | None = None
    save_steps: int = 100
    save_total_limit: int = 2
    eval_data: Sequence[str] = ()
    eval_fraction: float = 0.1
    eval_steps: int | None = None
    patience: int | None = None
    resume: bool | str = False
    report_to: str = "tensorboard"
    cache_dir: str | None = None
    cache_path: str | None = None
    seed: int = 42

    @property
    def fill(self) -> str:
        """What fills up a row's negatives: a passage of another row has no teacher's score to distil from."""
        return "repeat" if self.knowledge_distillation else self.negative_fill


class TrainingJob(NamedTuple):
    """A training whose inputs are all found and checked."""

    settings: TrainingSettings
    model: Path
    output: Path
    examples: list[ContrastiveExample]
    held_out: list[ContrastiveExample]  # never trained on
    lengths: Lengths
    facts: DataStats
    ds_config: Path | None = None
    resume: Path | None = None


class DataStats(NamedTuple):
    """What became of the rows that were read."""

    digest: str  # of all rows, SHA-256
    held_out_digest: str
    rows: int
    short: int  # rows that had too few negatives of their own
    dropped: int  # rows lost to both sides, so that others can be held out
    pruned: int  # passages taken out of rows because they are held out
    thinned: int  # negatives taken out of held-out pools because rows stand on them
    notes: Sequence[str]  # what there is to be known of the data, a line each


def prepare(settings: TrainingSettings) -> TrainingJob:
    """Find and check all inputs of a training, and write nothing.

    Raises:
        InputError: a setting or an input cannot be used.
    """
    _check_settings(settings)
    model = find_model(settings.model_path)
    ds_config = _find_ds_config(settings) if settings.use_deepspeed else None
    rows, held_out, facts = _read_rows(settings)
    output = Path(settings.output_dir).resolve()
    lengths = _choose_lengths(settings, model)
    job = TrainingJob(settings, model, output, rows, held_out, lengths, facts, ds_config)
    if launch.is_main_process():  # another process may come when the first one is writing
        _check_output(output, model, settings)
    return job._replace(resume=_find_resume(job)) if settings.resume else job


def _read_rows(settings: TrainingSettings) -> tuple[list[ContrastiveExample], list[ContrastiveExample], DataStats]:
    """Return the rows to train on, with their groups' negatives, those to evaluate on, and what became of them."""
    notes: list[str] = []
    rows = read_examples(settings.train_data, warn=notes.append)
    if settings.knowledge_distillation:
        _check_teacher_scores(rows, settings)
    if settings.eval_data:
        unseen = read_examples(settings.eval_data, "evaluation data", notes.append)
        if not any(row.neg for row in unseen):
            raise InputError(f"evaluation data {', '.join(settings.eval_data)}: no row has a negative to rank against")
        texts = {canonical(text) for row in unseen for text in (row.query, *row.passages)}
        overlap = sum(any(canonical(text) in texts for text in (row.query, *row.passages)) for row in rows)
        if overlap:
            notes.append(f"{overlap} rows share a query or passage with --eval_data: it will flatter the model")
        split = Split(rows, unseen, 0, 0, 0, 0)
    else:
        # What has no negative has no score to distil from.
        keep_negatives = settings.knowledge_distillation
        split = held_out.hold_out(rows, settings.eval_fraction, settings.seed, keep_negatives)
        if short_of := held_out.shortfall(split):
            notes.append(short_of)
    trained, short = _complete_groups(split.train, settings)
    digests = _digest(rows), _digest(split.test)
    return trained, split.test, DataStats(*digests, len(rows), short, split.dropped, split.pruned, split.thinned, notes)


def _digest(rows: Sequence[ContrastiveExample]) -> str:
    """Return the SHA-256 of rows as they stand in a data file."""
    return hashlib.sha256(b"".join(dumps(row.row()).encode() + b"\n" for row in rows)).hexdigest()


def fit_lengths(query: int, passage: int | None, limit: int | None, multiple: int = 1) -> Lengths:
    """Cut the lengths to a model's limit: the query keeps at most half of it, the passage gets the rest.

    A limit that is no multiple of what batches are padded to is lowered to one: padding would overrun it.
    ``passage`` None asks for all that the query leaves, ``limit`` None says that the model sets none.
    """
    if limit is None:
        return Lengths(query, 512 if passage is None else passage)
    limit -= limit % max(1, multiple)
    if passage is not None and query + passage <= limit:
        return Lengths(query, passage)
    query = min(query, limit // 2)
    return Lengths(query, limit - query if passage is None else min(passage, limit - query))


def _check_settings(settings: TrainingSettings) -> None:
    """Say all settings that are out of range in one line."""
    least = {"batch_size": 1, "gradient_accumulation_steps": 1, "train_group_size": 2, "query_max_len": 1}
    least |= {"passage_max_len": _SHORTEST_PASSAGE, "num_gpus": 1, "pad_to_multiple_of": 0, "save_steps": 0}
    least |= {"save_total_limit": 1, "weight_decay": 0, "eval_steps": 1, "patience": 1, "max_tokens_per_chunk": 1}
    values = vars(settings)
    given = {k: v for k, v in least.items() if values[k] is not None}
    wrong = [f"--{k} must be at least {v}" for k, v in given.items() if not v <= values[k] < math.inf]
    wrong += [f"--{k} must be above 0" for k in ("epochs", "learning_rate") if not 0 < values[k] < math.inf]
    if not 0 <= settings.warmup_ratio < 1:
        wrong.append("--warmup_ratio must be at least 0 and below 1")
    if not 0 <= settings.eval_fraction < 1:
        wrong.append("--eval_fraction must be at least 0 and below 1")
    if not settings.output_dir:
        wrong.append("--output_dir must name a folder")
    if settings.negative_fill not in NEGATIVE_FILLS:
        wrong.append(f"--negative_fill must be one of {', '.join(NEGATIVE_FILLS)}")
    if settings.resume and settings.overwrite_output_dir:
        wrong.append("only one of --resume and --overwrite_output_dir can be given")
    if settings.fp16 + settings.bf16 + settings.no_mixed_precision > 1:
        wrong.append("only one of --fp16, --bf16 and --no_mixed_precision can be given")
    if not 0 <= settings.seed < 2**32:
        wrong.append("--seed must be from 0 to 4294967295")  # what numpy takes
    if settings.report_to not in REPORTERS:
        wrong.append(f"--report_to must be one of {', '.join(REPORTERS)}")
    elif (package := REPORTERS[settings.report_to]) and importlib.util.find_spec(package) is None:
        wrong.append(f"--report_to {package} needs a package: pip install {package}")
    elif settings.report_to == "wandb" and not _has_wandb_key():
        wrong.append("--report_to wandb needs a key: run `wandb login`, or set WANDB_API_KEY or WANDB_MODE=offline")
    if wrong:
        raise InputError("; ".join(wrong))


def _has_wandb_key() -> bool:
    """Tell whether wandb would find a key, or needs none."""
    if os.environ.get("WANDB_MODE", "online") != "online" or os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


# What DeepSpeed compares with the flags, and fails at where it is no number; of these, what it will not do without.
DS_COUNTS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
DS_REQUIRED = ("train_batch_size", "train_micro_batch_size_per_gpu")


def _find_ds_config(settings: TrainingSettings) -> Path:
    """Return DeepSpeed's configuration file, once it can be used here and DeepSpeed is installed."""
    if importlib.util.find_spec("deepspeed") is None:
        raise InputError("--use_deepspeed needs a package: pip install deepspeed")
    path = find_input(
        settings.ds_config,
        "DeepSpeed configuration",
        "name one with --ds_config, as train_reranker/ds_stage0.json",
    )
    config = _read_json(path)
    for name in DS_COUNTS:
        value = config.get(name, "auto" if name not in DS_REQUIRED else None)
        if value != "auto" and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(f'{path}: {name} must be "auto" or a number, not {json.dumps(value)}')
    zero = config.get("zero_optimization", {})
    # Stage 3 spreads the weights themselves: each forward pass is then one of all processes together, which chunks and
    # an evaluation in shares are not. A reranker's weights fit on one device.
    if not isinstance(zero, dict) or zero.get("stage", 0) not in (0, 1, 2):
        raise InputError(f"{path}: zero_optimization.stage must be 0, 1 or 2, as in train_reranker/ds_stage0.json")
    return path


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable as JSON ({error}): mend or replace it") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


def _complete_groups(
    rows: list[ContrastiveExample], settings: TrainingSettings
) -> tuple[list[ContrastiveExample], int]:
    """Give every row the negatives of a group and return how many were short of them."""
    wanted = settings.train_group_size - 1
    short = sum(len(row.neg) < wanted for row in rows)
    # What a row has none of cannot be repeated.
    drawn = 1 if settings.fill == "repeat" else wanted
    return fill_negatives(rows, drawn, random.Random(settings.seed)), short


def _check_teacher_scores(rows: Sequence[ContrastiveExample], settings: TrainingSettings) -> None:
    for number, row in enumerate(rows, 1):
        if not row.neg or row.pos_scores is None or row.neg_scores is None:
            raise InputError(
                f"{', '.join(settings.train_data)}, row {number}: --knowledge_distillation needs "
                '"pos_scores" and "neg_scores" beside "pos" and "neg" in each row'
            )


def _check_output(output: Path, model: Path, settings: TrainingSettings) -> None:
    """Refuse an output folder whose contents a training would spoil."""
    if output.exists() and not output.is_dir():
        raise InputError(f"output folder {output} is a file: choose another --output_dir")
    if model.is_relative_to(output):
        raise InputError(f"output folder {output} holds the model to start from: choose another --output_dir")
    if settings.overwrite_output_dir or settings.resume or not output.is_dir():
        return
    # What a start that failed has left is no more than that.
    if any(file.name not in LEFTOVERS and not file.name.startswith(".") for file in output.iterdir()):
        raise InputError(
            f"output folder {output} is not empty: choose another --output_dir, "
            "go on with --resume, or replace the model in it with --overwrite_output_dir"
        )


def _find_resume(job: TrainingJob) -> Path | None:
    """Return the checkpoint to go on from; None where the run was ended before it wrote one.

    Raises:
        InputError: no checkpoint is whole, or they are of a training with other settings or data.
    """
    if job.settings.resume is True and not any(job.output.glob("checkpoint-*")):
        if (job.output / CARD).exists():
            raise InputError(
                f"{job.output} holds a finished model and no checkpoint to go on from: use it as it is, "
                "or replace it with --overwrite_output_dir"
            )
        log.info("there is no checkpoint in %s: training from the beginning", job.output)
        return None
    found = checkpoints.find_checkpoint(job.output, job.settings.resume)
    begun = found.parent / BEGUN
    if begun.is_file():
        before, now = _read_json(begun), begun_with(job)
        # What an older version did not note yet is not held against the run.
        different = [f"{k} {before[k]!s:.40}, not {now[k]!s:.40}" for k in now if k in before and before[k] != now[k]]
        if different:
            raise InputError(
                f"{found.parent} was begun with {'; '.join(different)}: resume with the same, "
                "or start from scratch with --overwrite_output_dir"
            )
    return found


def begun_with(job: TrainingJob) -> dict[str, Any]:
    """Return all that steps, rates, rows or sums depend on: it must not change before a run is resumed."""
    from utils.training.arguments import precision

    names = ["epochs", "batch_size", "gradient_accumulation_steps", "learning_rate", "warmup_ratio", "weight_decay"]
    names += ["train_group_size", "negative_fill", "knowledge_distillation", "use_deepspeed", "seed"]
    kept = {f"--{name}": getattr(job.settings, name) for name in names}
    digests = {"rows with the digest": job.facts.digest, "held-out rows with the digest": job.facts.held_out_digest}
    half = [name for name, chosen in precision(job.settings).items() if chosen]
    devices = {"processes": launch.world_size(job.settings.num_gpus), "precision": half[0] if half else "fp32"}
    devices |= {"DeepSpeed configuration": None if job.ds_config is None else _read_json(job.ds_config)}
    # A model may be moved, or replaced by another in its place: its path says nothing.
    digests["model with the digest"] = weights_fingerprint(job.model)
    return kept | digests | devices | {"lengths": list(job.lengths)}


def _choose_lengths(settings: TrainingSettings, model: Path) -> Lengths:
    tokenizer, config = load_tokenizer(model)
    limit = length_limit(config, tokenizer)
    return fit_lengths(settings.query_max_len, settings.passage_max_len, limit, settings.pad_to_multiple_of)
