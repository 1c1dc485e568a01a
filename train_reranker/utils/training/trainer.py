"""FlagEmbedding's runner, model and trainer with this project's batches, evaluation and checkpoints.

Importing this takes seconds: only :func:`utils.training.run.run` does, once all inputs are checked.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from FlagEmbedding.abc.finetune.reranker import AbsRerankerDataArguments, AbsRerankerModelArguments
from FlagEmbedding.finetune.reranker.encoder_only.base import (
    CrossEncoderModel,
    EncoderOnlyRerankerRunner,
    EncoderOnlyRerankerTrainer,
)
from torch import Tensor
from torch import distributed as dist
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from utils.errors import InputError, RunError
from utils.files import write_json
from utils.models.folders import read_json, tokenizer_files
from utils.models.loading import BASE, RERANKER, first_not_finite, load_model, load_tokenizer
from utils.progress import log, progress_bar
from utils.training import checkpoints, held_out, launch
from utils.training.groups import TrainingGroups, collate, encode_pairs
from utils.training.held_out import History
from utils.training.job import TrainingJob
from utils.training.micro_batches import ChunkBudget, ChunkedScorer

# Scores that differ by less in so many batches on end rank nothing any more.
SAME_SCORES, PATIENCE_WITH_SAME_SCORES = 1e-6, 20


class GroupedCrossEncoder(CrossEncoderModel):
    """FlagEmbedding's model over ragged batches of any number of groups, with a loss in full precision."""

    def __init__(self, base_model: Any, tokenizer: Any, group_size: int, memory: ChunkBudget) -> None:
        """Hold the model."""
        super().__init__(base_model, tokenizer=tokenizer)
        self.group_size = group_size
        padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        padding = {key: value for key, value in padding.items() if key in tokenizer.model_input_names}
        self.scorer = ChunkedScorer(base_model, padding, memory, tokenizer.padding_side)

    def encode(self, features: dict[str, Any]) -> Tensor:
        """Return the scores of a ragged batch, float32 of shape (pairs, 1)."""
        return self.scorer(features)

    def forward(self, pair: Any = None, teacher_scores: Any = None) -> Any:
        """Return FlagEmbedding's output: the mean listwise cross-entropy over the groups, and the scores."""
        # The last batch of an epoch may be short: groups are counted, not taken from the settings.
        self.train_batch_size = len(pair["lengths"]) // self.group_size
        return super().forward(pair, teacher_scores)


