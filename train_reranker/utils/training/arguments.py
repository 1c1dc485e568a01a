"""The Trainer's arguments for a prepared job on the visible devices."""

from __future__ import annotations

from typing import Any

import torch
from FlagEmbedding.abc.finetune.reranker import AbsRerankerTrainingArguments

from utils.errors import InputError
from utils.models.devices import CPU_BATCH_TOKENS, best_device, half_precision
from utils.training.job import TrainingJob
from utils.training.micro_batches import MemoryBudget
from utils.training.settings import TrainingSettings

EVALUATIONS = 0.2  # the default share of all steps between two evaluations
GPU_BATCH_TOKENS = 16384  # the default of a micro-batch: more make a GPU no faster


def memory_budget(job: TrainingJob) -> MemoryBudget:
    """Return what the micro-batches of a step may take."""
    settings = job.settings
    default = GPU_BATCH_TOKENS if torch.cuda.is_available() else CPU_BATCH_TOKENS
    recompute = settings.gradient_checkpointing
    keep = not (torch.cuda.is_available() if recompute is None else recompute)
    return MemoryBudget(settings.max_tokens_per_micro_batch or default, keep, max(1, settings.pad_to_multiple_of))


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
        eval_strategy="steps" if job.held_out else "no", eval_steps=settings.eval_steps or EVALUATIONS,
        eval_on_start=bool(job.held_out) and job.resume is None,
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


def precision(settings: TrainingSettings) -> dict[str, bool]:
    """Return the Trainer's precision flags: as asked, else the half precision that the device is fast at.

    DeepSpeed on a CPU stays at fp32: it would keep the weights themselves in bf16.

    Raises:
        InputError: fp16 is asked for without a GPU.
    """
    cuda = torch.cuda.is_available()
    if settings.fp16 and not cuda:
        raise InputError("--fp16 needs a GPU, and none can be seen: use --bf16, or leave the flag out")
    chosen = None
    if not (settings.fp16 or settings.bf16 or settings.no_mixed_precision or (settings.use_deepspeed and not cuda)):
        chosen = half_precision(best_device())
    return {"bf16": settings.bf16 or chosen == torch.bfloat16, "fp16": settings.fp16 or chosen == torch.float16}
