"""What a training would do, in numbers."""

from __future__ import annotations

import itertools
import math
import random
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.files import SCRIPTS
from utils.models.folders import read_json, tensor_headers
from utils.models.loading import load_tokenizer
from utils.progress import log
from utils.report.text import percent, table
from utils.training.groups import draw_group, encode_pairs, plan_micro_batches, round_up
from utils.training.settings import TrainingJob

SAMPLE = 1000  # rows whose tokens are counted
UNCUT = 10**6  # tokens: more than any passage has


class Tokens(NamedTuple):
    """The tokens of a sample of groups."""

    lengths: list[int]  # of each pair, as the model gets it
    cut: int  # pairs that are longer
    in_micro_batches: int  # padded tokens of all steps
    padded: int  # the same with one batch per step
    largest_step: int  # tokens, on one device


class Steps(NamedTuple):
    """How long a training is."""

    batch: int  # rows per step, over all devices
    total: int
    warmup: int


def render(job: TrainingJob, argv: Sequence[str], processes: int) -> str:
    """Return the report on a prepared job that ``processes`` would train."""
    from utils.training.arguments import memory_budget, precision

    memory = memory_budget(job)
    tokens, steps = count_tokens(job, memory.max_tokens), count_steps(job, processes)
    settings, facts = job.settings, job.facts
    at = np.percentile(tokens.lengths, [5, 25, 50, 75, 95, 100]).astype(int)
    kept = tokens.largest_step if memory.keep else min(tokens.largest_step, max(memory.max_tokens or 0, max(at)))
    memory_needed = estimate_memory(job, kept, half=any(precision(settings).values()))
    rows: list[list[Any]] = [
        ["model", str(job.model)],
        ["rows read", facts.rows],
        ["rows held out for evaluation", len(job.held_out)],
        ["rows left out for that", f"{facts.dropped}, and {facts.pruned} passages of others"],
        ["negatives removed from held-out rows", facts.thinned],
        ["rows trained on (groups per epoch)", len(job.examples)],
        ["pairs per group", settings.train_group_size],
        ["rows with too few negatives", f"{facts.short} ({settings.fill})"],
        ["tokens per pair, 5/25/50/75/95/100%", " ".join(map(str, at))],
        ["pairs cut", f"{percent(tokens.cut / len(tokens.lengths))} (over {job.lengths.pair})"],
        ["padding, one batch per step", percent(1 - sum(tokens.lengths) / tokens.padded)],
        ["padding, in micro-batches", percent(1 - sum(tokens.lengths) / tokens.in_micro_batches)],
        ["tokens per micro-batch at most", memory.max_tokens],
        ["processes", processes],
        ["rows per step (effective batch)", steps.batch],
        ["steps", steps.total],
        ["warm-up steps", steps.warmup],
        ["peak memory per process, estimated", f"{memory_needed / 2**30:.1f} GiB"],
        ["output folder", str(job.output)],
        ["resumed from", str(job.resume or "–")],
        ["command", command(argv, processes)],
    ]
    for note in facts.notes:
        log.warning("%s", note)
    return table(rows, ["dry run", "nothing was written"])


def count_tokens(job: TrainingJob, max_tokens: int | None) -> Tokens:
    """Encode the groups of a seeded sample of rows, in steps as on one device."""
    settings = job.settings
    tokenizer, _ = load_tokenizer(job.model)
    rng = random.Random(settings.seed)
    rows = rng.sample(job.examples, min(SAMPLE, len(job.examples)))
    lengths, cut, groups = [], 0, []
    for row in rows:
        passages, _ = draw_group(row, settings.train_group_size, rng)
        pairs = encode_pairs(tokenizer, row.query, passages, job.lengths._replace(passage=UNCUT))
        whole = [len(pair["input_ids"]) for pair in pairs]
        groups.append([min(length, job.lengths.pair) for length in whole])
        cut += sum(length > job.lengths.pair for length in whole)
        lengths += groups[-1]
    multiple = max(1, settings.pad_to_multiple_of)
    starts = range(0, len(groups), settings.batch_size)
    steps = [list(itertools.chain(*groups[i : i + settings.batch_size])) for i in starts]
    in_micro_batches = sum(
        len(part) * round_up(max(step[i] for i in part), multiple)
        for step in steps
        for part in plan_micro_batches(step, max_tokens, multiple)
    )
    padded = sum(len(step) * round_up(max(step), multiple) for step in steps)
    return Tokens(lengths, cut, in_micro_batches, padded, max(map(sum, steps)))


def count_steps(job: TrainingJob, processes: int) -> Steps:
    """Return the steps that transformers' Trainer would make."""
    settings = job.settings
    batches = math.ceil(len(job.examples) / (settings.batch_size * processes))
    per_epoch = max(1, math.ceil(batches / settings.gradient_accumulation_steps))
    total = math.ceil(settings.epochs * per_epoch)
    batch = settings.batch_size * settings.gradient_accumulation_steps * processes
    return Steps(batch, total, math.ceil(total * settings.warmup_ratio))


def estimate_memory(job: TrainingJob, tokens: int, half: bool) -> int:
    """Return the bytes that training needs at its peak, if the activations of ``tokens`` are kept at once.

    Weights, gradients, their sums and AdamW's two moments take 20 bytes per weight. A layer keeps 8 vectors of the
    hidden and 2 of the intermediate size per token, and two masks. Attention is assumed to keep no matrix, as SDPA's
    fused kernels do; with dropout on a CPU it does, and needs more.
    """
    config = read_json(job.model / "config.json")
    hidden, layers = config.get("hidden_size", 768), config.get("num_hidden_layers", 12)
    inner = config.get("intermediate_size", 4 * hidden)
    size = 2 if half else 4
    activations = tokens * layers * ((8 * hidden + 2 * inner) * size + 2 * hidden)
    return 20 * count_weights(job.model) + activations


def count_weights(model: Path) -> int:
    """Return the number of weights in a model's files."""
    shapes = (tensor["shape"] for file in model.glob("*.safetensors") for tensor in tensor_headers(file)[1])
    return sum(map(math.prod, shapes)) or sum(file.stat().st_size for file in model.glob("pytorch_model*.bin")) // 4


def command(argv: Sequence[str], processes: int) -> str:
    """Return the shell command that trains."""
    script = str(SCRIPTS / "train_reranker.py")
    given = list(argv)
    for place in reversed([i for i, flag in enumerate(given) if flag.partition("=")[0] == "--dry_run"]):
        has_value = given[place + 1 : place + 2] in (["true"], ["True"], ["1"], ["yes"])
        del given[place : place + 1 + has_value]
    launcher = [sys.executable] if processes == 1 else ["torchrun", f"--nproc_per_node={processes}"]
    return shlex.join([*launcher, script, *given])