class RerankerTrainer(EncoderOnlyRerankerTrainer):
    """FlagEmbedding's trainer that evaluates, keeps the best model, and stops where going on makes no sense.

    The first process alone writes: what is written appears in its place once it is whole.
    """

    def __init__(self, job: TrainingJob, history: History | None, **options: Any) -> None:
        """Hold what is trained for, and the held-out examples where there are any."""
        self.job, self.history = job, history
        self.staged = False
        self.same_scores = 0
        self.control: Any
        super().__init__(**options)

    # Watching over the losses.

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        """Return the loss, once it is a number and the scores are not all alike.

        Raises:
            RunError: one of the two, with the last good checkpoint.
        """
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        scores = outputs.scores.detach()
        value, spread = torch.stack([loss.detach().float(), scores.max() - scores.min()]).tolist()
        if not math.isfinite(value):
            self.stop(f"the loss is {value}", "lower --learning_rate, or train with --no_mixed_precision")
        self.same_scores = 0 if spread > SAME_SCORES else self.same_scores + 1
        if self.same_scores >= PATIENCE_WITH_SAME_SCORES:
            self.stop(f"the scores of {self.same_scores} batches on end are all alike", "lower --learning_rate")
        return (loss, outputs) if return_outputs else loss

    def stop(self, reason: str, mend: str) -> None:
        """End the run with its reason and the last good model."""
        output = self.job.output
        if self.history is not None and self.history.best is not None:
            good = f"the best model, of step {self.history.best.step}, is in {output}"
        elif found := checkpoints.whole_checkpoints(output):
            good = f"the last good checkpoint is {found[0]}"
        else:
            good = "there is no checkpoint yet"
        raise RunError(f"stopped at step {self.state.global_step}: {reason}; {good}; {mend}")

    # Evaluating.

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the held-out examples, note the metrics, keep the model if it is the best, and say when to stop."""
        assert self.history is not None
        step = self.state.global_step
        scores = self.score_held_out()
        if not np.isfinite(scores).all():
            self.stop("the scores of held-out pairs are not finite", "lower --learning_rate")
        if step and np.ptp(scores) <= SAME_SCORES:
            self.stop("the scores of all held-out pairs are alike", "lower --learning_rate")
        point = self.history.add(step, scores)
        if self.history.is_best(point):
            self.keep_model()
        if self.args.should_save:
            with self.writing("evaluation"):
                self.history.write(self.job.output)
                held_out.draw_curve(self.history, self.job.output / held_out.CURVE)
            log.info("step %d: MRR %.3f, nDCG@10 %.3f on held-out queries", step, point.MRR, point.nDCG_10)
        found = {"eval_MRR": point.MRR, "eval_nDCG@10": point.nDCG_10}
        self.log(dict(found))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        patience = self.job.settings.patience
        if patience is not None and self.history.since_best >= patience:
            self.control.should_training_stop = True
        return found

    @functools.cached_property
    def held_out_pairs(self) -> list[dict[str, list[int]]]:
        """The held-out pairs' token ids, in the order of ``metrics.pairs_of``."""
        assert self.history is not None
        tokenizer = self.train_dataset.tokenizer
        return [
            pair
            for example in self.history.examples
            for pair in encode_pairs(tokenizer, example.query, [*example.pos, *example.neg], self.job.lengths)
        ]

    def score_held_out(self) -> np.ndarray:
        """Return the scores of the held-out pairs, (pairs,), each process having scored its share."""
        model, pairs = self.model, self.held_out_pairs
        order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i]["input_ids"]))
        mine = order[self.args.process_index :: self.args.world_size]
        found: list[tuple[list[int], list[float]]] = [(mine, [])]
        if mine:
            batch = self._prepare_inputs(collate([([pairs[i] for i in mine], None)]))
            model.eval()
            with torch.inference_mode(), self.accelerator.autocast():
                found = [(mine, model.scorer(batch["pair"]).flatten().tolist())]
            model.train()
        scores = np.empty(len(pairs), dtype=np.float32)
        for positions, values in gather(found[0]):
            scores[positions] = values
        return scores

    # Writing.

    def keep_model(self) -> None:
        """Put the model as it is now into the output folder, in place of an earlier one."""
        folder = self.job.output / checkpoints.STAGING / "model"
        with self.writing("model"):
            self.save_model(str(folder))
            if self.args.should_save:
                checkpoints.publish(folder, self.job.output)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = output_dir or self.args.output_dir
        model = self.model.model
        weights = model.state_dict()
        if state_dict is not None:
            weights = {name.removeprefix("model."): values for name, values in state_dict.items()}
        if broken := first_not_finite(weights):
            self.stop(f"the weights of {broken} are not finite", "lower --learning_rate")
        # DeepSpeed trains a copy in half precision. Saved as it is, it would also score in half precision,
        # as libraries take the precision from the file; this shell makes it the base model's again.
        with torch.device("meta"):
            shell = type(model)(copy.deepcopy(model.config)).float()
        shell.save_pretrained(folder, state_dict={name: w.float() for name, w in weights.items()})
        # What loads the base loads the trained model too, also older libraries than those that trained it.
        write_json(Path(folder) / "config.json", self.trained_config())
        for file in tokenizer_files(self.job.model, self.train_dataset.tokenizer):
            shutil.copy(file, folder)
        if self.padding:
            settings = Path(folder) / "tokenizer_config.json"
            own = read_json(settings) if settings.exists() else {}
            write_json(settings, own | self.padding)

    @functools.cached_property
    def padding(self) -> dict[str, str]:
        """How batches must be padded, where the base's tokenizer says nothing of it or what changes scores."""
        (base, _), trained = load_tokenizer(self.job.model), self.train_dataset.tokenizer
        chosen = {name: getattr(trained, name) for name in ("padding_side", "pad_token")}
        return {name: value for name, value in chosen.items() if getattr(base, name) != value}

    def trained_config(self) -> dict[str, Any]:
        """Return the base model's own ``config.json``, with no more than what the training has changed."""
        config, model = read_json(self.job.model / "config.json"), self.model.model
        config["architectures"] = [type(model).__name__]
        config |= {key: "float32" for key in ("dtype", "torch_dtype") if key in config}
        if len(config.get("id2label") or ()) != 1:
            config |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        if config.get("pad_token_id") is None:
            config["pad_token_id"] = model.config.get_text_config().pad_token_id
        return config

    def _get_output_dir(self, trial: Any) -> str:
        output = self.job.output
        return str(output / checkpoints.STAGING if self.staged else output)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint beside its place, and move it there once all processes have written their part."""
        output, name = self.job.output, f"checkpoint-{self.state.global_step}"
        self.staged = True
        try:
            with self.writing(name):
                super()._save_checkpoint(model, trial)
                wait_for_all()
                if self.args.should_save:
                    shutil.rmtree(output / name, ignore_errors=True)
                    checkpoints.publish(output / checkpoints.STAGING / name, output / name)
                    checkpoints.rotate(output, self.job.settings.save_total_limit)
        finally:
            self.staged = False
        wait_for_all()
        if self.args.local_process_index == 0 and not self.args.should_save:
            # On a disk of their own, the other machines are left with what DeepSpeed wrote there.
            if any(path.is_file() for path in (output / checkpoints.STAGING).rglob("*")):
                raise RunError(
                    "this DeepSpeed stage writes a part of each checkpoint on every machine: give an --output_dir on "
                    "a disk that all share, or stage 0"
                )
            checkpoints.remove_staging(output)

    def _save_rng_state(self, output_dir: str) -> None:
        """Let the first process write all processes' random states: others may be on machines of their own."""
        with tempfile.TemporaryDirectory() as folder:
            super()._save_rng_state(folder)
            mine = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
        for files in gather(mine):
            if self.args.should_save:
                for name, content in files.items():
                    (Path(output_dir) / name).write_bytes(content)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.model.model.load_state_dict(load_model(Path(resume_from_checkpoint), RERANKER).model.state_dict())

    @contextlib.contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Say in one line that something could not be written, and leave nothing half written behind.

        Raises:
            RunError: the disk is full, or another of the system's reasons.
        """
        try:
            yield
        except (RunError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # safetensors and torch each have their own kinds for a full disk
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RunError(
                f"{what} of step {self.state.global_step} could not be written to {self.job.output} ({reason}); "
                "whole checkpoints are kept: make room, then go on with --resume"
            ) from error
        finally:
            if self.args.should_save:
                checkpoints.remove_staging(self.job.output)


class Progress(ProgressCallback):
    """A bar on stderr with the loss in it, in place of the Trainer's, which writes its log to stdout."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar in the first process."""
        if state.is_world_process_zero:
            self.training_bar = progress_bar(
                total=state.max_steps, initial=state.global_step, desc="training", unit="step"
            )
        self.current_step = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the loss."""
        if self.training_bar is not None and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.4f}")


class LastStepCallback(TrainerCallback):
    """Tells the dataset its epoch, evaluates the last step, and spares its checkpoint, which is the saved model."""

    def __init__(self, groups: TrainingGroups, evaluates: bool) -> None:
        """Hold the dataset."""
        self.groups, self.evaluates = groups, evaluates

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate and save as often as is asked now, not as the checkpoint that is gone on from was."""
        state.compute_steps(args, state.max_steps)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pass the epoch on: accelerate does in one process only, and not where several share the rows."""
        self.groups.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Treat the last step specially."""
        if state.global_step >= state.max_steps:
            control.should_save = False
            control.should_evaluate = self.evaluates


