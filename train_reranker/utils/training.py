"""Fine-tune a reranker over FlagEmbedding's runner: check the inputs, choose the devices, train, save."""

from __future__ import annotations

import atexit
import contextlib
import copy
import importlib.util
import json
import logging
import math
import os
import random
import re
import shutil
import signal
import socket
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from utils import cli, examples
from utils.cli import InputError, RunError, log
from utils.schema import ContrastiveExample

# What `--report_to` can name, and the package that each needs.
REPORTERS = {"none": None, "tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}

# Positions of these model types start behind the padding's, so that many of the table's rows are never used.
_POSITIONS_AFTER_PADDING = (
    "camembert", "data2vec-text", "ibert", "lilt", "longformer", "luke", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip
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
    query_max_len: int = 512
    passage_max_len: int | None = None
    pad_to_multiple_of: int = 8
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
    report_to: str = "none"
    cache_dir: str | None = None
    cache_path: str | None = None
    seed: int = 42


class Lengths(NamedTuple):
    """Tokens that a query may have, and what is left for the passage and the special tokens."""

    query: int
    passage: int

    @property
    def total(self) -> int:
        """Tokens of the longest pair that the model is given."""
        return self.query + self.passage


class TrainingJob(NamedTuple):
    """A training whose inputs are all found and checked."""

    settings: TrainingSettings
    model: Path
    output: Path
    examples: list[ContrastiveExample]
    short: int  # rows that had too few negatives of their own
    lengths: Lengths
    ds_config: Path | None


def train(settings: TrainingSettings) -> Path:
    """Fine-tune a reranker in this process and return its folder; one call for scripts that train on the way.

    The training is FlagEmbedding's: a listwise cross-entropy over groups of one positive and its negatives.
    Several devices need :func:`launch`, or a launcher of the user's own, whose environment is followed here.

    Raises:
        InputError: a setting or an input cannot be used.
        RunError: the training failed for another reason, as when memory ran out.
    """
    return run(prepare(settings))


# Before the training: nothing here needs torch, so that a wrong path is told at once.


def prepare(settings: TrainingSettings) -> TrainingJob:
    """Find and check all inputs of a training, and write nothing.

    Raises:
        InputError: a setting or an input cannot be used.
    """
    _check_settings(settings)
    model = find_model(settings.model_path)
    ds_config = _find_ds_config(settings) if settings.use_deepspeed else None
    rows = examples.read_examples(settings.train_data)
    rows, short = _complete_groups(rows, settings)
    output = Path(settings.output_dir).resolve()
    if is_main_process():  # another process may come here when the first one is already writing
        _check_output(output, model, settings)
    return TrainingJob(settings, model, output, rows, short, _choose_lengths(settings, model), ds_config)


def find_model(path: str | Path) -> Path:
    """Return the folder of a reranker (or encoder) to start from.

    Raises:
        InputError: it is not there, which says what to download to where, or it lacks a file of a model.
    """
    found = cli.find(path)
    if found is None:
        repository = str(path) if re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(path)) else "BAAI/bge-reranker-v2-m3"
        folder = cli.ROOT / "models" / repository.partition("/")[2]
        raise InputError(
            f"model {path} is not there: download {repository} to {folder} "
            f"(hf download {repository} --local-dir {folder}), or name a model's folder with --model_path"
        )
    wanted = {
        "config.json": ("config.json",),
        "weights": ("*.safetensors", "pytorch_model*.bin"),
        "tokenizer": ("tokenizer.json", "vocab.*", "*.model"),
    }
    missing = [what for what, names in wanted.items() if not any(any(found.glob(n)) for n in names)]
    if missing:
        raise InputError(f"model {found} has no {' and no '.join(missing)}: give the folder of a whole model")
    return found


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


def position_limit(model: Path) -> int | None:
    """Return how many tokens a model can take by its folder's ``config.json``; None where that does not say.

    Raises:
        InputError: the file is no JSON object.
    """
    config = _read_json(model / "config.json")
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions <= 0:
        return None
    if config.get("model_type") not in _POSITIONS_AFTER_PADDING:
        return positions
    padding = config.get("pad_token_id")
    return positions - 1 - (1 if padding is None else padding)


def _check_settings(settings: TrainingSettings) -> None:
    """Say all settings that are out of range in one line."""
    least = {"batch_size": 1, "gradient_accumulation_steps": 1, "train_group_size": 2, "query_max_len": 1}
    least |= {"passage_max_len": _SHORTEST_PASSAGE, "num_gpus": 1, "pad_to_multiple_of": 0, "save_steps": 0}
    least |= {"save_total_limit": 1, "weight_decay": 0}
    values = vars(settings)
    wrong = [f"--{k} must be at least {v}" for k, v in least.items() if values[k] is not None and values[k] < v]
    wrong += [f"--{k} must be above 0" for k in ("epochs", "learning_rate") if not 0 < values[k] < math.inf]
    if not 0 <= settings.warmup_ratio < 1:
        wrong.append("--warmup_ratio must be at least 0 and below 1")
    if settings.fp16 + settings.bf16 + settings.no_mixed_precision > 1:
        wrong.append("only one of --fp16, --bf16 and --no_mixed_precision can be given")
    if settings.report_to not in REPORTERS:
        wrong.append(f"--report_to must be one of {', '.join(REPORTERS)}")
    elif (package := REPORTERS[settings.report_to]) and importlib.util.find_spec(package) is None:
        wrong.append(f"--report_to {package} needs a package: pip install {package}")
    if wrong:
        raise InputError("; ".join(wrong))


def _find_ds_config(settings: TrainingSettings) -> Path:
    """Return DeepSpeed's configuration file, once it is JSON and DeepSpeed is installed."""
    if importlib.util.find_spec("deepspeed") is None:
        raise InputError("--use_deepspeed needs a package: pip install deepspeed")
    path = cli.find_input(
        settings.ds_config,
        "DeepSpeed configuration",
        "name one with --ds_config, as train_reranker/ds_stage0.json",
    )
    _read_json(path)
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
    if not settings.knowledge_distillation:
        return examples.fill_negatives(rows, wanted, random.Random(settings.seed))
    for number, row in enumerate(rows, 1):
        # A passage from another row has no teacher's score: such a row's own negatives are repeated instead.
        if not row.neg or row.pos_scores is None or row.neg_scores is None:
            raise InputError(
                f"{', '.join(settings.train_data)}, row {number}: --knowledge_distillation needs "
                '"pos_scores" and "neg_scores" beside "pos" and "neg" in each row'
            )
    return rows, sum(len(row.neg) < wanted for row in rows)


def _check_output(output: Path, model: Path, settings: TrainingSettings) -> None:
    """Refuse an output folder whose contents a training would spoil."""
    if output.exists() and not output.is_dir():
        raise InputError(f"output folder {output} is a file: choose another --output_dir")
    if model.is_relative_to(output):
        raise InputError(f"output folder {output} holds the model to start from: choose another --output_dir")
    if output.is_dir() and any(output.iterdir()) and not settings.overwrite_output_dir:
        raise InputError(
            f"output folder {output} is not empty: choose another --output_dir, "
            "or replace the model in it with --overwrite_output_dir"
        )


def _choose_lengths(settings: TrainingSettings, model: Path) -> Lengths:
    limit = position_limit(model)
    return fit_lengths(settings.query_max_len, settings.passage_max_len, limit, settings.pad_to_multiple_of)


# Devices and processes.


def is_main_process() -> bool:
    """Tell whether this process is the one that writes and prints."""
    return os.environ.get("RANK", "0") == "0"


def count_processes(settings: TrainingSettings) -> int:
    """Return how many processes must be launched: one for each GPU, or 1 to train in this one.

    Without a GPU the processes share the CPU. Under torchrun or DeepSpeed's launcher this process is one of
    those already, and trains.

    Raises:
        InputError: more GPUs are wanted than are visible.
    """
    if "LOCAL_RANK" in os.environ or settings.num_gpus == 1:
        return 1
    import torch

    visible = torch.cuda.device_count()
    if settings.num_gpus is None:
        return max(1, visible)
    if 0 < visible < settings.num_gpus:
        raise InputError(
            f"--num_gpus {settings.num_gpus}: {visible} can be seen; lower it, or widen CUDA_VISIBLE_DEVICES"
        )
    return settings.num_gpus


def launch(script: str | Path, argv: Sequence[str], processes: int) -> int:
    """Run ``script`` with ``argv`` in several processes of this machine and return their exit code.

    This is ``torchrun --nproc_per_node``, called here so that a signal to this process reaches all of them
    and a failure, which its process has told already, is not told again with a traceback.

    Raises:
        RunError: a process was killed, or this one was asked to end.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    options = [f"--nproc_per_node={processes}", "--master_addr=127.0.0.1", f"--master_port={_free_port()}"]
    try:
        torchrun.run(torchrun.parse_args([*options, str(script), *argv]))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode < 0:
            raise RunError(f"training process {failure.pid} was killed ({failure.signal_name()})") from None
        return failure.exitcode
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise RunError(f"ended by a signal ({error.sigval.name})") from None
    return 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# The training.


def run(job: TrainingJob) -> Path:
    """Train a prepared job in this process, or as one of several under a launcher; return the model's folder.

    Raises:
        InputError: the model cannot be loaded, the folder not written, or the device lacks what is asked.
        RunError: memory ran out.
    """
    import torch

    with _quiet(), _environment(job):
        try:
            arguments = _training_arguments(job)
            if is_main_process():
                _clear_checkpoints(job.output)
                _tell(job, arguments)
            _runner_class()(job, arguments).run()
        except ValueError as error:
            if "DeepSpeed config" not in str(error):
                raise
            raise InputError(f"{job.ds_config}: {' '.join(str(error).split())}") from None
        except torch.OutOfMemoryError:
            raise RunError(
                "out of GPU memory: lower --batch_size (and raise --gradient_accumulation_steps), "
                "--passage_max_len or --train_group_size"
            ) from None
    # Not before: DeepSpeed keeps groups in its modules, and another training of this process would meet them.
    atexit.register(_leave_process_group)
    return job.output


def _leave_process_group() -> None:
    """End the processes' communication in order, where there was any."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def _environment(job: TrainingJob) -> Iterator[None]:
    """Let one process meet DeepSpeed as a launcher would, and put the environment back afterwards."""
    import torch

    before = dict(os.environ)
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        if job.ds_config:
            _spare_compilation()
    if job.ds_config and "LOCAL_RANK" not in os.environ:
        # DeepSpeed looks for MPI where these are not set, and fails where there is none.
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        # accelerate takes these for several processes, and would share out the cores anew.
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _spare_compilation() -> None:
    """Keep DeepSpeed on a CPU from compiling a kernel for what gloo does too: it takes minutes and a compiler."""
    import deepspeed.ops

    # It compiles what this names as compatible, and to find out what is would try the compiler as well.
    deepspeed.ops.__compatible_ops__ = {}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave stderr to the progress bar and to this project's own lines, and stdout to the result."""
    from transformers.utils import logging as transformers_logging

    for name in ("FlagEmbedding", "DeepSpeed", "accelerate", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _tell(job: TrainingJob, arguments: Any) -> None:
    """Say in a line or two what is about to be trained on what."""
    settings, lengths = job.settings, job.lengths
    if (settings.query_max_len, settings.passage_max_len or lengths.passage) != lengths:
        log.warning("lengths cut to what the model can take: query_max_len %d, passage_max_len %d", *lengths)
    if job.short:
        mend = "they are repeated" if settings.knowledge_distillation else "other rows' passages fill them up"
        log.info("%d of %d rows have too few negatives: %s", job.short, len(job.examples), mend)
    batch = settings.batch_size * settings.gradient_accumulation_steps * arguments.world_size
    precision = "fp32" if arguments.mixed_precision == "no" else arguments.mixed_precision
    log.info(
        "training %s on %d rows in groups of %d: %d rows a step, at most %d tokens a pair, processes %d, %s, %s",
        job.model.name, len(job.examples), settings.train_group_size, batch, lengths.total,
        arguments.world_size, arguments.device.type, precision,
    )  # fmt: skip


def _clear_checkpoints(output: Path) -> None:
    """Make the output folder and take an older training's checkpoints out of it.

    They would be counted among the new ones; the old model stays until the new one replaces it.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        for checkpoint in output.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    except OSError as error:
        raise InputError(f"output folder {output} cannot be written: {error.strerror}") from None


def _training_arguments(job: TrainingJob) -> Any:
    """Return the Trainer's arguments for these settings on this device."""
    import torch
    from FlagEmbedding.abc.finetune.reranker import AbsRerankerTrainingArguments

    settings, cuda = job.settings, torch.cuda.is_available()
    checkpointing = cuda if settings.gradient_checkpointing is None else settings.gradient_checkpointing
    arguments = AbsRerankerTrainingArguments(
        output_dir=str(job.output),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_ratio,  # below 1 it is a share of all steps
        weight_decay=settings.weight_decay,
        activation_checkpointing=checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        # All weights have a use: DistributedDataParallel need not walk the graph for others at each step.
        ddp_find_unused_parameters=False,
        deepspeed=str(job.ds_config) if job.ds_config else None,
        use_cpu=not cuda,
        save_strategy="steps" if settings.save_steps else "no",
        save_steps=settings.save_steps or 1,
        save_total_limit=settings.save_total_limit,
        logging_steps=0.01,  # a hundred points of the loss, however long the run
        logging_first_step=True,
        report_to=settings.report_to,
        remove_unused_columns=False,
        disable_tqdm=True,  # this project's own bar takes the place of the Trainer's
        log_level="error",
        log_level_replica="error",
        seed=settings.seed,
        data_seed=settings.seed,
        **_precision(settings, cuda),
    )
    # With several GPUs and one process the Trainer would split each batch over all of them (DataParallel),
    # against --num_gpus 1, and tear the groups apart.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def _precision(settings: TrainingSettings, cuda: bool) -> dict[str, bool]:
    """Return the Trainer's precision flags: as asked, else bf16 or fp16 on a GPU, and fp32 on a CPU."""
    import torch

    if settings.fp16 and not cuda:
        raise InputError("--fp16 needs a GPU, and none can be seen: use --bf16, or leave the flag out")
    automatic = cuda and not (settings.fp16 or settings.bf16 or settings.no_mixed_precision)
    has_bf16 = automatic and torch.cuda.is_bf16_supported(including_emulation=False)
    return {"bf16": settings.bf16 or has_bf16, "fp16": settings.fp16 or (automatic and not has_bf16)}


class TrainingGroups:
    """A map-style dataset whose item is the tokenised group of one row: a positive, then its negatives.

    What is drawn depends on seed, epoch and row alone, so that neither the number of processes nor an
    interruption changes it. The token ids are those of FlagEmbedding's dataset, without its detour through
    decoding; only queries over ``query_max_len`` differ, which it lets take from the passage.
    """

    def __init__(
        self,
        rows: Sequence[ContrastiveExample],
        tokenizer: Any,
        lengths: Lengths,
        group_size: int,
        seed: int,
        distil: bool = False,
    ) -> None:
        """Hold the rows; each needs at least one negative. ``distil`` asks for the teacher's scores."""
        self.rows = rows
        self.tokenizer = tokenizer
        self.lengths = lengths
        self.group_size = group_size
        self.seed = seed
        self.distil = distil
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw as is due in epoch ``epoch`` from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[list[dict[str, list[int]]], list[float] | None]:
        """Return a row's encoded pairs, and their teacher's scores where the training distils."""
        rng = random.Random(f"{self.seed} {self.epoch} {number}")
        passages, scores = draw_group(self.rows[number], self.group_size, rng)
        pairs = encode_pairs(self.tokenizer, self.rows[number].query, passages, self.lengths)
        return pairs, scores if self.distil else None


def draw_group(row: ContrastiveExample, size: int, rng: random.Random) -> tuple[list[str], list[float] | None]:
    """Draw a positive and ``size`` - 1 negatives of a row, with their scores if it has any.

    A row of fewer negatives gives each of them as often as any other, or once more.
    """
    positive = rng.randrange(len(row.pos))
    times, rest = divmod(size - 1, len(row.neg))
    negatives = list(range(len(row.neg))) * times + rng.sample(range(len(row.neg)), rest)
    passages = [row.pos[positive], *(row.neg[i] for i in negatives)]
    # A row whose negatives were filled from other rows has scores for its own ones only.
    if row.pos_scores is None or row.neg_scores is None or len(row.neg_scores) != len(row.neg):
        return passages, None
    return passages, [row.pos_scores[positive], *(row.neg_scores[i] for i in negatives)]


def encode_pairs(tokenizer: Any, query: str, passages: Sequence[str], lengths: Lengths) -> list[dict[str, list[int]]]:
    """Return the model's inputs for a query with each passage; the passage is what gives way to the limit."""
    query = cut_text(tokenizer, query, lengths.query)
    columns = tokenizer([query] * len(passages), list(passages), truncation="only_second", max_length=lengths.total)
    return [dict(zip(columns.keys(), values, strict=True)) for values in zip(*columns.values(), strict=True)]


def cut_text(tokenizer: Any, text: str, limit: int) -> str:
    """Return the beginning of a text that is at most ``limit`` tokens long."""
    encoded = tokenizer(text, add_special_tokens=False, truncation=True, max_length=limit, return_offsets_mapping=True)
    return text if len(encoded["input_ids"]) < limit else text[: encoded["offset_mapping"][-1][1]]


# FlagEmbedding takes five seconds to import: what derives from its classes is made when it is wanted.


@cache
def _model_class() -> type:
    from FlagEmbedding.finetune.reranker.encoder_only.base import CrossEncoderModel

    class GroupedCrossEncoder(CrossEncoderModel):
        """FlagEmbedding's model, for batches of any number of groups and a loss in full precision."""

        def __init__(self, base_model: Any, tokenizer: Any, group_size: int) -> None:
            super().__init__(base_model, tokenizer=tokenizer)
            self.group_size = group_size

        def encode(self, features: Any) -> Any:
            return super().encode(features).float()

        def forward(self, pair: Any = None, teacher_scores: Any = None) -> Any:
            # The last batch of an epoch may be short: groups are counted, not taken from the settings.
            self.train_batch_size = pair["input_ids"].shape[0] // self.group_size
            return super().forward(pair, teacher_scores)

    return GroupedCrossEncoder


@cache
def _trainer_class() -> type:
    import torch
    from FlagEmbedding.finetune.reranker.encoder_only.base import EncoderOnlyRerankerTrainer

    class RerankerTrainer(EncoderOnlyRerankerTrainer):
        """FlagEmbedding's trainer, whose first process alone writes, and only what loads as a model."""

        def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
            if not self.args.should_save:
                return
            folder = output_dir or self.args.output_dir
            model = self.model.model
            weights = model.state_dict()
            if state_dict is not None:
                weights = {name.removeprefix("model."): values for name, values in state_dict.items()}
            # DeepSpeed trains a copy in half precision. Saved as it is, it would also score in half precision,
            # as libraries take the precision from the file; this shell makes it the base model's again.
            with torch.device("meta"):
                shell = type(model)(copy.deepcopy(model.config)).float()
            shell.save_pretrained(folder, state_dict={name: w.float() for name, w in weights.items()})
            self.processing_class.save_pretrained(folder)

    return RerankerTrainer


@cache
def _progress_class() -> type:
    from transformers import ProgressCallback

    class Progress(ProgressCallback):
        """A bar on stderr with the loss in it, in place of the Trainer's, which writes its log to stdout."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                self.training_bar = cli.progress_bar(
                    total=state.max_steps, initial=state.global_step, desc="training", unit="step"
                )
            self.current_step = state.global_step

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if self.training_bar is not None and "loss" in logs:
                self.training_bar.set_postfix(loss=f"{float(logs['loss']):.4f}")

    return Progress


@cache
def _upkeep_class() -> type:
    from transformers import TrainerCallback

    class Upkeep(TrainerCallback):
        """Tells the dataset its epoch, and spares the last step's checkpoint, which is the saved model."""

        def __init__(self, groups: TrainingGroups) -> None:
            self.groups = groups

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            # accelerate tells the dataset in one process only, and not where several share the rows.
            self.groups.set_epoch(int(state.epoch or 0))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step >= state.max_steps:
                control.should_save = False

    return Upkeep


@cache
def _runner_class() -> type:
    from FlagEmbedding.abc.finetune.reranker import AbsRerankerDataArguments, AbsRerankerModelArguments
    from FlagEmbedding.finetune.reranker.encoder_only.base import EncoderOnlyRerankerRunner
    from transformers import PrinterCallback

    class RerankerRunner(EncoderOnlyRerankerRunner):
        """FlagEmbedding's runner over a prepared job's rows, model and output folder."""

        def __init__(self, job: TrainingJob, arguments: Any) -> None:
            self.job = job
            settings, lengths = job.settings, job.lengths
            super().__init__(
                AbsRerankerModelArguments(model_name_or_path=str(job.model), cache_dir=settings.cache_dir),
                AbsRerankerDataArguments(
                    train_data=[],
                    cache_path=settings.cache_path,
                    train_group_size=settings.train_group_size,
                    query_max_len=lengths.query,
                    passage_max_len=lengths.passage,
                    pad_to_multiple_of=settings.pad_to_multiple_of or None,
                    knowledge_distillation=settings.knowledge_distillation,
                ),
                arguments,
            )

        def load_tokenizer_and_model(self) -> tuple[Any, Any]:
            try:
                tokenizer, model = super().load_tokenizer_and_model()
            except Exception as error:  # whatever the libraries say of a broken folder is about the folder
                reason = str(error).strip().partition("\n")[0]
                raise InputError(f"model {self.job.model} cannot be loaded: {reason}") from error
            # Weights kept in half precision are trained in full: their updates would be rounded away.
            base = model.model.float()
            return tokenizer, _model_class()(base, tokenizer, self.job.settings.train_group_size)

        def load_train_dataset(self) -> TrainingGroups:
            settings = self.job.settings
            # Encoding leaves its truncation in a tokenizer. The one that is saved must stay as it was.
            tokenizer = copy.deepcopy(self.tokenizer)
            return TrainingGroups(
                self.job.examples, tokenizer, self.job.lengths, settings.train_group_size, settings.seed,
                settings.knowledge_distillation,
            )  # fmt: skip

        def load_data_collator(self) -> Any:
            collator = super().load_data_collator()
            collator.tokenizer = self.train_dataset.tokenizer
            return collator

        def load_trainer(self) -> Any:
            trainer = _trainer_class()(
                model=self.model,
                args=self.training_args,
                train_dataset=self.train_dataset,
                data_collator=self.data_collator,
                processing_class=self.tokenizer,
                callbacks=[_upkeep_class()(self.train_dataset)],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(_progress_class()())
            return trainer

    return RerankerRunner
