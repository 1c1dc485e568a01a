"""What a training would do, in numbers."""

import math
import random
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from utils.files import SCRIPTS
from utils.models.folders import read_json, stored_tensors
from utils.models.loading import load_tokenizer
from utils.progress import log
from utils.report.text import percent, table
from utils.training.groups import draw_group, encode_pairs, round_up
from utils.training.job import precision
from utils.training.settings import TrainingJob

SAMPLE = 1000  # rows whose tokens are counted
UNCUT = 10**6  # tokens: more than any passage has


class Steps(NamedTuple):
    """How long a training is."""

    batch: int  # rows per step, over all devices
    total: int
    warmup: int


def render(job: TrainingJob, argv: Sequence[str], processes: int) -> str:
    """Return the report on a prepared job that ``processes`` would train."""
    from utils.training.fit import memory_budget

    settings, facts, longest = job.settings, job.facts, job.lengths.pair
    memory, steps, whole = memory_budget(job), count_steps(job, processes), count_tokens(job)
    batches = [[min(length, longest) for length in batch] for batch in whole]
    planned = [[batch[i] for i in part] for batch in batches for part in memory.plan(batch)]
    at = np.percentile(np.concatenate(batches), [5, 25, 50, 75, 95, 100]).astype(int)
    most = max(map(sum, batches))
    live = min(most, max(memory.max_tokens, at[-1]))
    peak = estimate_memory(job, *((live, most) if memory.by_layer else (most, 0)))
    rows: list[list[Any]] = [
        ["model", str(job.model)],
        ["rows read", facts.rows],
        ["rows held out for evaluation", len(job.held_out)],
        ["guard queries of another origin", len(job.guard)],
        ["rows left out for that", f"{facts.dropped}, and {facts.pruned} passages of others"],
        ["negatives removed from held-out rows", facts.thinned],
        ["rows trained on (groups per epoch)", len(job.examples)],
        ["pairs per group", settings.train_group_size],
        ["rows with too few negatives", f"{facts.short} ({settings.negative_fill})"],
        ["tokens per pair, 5/25/50/75/95/100%", " ".join(map(str, at))],
        ["pairs cut", f"{percent(float(np.mean(np.concatenate(whole) > longest)))} (over {longest})"],
        ["padding, one batch per step", percent(padding(batches, memory.multiple))],
        ["padding, in micro-batches", percent(padding(planned, memory.multiple))],
        ["tokens per micro-batch at most", memory.max_tokens],
        ["processes", processes],
        ["rows per step (effective batch)", steps.batch],
        ["steps", steps.total],
        ["warm-up steps", steps.warmup],
        ["peak memory per process, estimated", f"{peak / 2**30:.1f} GiB"],
        ["output folder", str(job.output)],
        ["resumed from", str(job.resume or "–")],
        ["command", command(argv, processes)],
    ]
    for note in facts.notes:
        log.warning("%s", note)
    return table(rows, ["dry run", "nothing was written"])


def count_tokens(job: TrainingJob) -> list[list[int]]:
    """Return the tokens of pairs before any is cut, in batches as on one device, for a seeded sample of rows."""
    settings = job.settings
    tokenizer, _ = load_tokenizer(job.model)
    rng = random.Random(settings.seed)
    lengths = []
    for row in rng.sample(job.examples, min(SAMPLE, len(job.examples))):
        passages = [row.passages[i] for i in draw_group(row, settings.train_group_size, rng)]
        pairs = encode_pairs(tokenizer, row.query, passages, job.lengths._replace(passage=UNCUT))
        lengths += [len(pair["input_ids"]) for pair in pairs]
    size = settings.batch_size * settings.train_group_size
    return [lengths[start : start + size] for start in range(0, len(lengths), size)]


def padding(batches: Sequence[Sequence[int]], multiple: int) -> float:
    """Return the share of padding in batches of pairs with so many tokens each."""
    return 1 - sum(map(sum, batches)) / sum(len(batch) * round_up(max(batch), multiple) for batch in batches)


def count_steps(job: TrainingJob, processes: int) -> Steps:
    """Return the steps that transformers' Trainer would make."""
    settings = job.settings
    batches = math.ceil(len(job.examples) / (settings.batch_size * processes))
    per_epoch = max(1, math.ceil(batches / settings.gradient_accumulation_steps))
    total = math.ceil(settings.epochs * per_epoch)
    batch = settings.batch_size * settings.gradient_accumulation_steps * processes
    return Steps(batch, total, math.ceil(total * settings.warmup_ratio))


def estimate_memory(job: TrainingJob, tokens: int, inputs: int) -> int:
    """Return the bytes that training needs at its peak, if the activations of ``tokens`` are kept at once.

    Or, of ``inputs`` tokens if there are any, only the inputs of all layers, and of ``tokens`` one layer's activations.
    Weights, gradients, their sums and AdamW's two moments take 20 bytes per weight. A layer keeps 8 vectors of the
    hidden and 2 of the intermediate size per token, and two masks. Attention is assumed to keep no matrix, as SDPA's
    fused kernels do; with dropout on a CPU it does, and needs more.
    """
    config = read_json(job.model / "config.json")
    hidden: int = config.get("hidden_size", 768)
    layers: int = config.get("num_hidden_layers", 12)
    inner: int = config.get("intermediate_size", 4 * hidden)
    size = 2 if any(precision(job.settings).values()) else 4
    files = job.model.glob("*.safetensors")
    weights = sum(math.prod(shape) for file in files for _, shape in stored_tensors(file) or ())
    weights = weights or sum(file.stat().st_size for file in job.model.glob("pytorch_model*.bin")) // 4
    whole = tokens * (1 if inputs else layers)
    return 20 * weights + inputs * layers * 4 * hidden + whole * ((8 * hidden + 2 * inner) * size + 2 * hidden)


def command(argv: Sequence[str], processes: int) -> str:
    """Return the shell command that trains."""
    launcher = [sys.executable] if processes == 1 else ["torchrun", f"--nproc_per_node={processes}"]
    given = shlex.join([*launcher, str(SCRIPTS / "train_reranker.py"), *argv])
    return re.sub(r" --dry_run([= ](true|1|yes))?(?= |$)", "", given, flags=re.IGNORECASE)
