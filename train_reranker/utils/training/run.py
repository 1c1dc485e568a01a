"""Fine-tune a reranker over FlagEmbedding's runner: train a prepared job, keep what it made, say what it is worth."""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import InputError, RunError
from utils.files import write_json
from utils.models.devices import is_out_of_memory
from utils.progress import log
from utils.training import checkpoints, dry_run, held_out, launch, model_card
from utils.training.held_out import Difference, History
from utils.training.job import BEGUN, TrainingJob, TrainingSettings, begun_with, prepare


class Result(NamedTuple):
    """A trained model's folder, and how it compares with its base on the held-out queries, if there were any."""

    folder: Path
    difference: Difference | None
    summary: str | None


def train(settings: TrainingSettings) -> Path:
    """Fine-tune a reranker in this process and return its folder; one call for scripts that train on the way.

    The training is FlagEmbedding's: a listwise cross-entropy over groups of one positive and its negatives.
    Several devices need :func:`utils.training.launch.launch`, or a launcher of the user's own, whose environment is
    followed.

    Raises:
        InputError: a setting or an input cannot be used.
        RunError: the training failed for another reason, as when memory ran out.
    """
    return run(prepare(settings)).folder


def run(job: TrainingJob) -> Result:
    """Train a prepared job in this process, or as one of several under a launcher; return where the model is.

    Raises:
        InputError: the model cannot be loaded, the folder not written, or the device lacks what is asked.
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
                "out of memory, with chunks as small as can be: lower --passage_max_len, or take a larger device"
            ) from None
        except Exception as error:
            reporter = job.settings.report_to
            if type(error).__module__.partition(".")[0] != reporter:
                raise
            reason = str(error).partition("\n")[0]
            raise RunError(f"--report_to {reporter} failed: {reason}; fix that, or use --report_to none") from None
    # Not before: DeepSpeed keeps groups in its modules, and another training of this process would meet them.
    atexit.register(launch.leave_process_group)
    difference = None if history is None else history.difference()
    return Result(job.output, difference, history.summary() if history and difference else None)


def _fit(job: TrainingJob) -> History | None:
    """Train, write the model and what is to be known of it; return the evaluations, if there were any."""
    from utils.training.arguments import chunk_memory, training_arguments
    from utils.training.trainer import RerankerRunner

    arguments = training_arguments(job)
    if launch.is_main_process():
        _open_output(job)
        _tell(job, arguments)
    runner = RerankerRunner(job, arguments, chunk_memory(job))
    runner.run()
    if launch.is_main_process():
        if runner.history is not None:
            runner.history.write(job.output)
        model_card.write(job, runner.history)
    return runner.history


def _tell(job: TrainingJob, arguments: Any) -> None:
    """Say in a few lines what is about to be trained on what."""
    settings, lengths, facts = job.settings, job.lengths, job.facts
    if (settings.query_max_len, settings.passage_max_len or lengths.passage) != lengths:
        log.warning("lengths cut to what the model can take: query_max_len %d, passage_max_len %d", *lengths)
    if facts.short:
        mend = "they are repeated" if settings.fill == "repeat" else "other rows' passages fill them up"
        log.info("%d of %d rows have too few negatives: %s", facts.short, len(job.examples), mend)
    if job.held_out and not settings.eval_data:
        log.info(
            "%d rows are held out for evaluation; for that, %d others are left out, %d passages taken out of others "
            "and %d negatives out of the held-out ones",
            len(job.held_out), facts.dropped, facts.pruned, facts.thinned,
        )  # fmt: skip
    for note in facts.notes:
        log.warning("%s", note)
    steps = dry_run.count_steps(job, arguments.world_size)
    if steps.warmup >= steps.total:
        log.warning("the only steps are warm-up, the first at a learning rate of 0: give more rows or --warmup_ratio 0")
    if job.resume:
        log.info("going on from %s", job.resume)
    batch = settings.batch_size * settings.gradient_accumulation_steps * arguments.world_size
    precision = "fp32" if arguments.mixed_precision == "no" else arguments.mixed_precision
    log.info(
        "training %s on %d rows in groups of %d: %d rows a step, at most %d tokens a pair, processes %d, %s, %s",
        job.model.name, len(job.examples), settings.train_group_size, batch, lengths.total,
        arguments.world_size, arguments.device.type, precision,
    )  # fmt: skip


def _open_output(job: TrainingJob) -> None:
    """Make the output folder and, unless a run is gone on with, take an older training's checkpoints out of it.

    They would be counted among the new ones; the old model stays until the new one replaces it.
    """
    try:
        job.output.mkdir(parents=True, exist_ok=True)
        if job.resume is None:
            checkpoints.remove_all(job.output)
            for name in (held_out.FILE, held_out.CURVE):
                (job.output / name).unlink(missing_ok=True)
        write_json(job.output / BEGUN, begun_with(job))
    except OSError as error:
        raise InputError(f"output folder {job.output} cannot be written: {error.strerror}") from None
