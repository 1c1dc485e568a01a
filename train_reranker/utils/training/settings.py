"""What a training is asked to do: its settings, with defaults and ranges, and the job that they make of the inputs."""

from __future__ import annotations

import importlib.util
import math
import netrc
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from utils.errors import InputError
from utils.models.lengths import Lengths
from utils.schema import ContrastiveExample

# What `--report_to` can name, and the package that each needs.
REPORTERS = {"none": None, "tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
NEGATIVE_FILLS = ("other_rows", "repeat")  # what `--negative_fill` can name
SHORTEST_PASSAGE = 8  # tokens: room for the special ones and some text


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
    max_tokens_per_micro_batch: int | None = None
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
        """How missing negatives are filled: another row's passage has no teacher's score to distil from."""
        return "repeat" if self.knowledge_distillation else self.negative_fill


class DataStats(NamedTuple):
    """What became of the rows that were read."""

    digest: str  # of all rows, SHA-256
    held_out_digest: str
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
    ds_config: Path | None = None
    resume: Path | None = None


LEAST = {
    "batch_size": 1, "gradient_accumulation_steps": 1, "train_group_size": 2, "query_max_len": 1,
    "passage_max_len": SHORTEST_PASSAGE, "num_gpus": 1, "pad_to_multiple_of": 0, "save_steps": 0, "save_total_limit": 1,
    "weight_decay": 0, "eval_steps": 1, "patience": 1, "max_tokens_per_micro_batch": 1,
}  # fmt: skip


def check_settings(settings: TrainingSettings) -> None:
    """Refuse settings that are out of range, all in one line.

    Raises:
        InputError: names them.
    """
    values = {name: value for name, value in vars(settings).items() if value is not None}
    wrong = [f"--{k} must be at least {v}" for k, v in LEAST.items() if k in values and not v <= values[k] < math.inf]
    wrong += [f"--{k} must be above 0" for k in ("epochs", "learning_rate") if not 0 < values[k] < math.inf]
    shares = ("warmup_ratio", "eval_fraction")
    wrong += [f"--{k} must be at least 0 and below 1" for k in shares if not 0 <= values[k] < 1]
    if not settings.output_dir:
        wrong.append("--output_dir must name a folder")
    if settings.negative_fill not in NEGATIVE_FILLS:
        wrong.append(f"--negative_fill must be one of {', '.join(NEGATIVE_FILLS)}")
    if settings.resume and settings.overwrite_output_dir:
        wrong.append("only one of --resume and --overwrite_output_dir can be given")
    if settings.fp16 + settings.bf16 + settings.no_mixed_precision > 1:
        wrong.append("only one of --fp16, --bf16 and --no_mixed_precision can be given")
    if not 0 <= settings.seed < 2**32:
        wrong.append("--seed must be from 0 to 4294967295")  # numpy's range
    if reporter := _reporter_fault(settings.report_to):
        wrong.append(f"--report_to {reporter}")
    if wrong:
        raise InputError("; ".join(wrong))


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
