"""Train a prepared job and keep what it made; what can go wrong becomes one line."""

import atexit
import contextlib
import pickle
from typing import Any

from utils.errors import InputError, RunError
from utils.files import locked
from utils.models.devices import is_out_of_memory
from utils.progress import log
from utils.training import dry_run_report, launch, model_card
from utils.training.history import EvaluationHistory
from utils.training.job import open_output
from utils.training.settings import TrainingJob


def run(job: TrainingJob) -> EvaluationHistory | None:
    """Train a prepared job in this process, alone or as one of several under a launcher; return its evaluations.

    The loss is FlagEmbedding's: a listwise cross-entropy over groups of one positive and its negatives. An InputError
    says that the model cannot be loaded, the folder not written, or the device lacks what is asked for; a RunError
    that memory ran out, the losses or scores became useless, or the disk is full. Only one run at a time writes to an
    output folder: an InputError tells the second.
    """
    alone = locked(job.output) if launch.is_main_process() else contextlib.nullcontext()
    with alone, launch.environment(job.ds_config is not None, job.settings.deterministic):
        try:
            history = _fit(job)
        except pickle.UnpicklingError:
            raise InputError(f"{job.resume or job.model} holds classes that could run code: use another") from None
        except ValueError as error:
            if "DeepSpeed config" not in str(error):
                raise
            raise InputError(f"{job.ds_config}: {' '.join(str(error).split())}") from None
        except RuntimeError as error:
            if "does not have a deterministic implementation" in str(error):
                operation = str(error).partition(" ")[0]
                raise InputError(f"--deterministic: this device has no such {operation}: leave it out") from None
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
    return history


def _fit(job: TrainingJob) -> EvaluationHistory | None:
    from utils.training.fit import fit, make_trainer, memory_budget, training_arguments

    arguments = training_arguments(job)
    if launch.is_main_process():
        open_output(job)
        _log_start(job, arguments)
    trainer = make_trainer(job, arguments, memory_budget(job))
    fit(trainer)
    trainer.write_history()
    if launch.is_main_process():
        model_card.write(job, trainer.history)
    return trainer.history


def _log_start(job: TrainingJob, arguments: Any) -> None:
    """Log what is about to be trained on what."""
    settings, lengths, facts = job.settings, job.lengths, job.facts
    if (settings.query_max_len or lengths.query, settings.passage_max_len or lengths.passage) != lengths:
        log.warning("lengths cut to what the model takes: query_max_len %d, passage_max_len %d", *lengths)
    if facts.short:
        remedy = "they are repeated" if settings.negative_fill == "repeat" else "passages of other rows are added"
        log.info(
            "%d of %d rows have fewer than the %d negatives that --train_group_size %d asks for: %s", facts.short,
            len(job.examples), settings.train_group_size - 1, settings.train_group_size, remedy,
        )  # fmt: skip
    if job.held_out and not settings.eval_data:
        log.info(
            "%d rows are held out for evaluation; for that, %d others are left out, and %d passages of others and %d "
            "held-out negatives are removed", len(job.held_out), facts.dropped, facts.pruned, facts.thinned,
        )  # fmt: skip
    for note in facts.notes:
        log.warning("%s", note)
    steps = dry_run_report.count_steps(job, arguments.world_size)
    if steps.warmup >= steps.total:
        log.warning("the only steps are warm-up, the first at a learning rate of 0: give more rows or --warmup_ratio 0")
    if job.guard:
        log.info("%d guard queries of another origin are evaluated, too", len(job.guard))
    if job.resume:
        log.info("resuming from %s", job.resume)
    log.info(
        "training %s on %d rows in groups of %d: %d rows per step, at most %d tokens per pair, processes %d, %s, %s",
        job.model.name, len(job.examples), settings.train_group_size, steps.batch, lengths.pair, arguments.world_size,
        arguments.device.type, arguments.mixed_precision.replace("no", "fp32"),
    )  # fmt: skip
