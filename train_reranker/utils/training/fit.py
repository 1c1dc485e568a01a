"""A trainer for a prepared job, and the training from the beginning or a checkpoint."""

from __future__ import annotations

import json
from typing import Any

from accelerate.utils import gather_object
from transformers import PrinterCallback, set_seed

from utils.errors import InputError
from utils.models.loading import BASE, load_model
from utils.progress import log
from utils.training import checkpoints, held_out, launch
from utils.training.callbacks import LastStepCallback, Progress
from utils.training.groups import TrainingGroups, collate
from utils.training.held_out import EvaluationHistory
from utils.training.micro_batches import MemoryBudget
from utils.training.settings import TrainingJob
from utils.training.trainer import GroupedCrossEncoder, RerankerTrainer


def make_trainer(job: TrainingJob, arguments: Any, memory: MemoryBudget) -> RerankerTrainer:
    """Load the base model and the rows into a trainer."""
    settings = job.settings
    set_seed(settings.seed)  # also of a fresh head
    # In float32 whatever the file holds: in half precision, updates would be rounded away.
    tokenizer, base, fresh = load_model(job.model, BASE)
    if fresh and launch.is_main_process():
        log.warning(
            "model %s has no trained head (%s): it starts from random weights, and the base ranks at random",
            job.model, ", ".join(fresh),
        )  # fmt: skip
    group_size, distil = settings.train_group_size, settings.knowledge_distillation
    groups = TrainingGroups(job.examples, tokenizer, job.lengths, group_size, settings.seed, distil)
    history = EvaluationHistory(job.held_out) if job.held_out else None
    trainer = RerankerTrainer(
        job,
        history,
        model=GroupedCrossEncoder(base, tokenizer, group_size, memory),
        args=arguments,
        train_dataset=groups,
        eval_dataset=history and history.examples,
        data_collator=collate,
        callbacks=[LastStepCallback(groups, history is not None)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Progress())
    return trainer


def fit(trainer: RerankerTrainer) -> None:
    """Train; the output folder then holds the best model, or the last where nothing is evaluated."""
    job, history = trainer.job, trainer.history
    if len({found and found.name for found in gather_object([job.resume])}) > 1:
        raise InputError(f"not all machines see the checkpoints of {job.output}: move it to a disk that all share")
    if job.resume is not None and history is not None:
        path = job.resume.parent / held_out.FILE
        found = json.loads(path.read_bytes()) if trainer.args.should_save and path.is_file() else None
        if (found := gather_object([found])[0]) is not None:  # other machines may not have the file
            history.restore(found, path)
            history.rewind(checkpoints.step_of(job.resume))
    trainer.train(resume_from_checkpoint=None if job.resume is None else str(job.resume))
    if history is None or history.best is None:
        trainer.keep_model()
