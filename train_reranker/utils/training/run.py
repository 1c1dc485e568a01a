"""Train a prepared job, keep what it made, and report whether it helped."""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import InputError, RunError
from utils.evaluation.paired import PairedDifference
from utils.models.devices import is_out_of_memory
from utils.progress import log
from utils.training import dry_run, launch, model_card
from utils.training.held_out import EvaluationHistory
from utils.training.job import prepare
from utils.training.output import open_output
from utils.training.settings import TrainingJob, TrainingSettings


class Result(NamedTuple):
    """A trained model's folder, and how it compares with its base on held-out queries, if there were any."""

    folder: Path
    difference: PairedDifference | None
    summary: str | None


def train(settings: TrainingSettings) -> Path:
    """Fine-tune a reranker in this process and return its folder.

    The loss is FlagEmbedding's: a listwise cross-entropy over groups of one positive and its negatives. Several
    devices need :func:`utils.training.launch.launch`, or torchrun, whose environment is followed.

    Raises:
        InputError: a setting or an input cannot be used.
        RunError: the training failed for another reason, as when memory ran out.
    """
    return run(prepare(settings)).folder


def run(job: TrainingJob) -> Result:
    """Train a prepared job in this process, alone or as one of several under a launcher.

    Raises:
        InputError: the model cannot be loaded, the folder not written, or the device lacks what is asked for.
        RunError: memory ran out, the losses or scores became useless, or the disk is full.
    """
    with launch.quiet(), launch.environment(job.ds_config is not None):
        try:
            history = _fit(job)
        except ValueError as error:
            if "DeepSpeed config" not in str(error):
                raise
            raise InputError(f"{job.ds_config}: {' '.join(str(error).split())}") from None
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise RunError(
                "out of memory even with one pair per micro-batch: lower --passage_max_len, or use a larger device"
            ) from None
        except Exception as error:
            reporter = job.settings.report_to
            if type(error).__module__.partition(".")[0] != reporter:
                raise
            reason = str(error).partition("\n")[0]
            raise RunError(f"--report_to {reporter} failed: {reason}; fix that, or use --report_to none") from None
    # Not before: DeepSpeed keeps groups in its modules, which another training of this process would find.
    atexit.register(launch.leave_process_group)
    return Result(job.output, history.difference(), history.summary()) if history else Result(job.output, None, None)


def _fit(job: TrainingJob) -> EvaluationHistory | None:
    """Train, write the model and its card; return the evaluations, if there were any."""
    from utils.training.arguments import memory_budget, training_arguments
    from utils.training.fit import fit, make_trainer

    arguments = training_arguments(job)
    if launch.is_main_process():
        open_output(job)
        _log_start(job, arguments)
    trainer = make_trainer(job, arguments, memory_budget(job))
    fit(trainer)
    history = trainer.history
    if launch.is_main_process():
        if history is not None:
            history.write(job.output)
        model_card.write(job, history)
    return history


def _log_start(job: TrainingJob, arguments: Any) -> None:
    """Log what is about to be trained on what."""
    settings, lengths, facts = job.settings, job.lengths, job.facts
    if (settings.query_max_len, settings.passage_max_len or lengths.passage) != lengths:
        log.warning("lengths cut to what the model takes: query_max_len %d, passage_max_len %d", *lengths)
    if facts.short:
        remedy = "they are repeated" if settings.fill == "repeat" else "passages of other rows are added"
        log.info("%d of %d rows have too few negatives: %s", facts.short, len(job.examples), remedy)
    if job.held_out and not settings.eval_data:
        log.info(
            "%d rows are held out for evaluation; for that, %d others are left out, and %d passages of others and %d "
            "held-out negatives are removed",
            len(job.held_out), facts.dropped, facts.pruned, facts.thinned,
        )  # fmt: skip
    for note in facts.notes:
        log.warning("%s", note)
    steps = dry_run.count_steps(job, arguments.world_size)
    if steps.warmup >= steps.total:
        log.warning("the only steps are warm-up, the first at a learning rate of 0: give more rows or --warmup_ratio 0")
    if job.resume:
        log.info("resuming from %s", job.resume)
    precision = "fp32" if arguments.mixed_precision == "no" else arguments.mixed_precision
    log.info(
        "training %s on %d rows in groups of %d: %d rows per step, at most %d tokens per pair, processes %d, %s, %s",
        job.model.name, len(job.examples), settings.train_group_size, steps.batch, lengths.pair,
        arguments.world_size, arguments.device.type, precision,
    )  # fmt: skip
