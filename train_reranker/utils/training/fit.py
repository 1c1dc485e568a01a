"""A trainer for a prepared job, and the training from the beginning or a checkpoint."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from FlagEmbedding.abc.finetune.reranker import AbsRerankerTrainingArguments
from transformers import PrinterCallback, ProgressCallback, set_seed

from utils.data.rows import pools_of_rows
from utils.errors import InputError
from utils.models.devices import CPU_BATCH_TOKENS
from utils.models.loading import BASE, load_model
from utils.progress import bars_are_shown, log, progress_bar
from utils.scoring import Reranker, ScoringOptions
from utils.training import launch
from utils.training.groups import TrainingGroups, collate
from utils.training.history import EvaluationHistory
from utils.training.job import precision
from utils.training.micro_batches import MemoryBudget
from utils.training.mixing import mix_with_base
from utils.training.settings import TrainingJob
from utils.training.trainer import GroupedCrossEncoder, RerankerTrainer

EVALUATIONS = 0.2  # the default share of all steps between two evaluations
SHORT_PAIR = 256  # tokens up to which plain attention trains faster on a CPU than its fused kernels
GPU_BATCH_TOKENS = 65536  # the default of a micro-batch
# A GPU waits for the CPU to start its kernels, and longer for shapes that its libraries have not met: an H100 trains
# bge-reranker-v2-m3 fastest with few widths, and where each micro-batch saves more padding than so many tokens.
WIDTHS, FURTHEST_WIDTHS, PASS_TOKENS = 8, 128, 8192


def memory_budget(job: TrainingJob) -> MemoryBudget:
    """Return what the micro-batches of a step may take."""
    settings, cuda = job.settings, torch.cuda.is_available()
    tokens = settings.max_tokens_per_micro_batch or (GPU_BATCH_TOKENS if cuda else CPU_BATCH_TOKENS)
    recompute = cuda if settings.gradient_checkpointing is None else settings.gradient_checkpointing
    multiple = max(1, settings.pad_to_multiple_of)
    if not cuda:
        return MemoryBudget(tokens, multiple=multiple, by_layer=recompute)
    multiple = few_widths(job.lengths.pair, multiple)
    return MemoryBudget(tokens, multiple=multiple, overhead=PASS_TOKENS, by_layer=recompute)


def few_widths(longest: int, multiple: int) -> int:
    """Return what widths of up to ``longest`` tokens are padded to a multiple of on a GPU, at least ``multiple``.

    It divides ``longest``, so that no width exceeds the model's limit. Where nothing is padded (1), nothing is here.
    """
    while 1 < multiple <= min(FURTHEST_WIDTHS, longest // WIDTHS) // 2 and longest % (2 * multiple) == 0:
        multiple *= 2
    return multiple


def training_arguments(job: TrainingJob) -> Any:
    """Return the Trainer's arguments for these settings on this device."""
    settings, cuda = job.settings, torch.cuda.is_available()
    arguments = AbsRerankerTrainingArguments(
        output_dir=str(job.output), deepspeed=str(job.ds_config) if job.ds_config else None, use_cpu=not cuda,
        resume_from_checkpoint=None if job.resume is None else str(job.resume),
        # Optimisation.
        num_train_epochs=settings.epochs, per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps, learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_ratio,  # below 1 it is a share of all steps
        weight_decay=settings.weight_decay, seed=settings.seed, data_seed=settings.seed, **precision(settings),
        ddp_find_unused_parameters=False,  # all are used: DistributedDataParallel need not look for others
        # Rows.
        remove_unused_columns=False, dataloader_num_workers=2 if cuda else 0,  # tokenise while the GPU works
        # Evaluations and checkpoints.
        eval_strategy="steps" if job.evaluates else "no", eval_steps=settings.eval_steps or EVALUATIONS,
        eval_on_start=job.evaluates and job.resume is None,
        save_strategy="steps" if settings.save_steps else "no", save_steps=settings.save_steps or 1,
        save_total_limit=settings.save_total_limit,
        # Logs: a hundred points of the loss, however long the run, and a bar of our own.
        report_to=settings.report_to, logging_steps=0.01, logging_first_step=True, disable_tqdm=True,
        log_level="error", log_level_replica="error",
    )  # fmt: skip
    # With several GPUs and one process the Trainer would split each batch over all of them (DataParallel), against
    # --num_gpus 1, and split groups.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


