r"""Time of scoring query-passage pairs: this project, FlagReranker and CrossEncoder, in turns.

    python benchmarks/scoring.py                 # a small model of XLM-RoBERTa's shape on a CPU, bge-m3's on a GPU
    python benchmarks/scoring.py --model ../models/demo-reranker --length 512

The same weights score the same pairs in one process. The peers are called as their documentation does: FlagReranker
with use_fp16 where there is a GPU, CrossEncoder in bf16 there; this project chooses by itself, and once in fp32.
On a CPU the times are the process's CPU time over its threads, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import shapes
from shapes import BGE_M3, SMALL

Scorer = Callable[[list[tuple[str, str]]], np.ndarray]
OURS, OURS_FP32, FLAG, SENTENCE = "this project", "this project, fp32", "FlagReranker", "CrossEncoder"


def main() -> None:
    """Measure all in turns, compare their orders, print a table, write the results."""
    args = parse_args()
    import torch

    from utils.report.text import percent, table

    cuda = torch.cuda.is_available()
    if not cuda:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        shape = BGE_M3 if cuda else SMALL
        model = Path(args.model) if args.model else shapes.make_model(Path(folder), shape, dropout=0.1)
        rows = shapes.make_rows(args.queries, args.pool)
        pairs = [(row["query"], text) for row in rows for text in (*row["pos"], *row["neg"])]
        scorers = open_scorers(model, args, cuda)
        times: dict[str, list[float]] = {name: [] for name in scorers}
        scores: dict[str, np.ndarray] = {}
        for _ in range(args.rounds):
            for name, score in scorers.items():
                start = clock(cuda)
                scores[name] = np.asarray(score(pairs))
                times[name].append(clock(cuda) - start)
                sys.stderr.write(f"{name}: {times[name][-1]:.2f} s\n")
    pools = {name: values.reshape(-1, args.pool) for name, values in scores.items()}
    lengths = shapes.pair_lengths(rows, args.length)
    results = [summarise(name, times, pools, lengths) for name in scorers]
    where = torch.cuda.get_device_name() if cuda else f"CPU, {args.threads} threads, CPU time"
    print(f"{where}; {len(pairs)} pairs of at most {args.length} tokens")
    columns = ("scorer", "seconds", "pairs_per_s", "speed", "same_order", "apart")
    shown = [[percent(r[key]) if key == "same_order" else r[key] for key in columns] for r in results]
    print(table(shown, ["scorer", "s", "pairs/s", f"speed, {FLAG} = 1", f"order of {FLAG}", "largest difference"]))
    print(f"results are in {shapes.save_results('scoring', results)}")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="a reranker's folder (default: random weights of a shape for the device)")
    parser.add_argument("--queries", type=int, default=20, help="queries (default: 20)")
    parser.add_argument("--pool", type=int, default=8, help="passages a query (default: 8)")
    parser.add_argument("--length", type=int, default=4096, help="longest pair in tokens (default: 4096)")
    parser.add_argument("--batch", type=int, default=32, help="the peers' batch size (default: 32)")
    parser.add_argument("--rounds", type=int, default=3, help="turns (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="threads on a CPU (default: 1)")
    return parser.parse_args()


def open_scorers(model: Path, args: argparse.Namespace, cuda: bool) -> dict[str, Scorer]:
    """Load the model once for each contender."""
    import torch
    from FlagEmbedding import FlagReranker
    from sentence_transformers import CrossEncoder

    from utils.reranker import open_reranker

    options = {"max_length": args.length, "batch_size": args.batch}
    automatic, full = (open_reranker(model, half=half, **options) for half in (True, False))
    flag = FlagReranker(
        str(model), use_fp16=cuda, devices="cuda:0" if cuda else "cpu", max_length=args.length, batch_size=args.batch
    )
    kwargs: dict[str, Any] = {"dtype": torch.bfloat16} if cuda else {}
    cross = CrossEncoder(
        str(model), max_length=args.length, device="cuda" if cuda else "cpu", activation_fn=torch.nn.Identity(),
        model_kwargs=kwargs,
    )  # fmt: skip
    scorers: dict[str, Scorer] = {
        FLAG: lambda pairs: np.asarray(flag.compute_score(pairs)),
        OURS: automatic.score,
        SENTENCE: lambda pairs: cross.predict(pairs, batch_size=args.batch, show_progress_bar=False),
    }
    # Where the device has no fast half precision, the two would be the same.
    return scorers | ({OURS_FP32: full.score} if automatic.model.dtype != torch.float32 else {})


def summarise(
    name: str, times: dict[str, list[float]], pools: dict[str, np.ndarray], lengths: list[int]
) -> dict[str, Any]:
    """Return a scorer's median time, its ratio to FlagReranker's in each turn, and how far its scores are apart."""
    same = (np.argsort(-pools[name], 1, kind="stable") == np.argsort(-pools[FLAG], 1, kind="stable")).all(1).mean()
    seconds = statistics.median(times[name])
    return {
        "scorer": name,
        "seconds": seconds,
        "times": times[name],
        "pairs_per_s": len(lengths) / seconds,
        "tokens_per_s": sum(lengths) / seconds,
        "speed": statistics.median(theirs / own for theirs, own in zip(times[FLAG], times[name], strict=True)),
        "same_order": float(same),
        "apart": float(np.abs(pools[name] - pools[FLAG]).max()),
    }


def clock(cuda: bool) -> float:
    """Return wall time on a GPU, this process's CPU time else."""
    import torch

    if not cuda:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
