"""Where a row has too few negatives, what fills its group better: other rows' passages, or its own repeated?

    python benchmarks/negatives.py            # about ten minutes on two cores, after `make data`

Trains the demo's base reranker on the demo's training data with either, for several seeds, and ranks the held-out pools
of its test data. The default of --negative_fill is the winner.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "train_reranker"))


from utils.data.rows import pools_of_rows, read_examples
from utils.evaluation.metrics import evaluate, pairs_of, pools_of
from utils.evaluation.paired import paired
from utils.files import write_json
from utils.report.text import p_value, table
from utils.schema import ContrastiveExample
from utils.scoring import open_reranker
from utils.training.job import prepare
from utils.training.run import run
from utils.training.settings import NEGATIVE_FILLS, DataStats, TrainingSettings

DATA = ROOT / "train_reranker" / "data"


def main() -> None:
    """Train with each fill and seed, print each one's MRR and the difference, write the results."""
    args = parse_args()
    test = [example for example in read_examples([args.test_data]) if example.neg]
    ranks: dict[str, list[list[float]]] = {fill: [] for fill in NEGATIVE_FILLS}
    for seed in range(args.seeds):
        for fill in NEGATIVE_FILLS:
            values, facts = train_and_rank(settings(args, fill, seed), test)
            ranks[fill].append(values)
            sys.stderr.write(f"seed {seed}, {fill}: MRR {np.mean(ranks[fill][-1]):.3f}\n")
    means = {fill: np.mean(values, axis=0) for fill, values in ranks.items()}  # of each query, over the seeds
    one, other = NEGATIVE_FILLS
    found = paired(means[one], means[other])
    print(f"{facts.short} of {facts.rows} rows have too few negatives; {len(test)} held-out queries")
    rows = [[fill, float(means[fill].mean()), *map(np.mean, ranks[fill])] for fill in NEGATIVE_FILLS]
    print(table(rows, ["negative fill", "MRR", *(f"seed {seed}" for seed in range(args.seeds))]))
    ends = f" [{found.interval.low:+.3f}, {found.interval.high:+.3f}]" if found.interval else ""
    print(f"{one} − {other}: {found.difference:+.3f}{ends}, p {p_value(found.p)}: {found.outcome}")
    value = {"short": facts.short, "rows": facts.rows, "ranks": ranks, "difference": asdict(found)}
    write_json(ROOT / "benchmarks" / "results" / "negatives.json", value)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=3, help="trainings with each fill (default: 3)")
    parser.add_argument("--model_path", default=str(ROOT / "models" / "demo-reranker"), help="default: the demo's base")
    parser.add_argument("--train_data", default=str(DATA / "train_data.jsonl"), help="default: the demo's")
    parser.add_argument("--test_data", default=str(DATA / "test_data.jsonl"), help="default: the demo's")
    return parser.parse_args()


def settings(args: argparse.Namespace, fill: str, seed: int) -> TrainingSettings:
    """Return the demo's training with another fill and seed, and no evaluation on the way."""
    return TrainingSettings(
        model_path=args.model_path, train_data=[args.train_data], epochs=1, batch_size=8,
        learning_rate=5e-5, query_max_len=32, passage_max_len=128, eval_fraction=0, save_steps=0,
        report_to="none", negative_fill=fill, seed=seed,
    )  # fmt: skip


def train_and_rank(settings: TrainingSettings, test: list[ContrastiveExample]) -> tuple[list[float], DataStats]:
    """Train; return the reciprocal rank of each held-out query, and what became of the rows."""
    with tempfile.TemporaryDirectory() as folder:
        job = prepare(replace(settings, output_dir=folder))
        run(job)
        scores = open_reranker(folder).score(pairs_of(pools_of_rows(test)), desc="held-out pools")
    return evaluate(pools_of(pools_of_rows(test), scores))["MRR"], job.facts


if __name__ == "__main__":
    main()