class StepCallback(ProgressCallback):
    """Passes epochs to the dataset, evaluates the last step, skips its checkpoint, and shows the loss on stderr."""

    def __init__(self, groups: TrainingGroups, evaluates: bool) -> None:
        """Hold the dataset."""
        super().__init__()
        self.groups, self.evaluates = groups, evaluates

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate and save as often as asked now, not as recorded in the checkpoint that is resumed; open the bar."""
        state.compute_steps(args, state.max_steps)
        if state.is_world_process_zero:
            done = {"total": state.max_steps, "initial": state.global_step}
            self.training_bar = progress_bar(**done, desc="training", unit="step")
        self.current_step = state.global_step

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pass the epoch on."""
        self.groups.epoch = int(state.epoch or 0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate after the last step, and write no checkpoint: the model itself is saved."""
        super().on_step_end(args, state, control, **kwargs)
        if state.global_step >= state.max_steps:
            control.should_save, control.should_evaluate = False, self.evaluates

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the loss in the bar; the Trainer's own callback writes to stdout."""
        if self.training_bar is not None and "loss" in logs:
            # Refreshed where there is a terminal; elsewhere each refresh is a line.
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.4f}", refresh=bars_are_shown())


def make_trainer(job: TrainingJob, arguments: Any, memory: MemoryBudget) -> RerankerTrainer:
    """Load the base model and the rows into a trainer."""
    settings = job.settings
    set_seed(settings.seed)  # also of a fresh head
    # In float32 whatever the file holds: in half precision, updates would be rounded away.
    tokenizer, base, fresh = load_model(job.model, BASE, dropout=settings.dropout)
    if arguments.device.type == "cpu" and job.lengths.pair <= SHORT_PAIR:
        base.set_attn_implementation("eager")
    if fresh and (settings.mix_shares or job.teacher == job.model):
        raise InputError(
            f"model {job.model} has no trained head ({', '.join(fresh)}), so --mix_with_base and --keep_close have "
            "nothing to keep: leave them out, or start from a reranker"
        )
    if fresh and launch.is_main_process():
        message = "model %s has no trained head (%s): it starts from random weights, and the base ranks at random"
        level = (
            logging.INFO if settings.soft_labels_only else logging.WARNING
        )  # a head to be distilled is meant to be new
        log.log(level, message, job.model, ", ".join(fresh))
    if settings.freeze_embeddings:
        freeze_embeddings(base, job.model)
    groups = TrainingGroups(
        job.examples, tokenizer, job.lengths, settings.train_group_size, settings.seed,
        settings.knowledge_distillation, close_scores(job, arguments),
    )  # fmt: skip
    history = EvaluationHistory(pools_of_rows(job.held_out), job.guard) if job.evaluates else None
    trainer = RerankerTrainer(
        job, history, model=GroupedCrossEncoder(base, tokenizer, settings, memory), args=arguments,
        train_dataset=groups, eval_dataset=history and history.pools, data_collator=collate,
        callbacks=[StepCallback(groups, history is not None)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def freeze_embeddings(model: Any, folder: Path) -> None:
    """Leave the word embeddings as they are; an InputError if the model has none."""
    try:
        model.get_input_embeddings().requires_grad_(False)
    except NotImplementedError:  # CANINE hashes characters
        raise InputError(f"model {folder} has no word embeddings: leave out --freeze_embeddings") from None


def close_scores(job: TrainingJob, arguments: Any) -> list[list[float]] | None:
    """Return the scores of all rows' passages by the reranker to stay close to, if to any.

    They are computed once, at the training's lengths; each process scores its share, and all see the same.
    """
    if job.teacher is None:
        return None
    device = str(arguments.device) if arguments.device.type == "cuda" else "cpu"
    options = ScoringOptions(
        job.lengths.query, job.lengths.pair, half=any(precision(job.settings).values()), device=device,
        lengths_from="--query_max_len and --passage_max_len",
    )  # fmt: skip
    pairs = [[(row.query, passage) for passage in row.passages] for row in job.examples]
    mine = range(arguments.process_index, len(pairs), arguments.world_size)
    desc = "reranker to stay close to" if launch.is_main_process() else None
    scores = Reranker(job.teacher, options).score([pair for i in mine for pair in pairs[i]], desc)
    parts = np.split(scores, np.cumsum([len(pairs[i]) for i in mine])[:-1]) if mine else []
    found = dict(gather_object([*zip(mine, (part.tolist() for part in parts), strict=True)]))
    return [found[i] for i in range(len(pairs))]


def fit(trainer: RerankerTrainer) -> None:
    """Train; the output folder then holds the best model, or the last where nothing is evaluated."""
    job = trainer.job
    if len({found and found.name for found in gather_object([job.resume])}) > 1:
        raise InputError(f"not all machines see the checkpoints of {job.output}: move it to a disk that all share")
    if job.resume is not None:
        trainer.restore(job.resume)
    trainer.train(resume_from_checkpoint=None if job.resume is None else str(job.resume))
    if trainer.history is None or trainer.history.best is None:
        trainer.keep_model(job.best)
    if job.settings.mix_shares:
        mix_with_base(trainer)
