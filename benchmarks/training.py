r"""Time and memory of a training step: this project, FlagEmbedding's trainer and sentence-transformers'.

    python benchmarks/training.py
    python benchmarks/training.py --lengths 8192 --steps 10 --rounds 3   # on a GPU: bge-reranker-v2-m3's shape, bf16

All train the same random weights on the same rows, batch and order, each in a process of its own, in turns. On a CPU
the model is a small one of XLM-RoBERTa's shape, in fp32 and without dropout (SDPA has no fused kernel with it there).
Times are wall time; the ratio in CPU time depends less on other work on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import shapes
from shapes import BGE_M3, SMALL, Shape

BATCH, GROUP, QUERY_LENGTH = 16, 4, 64
OURS, FLAG, SENTENCE = "this project", "FlagEmbedding", "sentence-transformers"


def main() -> None:
    """Measure all trainers in turns, print a table, write the results."""
    args = parse_args()
    if args.spec:
        print("RESULT " + json.dumps(CONTENDERS[args.contender](json.loads(args.spec))))
        return
    import torch

    from utils.report.text import table

    cuda = torch.cuda.is_available()
    shape = BGE_M3 if cuda else SMALL
    rows: list[list[Any]] = []
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = shapes.make_model(Path(folder) / "model", shape, dropout=0.1 if cuda else 0.0)
        data = Path(folder) / "train.jsonl"
        examples = shapes.make_rows(BATCH * args.steps, GROUP)
        data.write_text("".join(json.dumps(row) + "\n" for row in examples))
        for length in args.lengths:
            spec = {"model": str(model), "data": str(data), "length": length, "steps": args.steps, "cuda": cuda}
            spec |= {
                "recompute": cuda if args.recompute is None else args.recompute,
                "folder": folder,
                "exact": args.deterministic,
            }
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in args.contenders}
            for _ in range(args.rounds):
                for name in args.contenders:
                    runs[name].append(measure(name, spec))
                    sys.stderr.write(f"{length} tokens, {name}: {runs[name][-1]}\n")
            lengths = shapes.pair_lengths(examples, length)
            for name in args.contenders:
                results.append(summarise(name, runs, lengths, shape, spec))
                rows.append([length, name, *(results[-1][key] for key in COLUMNS)])
    print(device_line(cuda, shape))
    print(table(rows, ["longest pair", "trainer", *COLUMNS.values()]))
    print(f"results are in {shapes.save_results('training', results)}")


COLUMNS = {
    "step_s": "s per step", "tokens_per_s": "text tokens/s", "peak_share": "share of peak", "memory_gib": "memory GiB",
    "speed": "speed, FlagEmbedding = 1", "cpu_speed": "in CPU time", "memory": "memory, FlagEmbedding = 1",
}  # fmt: skip


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 512], help="longest pairs in tokens")
    parser.add_argument("--steps", type=int, default=3, help="steps per run; the first is not timed (default: 3)")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each trainer (default: 1)")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="default: all")
    parser.add_argument("--recompute", type=int, choices=(0, 1), help="gradient checkpointing (default: on a GPU)")
    parser.add_argument("--deterministic", action="store_true", help="as the training's flag, for this project")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--spec", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(name: str, spec: dict[str, Any]) -> dict[str, float]:
    """Run one trainer in a process of its own."""
    command = [sys.executable, __file__, "--contender", name, "--spec", json.dumps(spec)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_DISABLED": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT "))
    raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")


def summarise(
    name: str, runs: dict[str, list[dict[str, float]]], lengths: list[int], shape: Shape, spec: dict[str, Any]
) -> dict[str, Any]:
    """Return a trainer's medians, and its ratios to FlagEmbedding's within each round."""
    step = statistics.median(run["step_s"] for run in runs[name])
    flops = shape.flops(lengths, train=True) / spec["steps"]
    value: dict[str, Any] = {
        "trainer": name, "length": spec["length"], "runs": runs[name], "step_s": step,
        "tokens_per_s": round(sum(lengths) / spec["steps"] / step),
        "peak_share": device_share(flops / step) if spec["cuda"] else None,
        "memory_gib": max(run["memory"] for run in runs[name]) / 2**30,
        "speed": None, "cpu_speed": None, "memory": None,
    }  # fmt: skip
    if FLAG in runs:
        pairs = list(zip(runs[FLAG], runs[name], strict=True))
        value["speed"] = statistics.median(theirs["step_s"] / own["step_s"] for theirs, own in pairs)
        value["cpu_speed"] = statistics.median(theirs["cpu_s"] / own["cpu_s"] for theirs, own in pairs)
        value["memory"] = statistics.median(own["memory"] / theirs["memory"] for theirs, own in pairs)
    return value


def device_share(flops_per_second: float) -> float | None:
    """Return the share of the card's peak."""
    import torch

    top = shapes.peak(torch.cuda.get_device_name())
    return None if top is None else flops_per_second / top


