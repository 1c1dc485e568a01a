r"""Time of scoring query-passage pairs: this project, FlagReranker and CrossEncoder, in turns.

    python benchmarks/scoring.py                 # a small model of XLM-RoBERTa's shape on a CPU, bge-m3's on a GPU
    python benchmarks/scoring.py --model models/demo-reranker --data train_reranker/data/test_data.jsonl --length 160

The same weights score the same pairs in one process. The others are called as they document: on a GPU, FlagReranker
with use_fp16 and CrossEncoder in bf16; this project chooses by itself, and runs once in fp32. Random weights and words
measure speed. Whether half precision keeps the order takes a trained model and real pools, as in the second command.
Differences are of scores from 0 to 1, after the sigmoid.
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
from scipy.special import expit

import shapes
from shapes import BGE_M3, SMALL
from utils.data.rows import parse_example, pools_of_rows, read_examples
from utils.evaluation.metrics import pairs_of, pools_of
from utils.report.text import percent, table
from utils.schema import ContrastiveExample
from utils.scoring import open_reranker

Scorer = Callable[[list[tuple[str, str]]], np.ndarray]
OURS, OURS_FP32, FLAG, SENTENCE = "this project", "this project, fp32", "FlagReranker", "CrossEncoder"


def main() -> None:
    """Measure all in turns, compare their orders, print a table, write the results."""
    args = parse_args()
    import torch

    cuda = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        shape = BGE_M3 if cuda else SMALL
        model = Path(args.model) if args.model else shapes.make_model(Path(folder), shape, dropout=0.1)
        examples = read_examples([args.data]) if args.data else drawn(args.queries, args.pool)
        pairs = pairs_of(pools_of_rows(examples))
        scorers = open_scorers(model, args, cuda)
        times: dict[str, list[float]] = {name: [] for name in scorers}
        scores: dict[str, np.ndarray] = {}
        for _ in range(args.rounds):
            for name, score in scorers.items():
                start = time.perf_counter()  # the scores are on the CPU when a call returns
                scores[name] = np.asarray(score(pairs))
                times[name].append(time.perf_counter() - start)
                sys.stderr.write(f"{name}: {times[name][-1]:.2f} s\n")
    results = [summarise(name, times, scores, examples) for name in scorers]
    where = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}; {len(pairs)} pairs of at most {args.length} tokens")
    columns = ("scorer", "seconds", "pairs_per_s", "speed", "same_order", "apart")
    shown = [[percent(r[key]) if key == "same_order" else r[key] for key in columns] for r in results]
    print(table(shown, ["scorer", "s", "pairs/s", f"speed, {FLAG} = 1", f"order of {FLAG}", "largest difference"]))
    print(f"results are in {shapes.save_results('scoring', results)}")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="a reranker's folder (default: random weights of a shape for the device)")
    parser.add_argument("--data", help="query/pos/neg rows to score (default: random words of real lengths)")
    parser.add_argument("--queries", type=int, default=20, help="queries (default: 20)")
    parser.add_argument("--pool", type=int, default=8, help="passages per query (default: 8)")
    parser.add_argument("--length", type=int, default=4096, help="longest pair in tokens (default: 4096)")
    parser.add_argument("--batch", type=int, default=32, help="batch size (default: 32)")
    parser.add_argument("--rounds", type=int, default=3, help="turns (default: 3)")
    return parser.parse_args()


def open_scorers(model: Path, args: argparse.Namespace, cuda: bool) -> dict[str, Scorer]:
    """Load the model once for each scorer."""
    import torch
    from FlagEmbedding import FlagReranker
    from sentence_transformers import CrossEncoder

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
    return scorers | ({OURS_FP32: full.score} if automatic.half is not None else {})


def drawn(queries: int, pool: int) -> list[ContrastiveExample]:
    """Return pools of random words whose lengths are those of real documents."""
    return [parse_example(row, "a drawn row") for row in shapes.make_rows(queries, pool)]


def summarise(
    name: str, times: dict[str, list[float]], scores: dict[str, np.ndarray], examples: list[ContrastiveExample]
) -> dict[str, Any]:
    """Return a scorer's median time, its ratio to FlagReranker's in each turn, and how far its scores are apart."""
    orders = [
        [np.argsort(-pool.scores, kind="stable").tolist() for pool in pools_of(pools_of_rows(examples), scores[who])]
        for who in (name, FLAG)
    ]
    seconds = statistics.median(times[name])
    return {
        "scorer": name,
        "seconds": seconds,
        "times": times[name],
        "pairs_per_s": len(scores[name]) / seconds,
        "speed": statistics.median(theirs / own for theirs, own in zip(times[FLAG], times[name], strict=True)),
        "same_order": float(np.mean([ours == theirs for ours, theirs in zip(*orders, strict=True)])),
        "apart": float(np.abs(expit(scores[name]) - expit(scores[FLAG])).max()),
    }


if __name__ == "__main__":
    main()
