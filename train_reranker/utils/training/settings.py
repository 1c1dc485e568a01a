"""What a training is asked to do: its settings, with defaults and ranges, and the job that they make of the inputs."""

import importlib.util
import math
import netrc
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from utils.data.judged import JudgedPool
from utils.errors import InputError
from utils.models.lengths import Lengths
from utils.schema import ContrastiveExample

# What `--report_to` can name, and the package that each needs.
REPORTERS = {"none": None, "tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
NEGATIVE_FILLS = ("other_rows", "repeat")  # what `--negative_fill` can name
SHORTEST_PASSAGE = 8  # tokens: room for the special ones and some text
AUTO, MIX_SHARES = "auto", (0.0, 0.25, 0.5, 0.75)  # what `--mix_with_base auto` tries
UNMIXED = "unmixed"  # the folder, in the output folder, of a model before that


def setting(default: Any, help: str, *aliases: str, **options: Any) -> Any:
    """Return a field with what its flag shows; ``options`` are argparse's, beyond those that the type implies."""
    return field(default=default, metadata={"help": help, "aliases": aliases, **options})


@dataclass(frozen=True)
class TrainingSettings:
    """All that a training depends on. Each field is a flag of train_reranker.py, with its default and help."""

    # What is read and written.
    model_path: str = setting("./models/bge-reranker-v2-m3",
        "folder of the reranker, or encoder, to start from", "--model_name_or_path")  # fmt: skip
    train_data: Sequence[str] = setting(("./data/train_data.jsonl",),
        "files of rows in any format, or folders (default: ./data/train_data.jsonl)")  # fmt: skip
    output_dir: str = setting("./output", "folder for the trained model")
    overwrite_output_dir: bool = setting(False, "replace the model and the checkpoints in --output_dir")
    cache_dir: str | None = setting(None, "accepted for older commands; models are local folders")
    cache_path: str | None = setting(None, "accepted for older commands; reading the data needs no cache")
    # Optimisation.
    epochs: float = setting(2.0, "passes over the data", "--num_train_epochs")
    batch_size: int = setting(4, "rows (groups) per device and step", "--per_device_train_batch_size")
    gradient_accumulation_steps: int = setting(1, "batches whose gradients are summed before a step")
    learning_rate: float = setting(6e-6, "peak learning rate")
    warmup_ratio: float = setting(0.1, "share of the steps in which the learning rate rises")
    weight_decay: float = setting(0.01, "AdamW's weight decay")
    seed: int = setting(42, "seed of the order, the draws and the dropout")
    # Rows to groups of pairs, pairs to tokens.
    train_group_size: int = setting(4, "passages per query and step: one positive, the rest negatives")
    query_max_len: int | None = setting(None, "longest query in tokens (default: as the base was trained, else 512)")
    passage_max_len: int | None = setting(None,
        "longest passage in tokens (default: as the base was trained, else what the query leaves)")  # fmt: skip
    pad_to_multiple_of: int = setting(
        8, "pad to a multiple of this many tokens, on a GPU of up to 128; 0: to the longest pair only"
    )
    negative_fill: str = setting("other_rows", choices=NEGATIVE_FILLS,
        help="where a row has too few negatives, take passages of other rows, or repeat its own")  # fmt: skip
    # What is learnt, and what is kept.
    knowledge_distillation: bool = setting(False, "also learn from pos_scores and neg_scores, where rows have them")
    soft_labels_only: bool = setting(False,
        "for --knowledge_distillation: learn nothing else from such rows, not even what is positive")  # fmt: skip
    dropout: float | None = setting(None, "dropout of all layers (default: as the model's config.json has it)")
    freeze_embeddings: bool = setting(False, "do not train the word embeddings, half of a small model's weights")
    keep_close: float = setting(0.0,
        "weight of a loss that holds the scores close to the base's, against forgetting (try 1)")  # fmt: skip
    keep_close_to: str | None = setting(None, "reranker to stay close to, for --keep_close (default: the base)")
    mix_with_base: str = setting("0",
        "share of the base's weights in the model that is written, against forgetting (try 0.5); auto: the best of "
        "0, 0.25, 0.5 and 0.75 on the held-out and guard queries", metavar="SHARE")  # fmt: skip
    # Devices and precision.
    num_gpus: int | None = setting(None, "processes to train in (default: one per visible GPU, or 1)")
    use_deepspeed: bool = setting(False, "train with DeepSpeed")
    ds_config: str = setting("./ds_stage0.json", "DeepSpeed's configuration, for --use_deepspeed", "--deepspeed_config")
    fp16: bool = setting(False, "mixed precision in fp16")
    bf16: bool = setting(False, "mixed precision in bf16")
    no_mixed_precision: bool = setting(False, "fp32 (default: the half precision that the device is fast at, if any)")
    max_tokens_per_micro_batch: int | None = setting(None,
        "tokens that go through the model at once (default: 65536 on a GPU, 4096 on a CPU)",
        "--max_tokens_per_chunk")  # fmt: skip
    gradient_checkpointing: bool | None = setting(None, "recompute activations to save memory (default: on a GPU only)")
    deterministic: bool = setting(False,
        "let a GPU add up in a fixed order, so that runs can be repeated digit by digit; slower, the more so the "
        "longer the pairs")  # fmt: skip
    # Evaluation.
    eval_data: Sequence[str] = setting((), "files of rows to evaluate on (default: rows held out)")
    eval_fraction: float = setting(0.1, "share of the rows that is held out; 0: no evaluation")
    guard_data: Sequence[str] = setting((),
        "files of rows, or BEIR folders, of another origin: is the model worse there than its base?")  # fmt: skip
    eval_steps: int | None = setting(None, "steps between evaluations (default: a fifth of all)")
    patience: int | None = setting(None, "stop after this many evaluations without a better one (default: never)")
    # Checkpoints and logs.
    save_steps: int = setting(100, "steps between checkpoints; 0 writes none")
    save_total_limit: int = setting(2, "checkpoints to keep")
    resume: bool | str = setting(False,
        "resume from the last complete checkpoint of --output_dir, or from this one (default: from scratch)",
        "--resume_from_checkpoint", metavar="CHECKPOINT")  # fmt: skip
    report_to: str = setting("tensorboard", "where losses and metrics are logged beside the screen", choices=REPORTERS)

    @property
    def mix_shares(self) -> tuple[float, ...]:
        """The shares of the base's weights that are tried at the end; none where the model is not mixed.

        ValueError if ``mix_with_base`` is neither ``auto`` nor a number from 0 to below 1.
        """
        if self.mix_with_base == AUTO:
            return MIX_SHARES
        if not 0 <= (share := float(self.mix_with_base)) < 1:
            raise ValueError(f"{share} is not from 0 to below 1")
        return (share,) if share else ()


class DataStats(NamedTuple):
    """What became of the rows that were read."""

    digest: str  # of all rows, SHA-256
    held_out_digest: str
    guard_digest: str
    queries: str  # a sample of all rows' queries, see :mod:`utils.data.seen`
    rows: int
    short: int  # rows that had too few negatives of their own
    dropped: int  # rows lost to both sides, so that others can be held out
    pruned: int  # passages taken out of rows because they are held out
    thinned: int  # negatives taken out of held-out rows because others are trained on them
    notes: Sequence[str]  # warnings about the data


class TrainingJob(NamedTuple):
    """A training whose inputs are all found and checked."""

    settings: TrainingSettings
    model: Path
    output: Path
    examples: list[ContrastiveExample]
    held_out: list[ContrastiveExample]  # never trained on
    lengths: Lengths
    facts: DataStats
    guard: list[JudgedPool]  # of another origin, never trained on
    ds_config: Path | None = None
    teacher: Path | None = None  # the reranker to stay close to
    resume: Path | None = None

    @property
    def best(self) -> Path:
        """The folder of the best model so far, before its weights are mixed with the base's."""
        return self.output / UNMIXED if self.settings.mix_shares else self.output

    @property
    def evaluates(self) -> bool:
        """Whether there is anything to evaluate on."""
        return bool(self.held_out or self.guard)


LEAST = {
    "batch_size": 1, "gradient_accumulation_steps": 1, "train_group_size": 2, "query_max_len": 1,
    "passage_max_len": SHORTEST_PASSAGE, "num_gpus": 1, "pad_to_multiple_of": 0, "save_steps": 0, "save_total_limit": 1,
    "weight_decay": 0, "keep_close": 0, "eval_steps": 1, "patience": 1, "max_tokens_per_micro_batch": 1,
}  # fmt: skip


def check_settings(settings: TrainingSettings) -> None:
    """Refuse settings that are out of range, with one InputError that names all."""
    values = {name: value for name, value in vars(settings).items() if value is not None}
    wrong = [f"--{k} must be at least {v}" for k, v in LEAST.items() if k in values and not v <= values[k] < math.inf]
    wrong += [f"--{k} must be above 0" for k in ("epochs", "learning_rate") if not 0 < values[k] < math.inf]
    shares = ("warmup_ratio", "eval_fraction", "dropout")
    wrong += [f"--{k} must be at least 0 and below 1" for k in shares if k in values and not 0 <= values[k] < 1]
    if not settings.output_dir:
        wrong.append("--output_dir must name a folder")
    wrong += _conflicts(settings)
    if settings.negative_fill not in NEGATIVE_FILLS:
        wrong.append(f"--negative_fill must be one of {', '.join(NEGATIVE_FILLS)}")
    if not 0 <= settings.seed < 2**32:
        wrong.append("--seed must be from 0 to 4294967295")  # numpy's range
    if reporter := _reporter_fault(settings.report_to):
        wrong.append(f"--report_to {reporter}")
    if wrong:
        raise InputError("; ".join(wrong))


def _conflicts(settings: TrainingSettings) -> list[str]:
    """Say which settings exclude or need one another, or name nothing."""
    wrong = []
    if settings.resume and settings.overwrite_output_dir:
        wrong.append("only one of --resume and --overwrite_output_dir can be given")
    if settings.fp16 + settings.bf16 + settings.no_mixed_precision > 1:
        wrong.append("only one of --fp16, --bf16 and --no_mixed_precision can be given")
    if settings.soft_labels_only and not settings.knowledge_distillation:
        wrong.append("--soft_labels_only needs --knowledge_distillation")
    if settings.keep_close_to and not settings.keep_close:
        wrong.append("--keep_close_to needs --keep_close, the weight of that loss")
    try:
        settings.mix_shares  # noqa: B018
    except ValueError:
        wrong.append(f"--mix_with_base must be at least 0 and below 1, or {AUTO}")
    return wrong


def _reporter_fault(reporter: str) -> str | None:
    if reporter not in REPORTERS:
        return f"must be one of {', '.join(REPORTERS)}"
    if (package := REPORTERS[reporter]) and importlib.util.find_spec(package) is None:
        return f"{package} needs a package: pip install {package}"
    if reporter == "wandb" and not _has_wandb_key():
        return "wandb needs a key: run `wandb login`, or set WANDB_API_KEY or WANDB_MODE=offline"
    return None


def _has_wandb_key() -> bool:
    """Tell whether wandb would find a key, or needs none."""
    if os.environ.get("WANDB_MODE", "online") != "online" or os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
