"""Test a reranker on query/pos/neg pools, beside a random order and, if asked, another model.

python test_reranker.py --model_path ./output_new --test_data ./data/test_data.jsonl
python test_reranker.py --model_path ./output_new --baseline_model ../models/demo-reranker --output_file results.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from utils import cli, jsonl
from utils.examples import read_examples
from utils.metrics import Row, compare, pairs_of, pools_of
from utils.report import table
from utils.reranker import open_reranker
from utils.schema import ContrastiveExample


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model_path", default="./output_new", help="the reranker's folder")
    add(
        "--test_data",
        default="./data/test_data.jsonl",
        help="JSONL file, or folder of them, of query/pos/neg rows",
    )
    add(
        "--output_file",
        default="./finetune_results.json",
        help="where the results go; an earlier file is replaced",
    )
    add("--baseline_model", help="another reranker's folder, to compare with (default: none)")
    add("--max_length", type=cli.positive, help="tokens kept of a pair (default: what the model takes)")
    add(
        "--batch_size",
        type=cli.positive,
        default=16,
        help="pairs of --max_length that fit into memory at once",
    )
    add(
        "--fail_on_regression",
        action="store_true",
        help="exit 3 if the baseline's MRR is better (default: exit 0)",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Score the pools, print and write the metrics."""
    args = parse_args(argv)
    examples = read_examples([args.test_data], "test data")
    models = {"model": args.model_path} | ({"baseline": args.baseline_model} if args.baseline_model else {})
    pools = {name: pools_of(examples, score(args, path, examples)) for name, path in models.items()}
    rows = compare(pools)
    settings = models | {"test_data": args.test_data, "queries": len(examples), "max_length": args.max_length}
    jsonl.write_json(Path(args.output_file), {"settings": settings, "metrics": [row._asdict() for row in rows]})
    return report(args, rows, len(examples))


def score(args: argparse.Namespace, path: str, examples: list[ContrastiveExample]) -> Any:
    """Return the scores of one model for all pairs."""
    reranker = open_reranker(path, max_length=args.max_length, batch_size=args.batch_size)
    return reranker.score(pairs_of(examples), desc=f"scoring with {Path(path).name}")


def report(args: argparse.Namespace, rows: list[Row], queries: int) -> int:
    """Print the table and where the results are; returns the exit code."""
    names = list(rows[0].values)
    print(f"{queries} queries of {args.test_data}")
    print(table([[r.metric, *r.values.values(), r.random] for r in rows], ["metric", *names, "random order"]))
    print(f"results are in {args.output_file}")
    print(f"next: python rerank_ablation_test.py --ft_model {args.model_path}")
    mrr = rows[0].values
    if args.fail_on_regression and mrr["model"] < mrr.get("baseline", 0.0):
        cli.log.error("regression: MRR %.3f, the baseline's is %.3f", mrr["model"], mrr["baseline"])
        return cli.EXIT_REGRESSION
    return 0


if __name__ == "__main__":
    cli.run(main)