class RerankerRunner(EncoderOnlyRerankerRunner):
    """FlagEmbedding's runner over a prepared job's rows, model and output folder."""

    def __init__(self, job: TrainingJob, arguments: Any, memory: ChunkBudget) -> None:
        """Load all that the training needs."""
        self.job, self.memory = job, memory
        self.history = History(job.held_out) if job.held_out else None
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
        # Weights kept in half precision are trained in full: their updates would be rounded away.
        tokenizer, base, fresh = load_model(self.job.model, BASE)
        if fresh and launch.is_main_process():
            log.warning(
                "model %s has no trained head (%s): it starts from random weights, and the base ranks by chance",
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
        """Return what makes ragged batches of groups."""
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
        """Train, from the beginning or a checkpoint on; the output folder then holds the best or last model."""
        resume = self.job.resume
        if len({found and found.name for found in gather(resume)}) > 1:
            raise InputError(
                f"not all machines see the checkpoints of {self.job.output}: resume with it on a disk that all share"
            )
        if resume is not None and self.history is not None:
            self._restore_history(checkpoints.step_of(resume))
        self.trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        if self.history is None or self.history.best is None:
            self.trainer.keep_model()

    def _restore_history(self, step: int) -> None:
        """Take over what the first process finds of an interrupted run's evaluations."""
        assert self.history is not None
        assert self.job.resume is not None
        path = self.job.resume.parent / held_out.FILE
        found = json.loads(path.read_bytes()) if self.training_args.should_save and path.is_file() else None
        found = gather(found)[0]
        if found is not None:
            self.history.restore(found, path)
            self.history.rewind(step)


def gather(value: Any) -> list[Any]:
    """Return every process's value, in the order of their ranks."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    """Let no process go on before all have come here."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
