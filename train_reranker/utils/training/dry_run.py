"""What a training would do, in numbers, before it does it."""

from __future__ import annotations

import itertools
import json
import math
import random
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.files import SCRIPTS
from utils.models.loading import load_tokenizer
from utils.report.text import percent, table
from utils.training.groups import draw_group, encode_pairs, plan_chunks, round_up
from utils.training.job import TrainingJob

SAMPLE = 1000  # rows whose tokens are counted
UNCUT = 10**6  # tokens that no passage has


class Tokens(NamedTuple):
    """The pairs of a sample of groups: their lengths in the model, and how many were longer than that."""

    lengths: list[int]
    cut: int
    chunked: int  # padded tokens of all steps, in chunks
    padded: int  # padded tokens of all steps, as one batch each
    largest_step: int  # tokens of the longest step of a device


class Steps(NamedTuple):
    """How long a training is."""

    batch: int  # rows a step, over all devices
    total: int
    warmup: int


def render(job: TrainingJob, argv: Sequence[str], processes: int) -> str:
    """Return the report of a prepared job that so many processes would train."""
    from utils.training.arguments import chunk_memory, precision

    memory = chunk_memory(job)
    tokens, steps = count_tokens(job, memory.max_tokens), count_steps(job, processes)
    settings, facts = job.settings, job.facts
    at = np.percentile(tokens.lengths, [5, 25, 50, 75, 95, 100]).astype(int)
    kept = tokens.largest_step if memory.keep else min(tokens.largest_step, max(memory.max_tokens or 0, max(at)))
    memory_needed = estimate_memory(job, kept, half=any(precision(settings).values()))
    rows: list[list[Any]] = [
        ["model", str(job.model)],
        ["rows read", facts.rows],
        ["rows held out for evaluation", len(job.held_out)],
        ["rows left out or thinned for that", f"{facts.dropped} left out, {facts.pruned} passages taken out"],
        ["negatives taken out of held-out rows", facts.thinned],
        ["rows trained on (groups an epoch)", len(job.examples)],
        ["pairs a group", settings.train_group_size],
        ["rows with too few negatives", f"{facts.short} ({settings.fill})"],
        ["tokens a pair, 5/25/50/75/95/100%", " ".join(map(str, at))],
        ["pairs cut to the longest length", f"{percent(tokens.cut / len(tokens.lengths))} (over {job.lengths.total})"],
        ["padding, one batch a step", percent(1 - sum(tokens.lengths) / tokens.padded)],
        ["padding, in chunks", percent(1 - sum(tokens.lengths) / tokens.chunked)],
        ["tokens a chunk at most", memory.max_tokens],
        ["processes", processes],
        ["rows a step (effective batch)", steps.batch],
        ["steps", steps.total],
        ["steps of warm-up", steps.warmup],
        ["peak memory a process, estimated", f"{memory_needed / 2**30:.1f} GiB"],
        ["output folder", str(job.output)],
        ["goes on from", str(job.resume or "–")],
        ["command", command(argv, processes)],
    ]
    return table(rows, ["dry run", "nothing was written"])


def count_tokens(job: TrainingJob, max_tokens: int | None) -> Tokens:
    """Encode the groups of a seeded sample of rows, in steps as a device would take them."""
    settings = job.settings
    tokenizer, _ = load_tokenizer(job.model)
    rng = random.Random(settings.seed)
    rows = rng.sample(job.examples, min(SAMPLE, len(job.examples)))
    lengths, cut, groups = [], 0, []
    for row in rows:
        passages, _ = draw_group(row, settings.train_group_size, rng)
        pairs = encode_pairs(tokenizer, row.query, passages, job.lengths._replace(passage=UNCUT))
        whole = [len(pair["input_ids"]) for pair in pairs]
        groups.append([min(length, job.lengths.total) for length in whole])
        cut += sum(length > job.lengths.total for length in whole)
        lengths += groups[-1]
    multiple = max(1, settings.pad_to_multiple_of)
    starts = range(0, len(groups), settings.batch_size)
    steps = [list(itertools.chain(*groups[i : i + settings.batch_size])) for i in starts]
    chunked = sum(
        len(chunk) * round_up(max(step[i] for i in chunk), multiple)
        for step in steps
        for chunk in plan_chunks(step, max_tokens, multiple)
    )
    padded = sum(len(step) * round_up(max(step), multiple) for step in steps)
    return Tokens(lengths, cut, chunked, padded, max(map(sum, steps)))


def count_steps(job: TrainingJob, processes: int) -> Steps:
    """Return the steps that transformers' Trainer would make."""
    settings = job.settings
    batches = math.ceil(len(job.examples) / (settings.batch_size * processes))
    an_epoch = max(1, math.ceil(batches / settings.gradient_accumulation_steps))
    total = math.ceil(settings.epochs * an_epoch)
    batch = settings.batch_size * settings.gradient_accumulation_steps * processes
    return Steps(batch, total, math.ceil(total * settings.warmup_ratio))


def estimate_memory(job: TrainingJob, tokens: int, half: bool) -> int:
    """Return the bytes that training needs at its peak, if ``tokens`` tokens' activations are kept at once.

    Weights, gradients, their sums and AdamW's two moments are 20 bytes a weight. A layer keeps 8 vectors of the hidden
    and 2 of the intermediate size for each token, and two masks. Attention is taken to keep no matrix, as SDPA's
    fused kernels do; with dropout on a CPU it does, and needs more.
    """
    config = json.loads((job.model / "config.json").read_bytes())
    hidden, layers = config.get("hidden_size", 768), config.get("num_hidden_layers", 12)
    inner = config.get("intermediate_size", 4 * hidden)
    size = 2 if half else 4
    activations = tokens * layers * ((8 * hidden + 2 * inner) * size + 2 * hidden)
    return 20 * count_weights(job.model) + activations


def count_weights(model: Path) -> int:
    """Return how many numbers a model's files hold."""
    total = 0
    for file in model.glob("*.safetensors"):
        with file.open("rb") as content:
            header = json.loads(content.read(int.from_bytes(content.read(8), "little")))
        total += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total or sum(file.stat().st_size for file in model.glob("pytorch_model*.bin")) // 4


def command(argv: Sequence[str], processes: int) -> str:
    """Return the command that does it, as a shell takes it."""
    script = str(SCRIPTS / "train_reranker.py")
    given = list(argv)
    for place in reversed([i for i, flag in enumerate(given) if flag.partition("=")[0] == "--dry_run"]):
        has_value = given[place + 1 : place + 2] in (["true"], ["True"], ["1"], ["yes"])
        del given[place : place + 1 + has_value]
    launcher = [sys.executable] if processes == 1 else ["torchrun", f"--nproc_per_node={processes}"]
    return shlex.join([*launcher, script, *given])