def device_line(cuda: bool, shape: Shape) -> str:
    """Describe the device and the model."""
    import torch

    where = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    return f"{where}; {'bf16' if cuda else 'fp32'}; {shape}; {BATCH} rows of {GROUP} pairs per step"


# The trainers. Each returns the seconds of a step after the first, and the bytes that training took.


def run_ours(spec: dict[str, Any]) -> dict[str, float]:
    """Train with this project."""
    from utils.training import launch
    from utils.training.fit import make_trainer, memory_budget, training_arguments
    from utils.training.job import prepare
    from utils.training.settings import TrainingSettings

    settings = TrainingSettings(
        model_path=spec["model"], train_data=[spec["data"]], output_dir=tempfile.mkdtemp(dir=spec["folder"]),
        epochs=1, batch_size=BATCH, train_group_size=GROUP, query_max_len=QUERY_LENGTH,
        passage_max_len=spec["length"] - QUERY_LENGTH, gradient_checkpointing=bool(spec["recompute"]),
        save_steps=0, eval_fraction=0, report_to="none", bf16=spec["cuda"],
        no_mixed_precision=not spec["cuda"],
    )  # fmt: skip
    job = prepare(settings)
    with launch.environment(deepspeed=False, deterministic=spec["exact"]):
        trainer = make_trainer(job, training_arguments(job), memory_budget(job))
        return timed(trainer, trainer.train)


def run_flag(spec: dict[str, Any]) -> dict[str, float]:
    """Train with FlagEmbedding's runner."""
    from FlagEmbedding.abc.finetune.reranker import (
        AbsRerankerDataArguments,
        AbsRerankerModelArguments,
        AbsRerankerTrainingArguments,
    )
    from FlagEmbedding.finetune.reranker.encoder_only.base import EncoderOnlyRerankerRunner

    runner = EncoderOnlyRerankerRunner(
        AbsRerankerModelArguments(model_name_or_path=spec["model"]),
        AbsRerankerDataArguments(
            train_data=[spec["data"]], train_group_size=GROUP, query_max_len=QUERY_LENGTH,
            passage_max_len=spec["length"] - QUERY_LENGTH, pad_to_multiple_of=8,
        ),
        AbsRerankerTrainingArguments(
            output_dir=tempfile.mkdtemp(dir=spec["folder"]), dataloader_num_workers=2 if spec["cuda"] else 0,
            activation_checkpointing=bool(spec["recompute"]), **common(spec),
        ),
    )  # fmt: skip
    return timed(runner.trainer, runner.trainer.train)


def run_sentence(spec: dict[str, Any]) -> dict[str, float]:
    """Train with sentence-transformers, with the loss that is nearest to FlagEmbedding's."""
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import ListNetLoss

    lines = [json.loads(line) for line in Path(spec["data"]).read_text().splitlines()]
    columns = {
        "query": [row["query"] for row in lines],
        "docs": [[*row["pos"], *row["neg"]] for row in lines],
        "labels": [[1.0] + [0.0] * (GROUP - 1) for _ in lines],
    }
    model = CrossEncoder(spec["model"], max_length=spec["length"], device="cuda" if spec["cuda"] else "cpu")
    trainer = CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(
            output_dir=tempfile.mkdtemp(dir=spec["folder"]), gradient_checkpointing=bool(spec["recompute"]),
            **common(spec),
        ),
        train_dataset=Dataset.from_dict(columns),
        loss=ListNetLoss(model),
    )  # fmt: skip
    return timed(trainer, trainer.train)


Contender = Callable[[dict[str, Any]], dict[str, float]]
CONTENDERS: dict[str, Contender] = {FLAG: run_flag, OURS: run_ours, SENTENCE: run_sentence}


def common(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that all trainers share."""
    return {
        "per_device_train_batch_size": BATCH, "num_train_epochs": 1, "learning_rate": 6e-6, "bf16": spec["cuda"],
        "use_cpu": not spec["cuda"], "report_to": "none", "save_strategy": "no", "logging_steps": 1, "seed": 42,
        "data_seed": 42, "remove_unused_columns": False, "disable_tqdm": True,
    }  # fmt: skip


def timed(trainer: Any, train: Callable[[], Any]) -> dict[str, float]:
    """Train; return the mean seconds, wall and CPU, of the steps after the first, and the bytes added at the peak."""
    import torch
    from transformers import TrainerCallback

    ends: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        """Records when steps end."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Wait for the device, then note the time."""
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append((time.perf_counter(), time.process_time()))

    trainer.add_callback(Clock())
    before = resident()
    train()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else grown
    wall, cpu = ((last - first) / (len(ends) - 1) for first, last in zip(ends[0], ends[-1], strict=True))
    return {"step_s": wall, "cpu_s": cpu, "memory": memory}


def resident() -> int:
    """Return the resident bytes of this process (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
