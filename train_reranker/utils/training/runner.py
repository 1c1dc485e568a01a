"""FlagEmbedding's runner over a prepared job: its rows, model, trainer and output folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from FlagEmbedding.abc.finetune.reranker import AbsRerankerDataArguments, AbsRerankerModelArguments
from FlagEmbedding.finetune.reranker.encoder_only.base import EncoderOnlyRerankerRunner
from transformers import PrinterCallback

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


class RerankerRunner(EncoderOnlyRerankerRunner):
    """FlagEmbedding's runner over a prepared job."""

    def __init__(self, job: TrainingJob, arguments: Any, memory: MemoryBudget) -> None:
        """Load the model and the data."""
        self.job, self.memory = job, memory
        self.history = EvaluationHistory(job.held_out) if job.held_out else None
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
        """Load the base model.

        Raises:
            InputError: its folder holds no such model.
        """
        # Loaded in float32 whatever the file holds: in half precision, updates would be rounded away.
        tokenizer, base, fresh = load_model(self.job.model, BASE)
        if fresh and launch.is_main_process():
            log.warning(
                "model %s has no trained head (%s): it starts from random weights, and the base ranks at random",
                self.job.model, ", ".join(fresh),
            )  # fmt: skip
        group_size = self.job.settings.train_group_size
        return tokenizer, GroupedCrossEncoder(base, tokenizer, group_size, self.memory)

    def load_train_dataset(self) -> TrainingGroups:
        """Return the rows as groups."""
        settings = self.job.settings
        return TrainingGroups(
            self.job.examples, self.tokenizer, self.job.lengths, settings.train_group_size, settings.seed,
            settings.knowledge_distillation,
        )  # fmt: skip

    def load_data_collator(self) -> Callable[..., Any]:
        """Return the function that makes ragged batches of groups."""
        return collate

    def load_trainer(self) -> RerankerTrainer:
        """Return the trainer with this project's callbacks."""
        trainer = RerankerTrainer(
            self.job,
            self.history,
            model=self.model,
            args=self.training_args,
            train_dataset=self.train_dataset,
            eval_dataset=self.history and self.history.examples,
            data_collator=self.data_collator,
            callbacks=[LastStepCallback(self.train_dataset, self.history is not None)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Progress())
        return trainer

    def run(self) -> None:
        """Train from the beginning or from a checkpoint; the output folder then holds the best, or last, model."""
        resume = self.job.resume
        if len({found and found.name for found in launch.gather(resume)}) > 1:
            raise InputError(
                f"not all machines see the checkpoints of {self.job.output}: move it to a disk that all share"
            )
        if resume is not None and self.history is not None:
            self._restore_history(checkpoints.step_of(resume))
        self.trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        if self.history is None or self.history.best is None:
            self.trainer.keep_model()

    def _restore_history(self, step: int) -> None:
        """Take over the evaluations of an interrupted run, as the first process reads them."""
        assert self.history is not None
        assert self.job.resume is not None
        path = self.job.resume.parent / held_out.FILE
        found = json.loads(path.read_bytes()) if self.training_args.should_save and path.is_file() else None
        found = launch.gather(found)[0]
        if found is not None:
            self.history.restore(found, path)
            self.history.rewind(step)
