"""Test a reranker on query/pos/neg pools, beside a random order and, if asked, other models.

    python test_reranker.py --model_path ./output_new --test_data ./data/test_data.jsonl
    python test_reranker.py --model_path ./output_new --baseline_model ../models/demo-reranker --output_file a.json
    python test_reranker.py --baseline_model ../models/a ../models/b --trec_dir ./trec

Each metric comes with a bootstrap interval, and the models are compared query by query. Beside the JSON file come a
report to look at (HTML) and its plots (PNG, SVG); --trec_dir writes what other tools need to check the figures.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils import cli
from utils.data.rows import read_examples
from utils.errors import EXIT_REGRESSION
from utils.evaluation.metrics import Pool, pairs_of, pools_of, rankable, write_trec
from utils.evaluation.model_comparison import MODEL, assess
from utils.files import check_output, write_json
from utils.progress import log
from utils.report.page import write_test_page
from utils.report.text import assessment_text, p_value, versions
from utils.schema import ContrastiveExample
from utils.scoring import open_reranker


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
    add(
        "--baseline_model",
        nargs="+",
        action="extend",
        default=[],
        metavar="FOLDER",
        help="other rerankers to compare with; may be given more than once (default: none)",
    )
    add("--max_length", type=cli.positive, help="tokens kept of a pair (default: what the model takes)")
    add(
        "--batch_size",
        type=cli.positive,
        default=16,
        help="pairs of --max_length that fit into memory at once",
    )
    add("--trec_dir", help="folder for TREC run and qrels files (default: none are written)")
    add(
        "--fail_on_regression",
        action="store_true",
        help="exit 3 if the MRR is worse than a baseline's, at 5%% after correction (default: exit 0)",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Score the pools, print and write the metrics and what they show."""
    args = parse_args(argv)
    output = check_output(args.output_file)
    examples = read_examples([args.test_data], "test data")
    models = {MODEL: args.model_path} | name_baselines(args.baseline_model)
    pools = {name: pools_of(examples, score(args, path, examples)) for name, path in models.items()}
    warn_of_ties(models, pools)
    settings = models | {"test_data": args.test_data, "queries": len(examples), "max_length": args.max_length}
    result = {"settings": settings, **assess(examples, pools), "versions": versions()}
    write_json(output, result)
    if args.trec_dir:
        write_trec(Path(args.trec_dir), pools)
    print(assessment_text(result))
    print(f"results are in {output}, the report in {write_test_page(result, output)}")
    print(f"next: python rerank_ablation_test.py --ft_model {args.model_path}")
    return regressions(result) if args.fail_on_regression else 0


def name_baselines(paths: Sequence[str]) -> dict[str, str]:
    """Return the baselines' folders by name: ``baseline``, and with a number from the second on."""
    return {"baseline" if i == 1 else f"baseline_{i}": path for i, path in enumerate(dict.fromkeys(paths), 1)}


def score(args: argparse.Namespace, path: str, examples: list[ContrastiveExample]) -> np.ndarray:
    """Return the scores of one model for all pairs."""
    reranker = open_reranker(path, max_length=args.max_length, batch_size=args.batch_size)
    return reranker.score(pairs_of(examples), desc=f"scoring with {Path(path).name}")


def warn_of_ties(models: Mapping[str, str], pools: Mapping[str, Sequence[Pool]]) -> None:
    """Say of each model in how many pools all passages have one score: their order is drawn, and shows nothing."""
    for name, path in models.items():
        ranked = rankable(pools[name])
        tied = sum(np.ptp(pool.scores) == 0 for pool in ranked)
        if tied:
            log.warning(
                "%s gives all passages the same score in %d of %d pools: there its order is a random one",
                path, tied, len(ranked),
            )  # fmt: skip


def regressions(result: Mapping[str, Any]) -> int:
    """Say which baselines have a better MRR, if that is not by chance; returns the exit code."""
    found = [row for row in result["comparisons"] if row["metric"] == "MRR" and row["regression"]]
    for row in found:
        told = f"MRR {row['difference']:+.3f} against {row['baseline']}, corrected p {p_value(row['p_corrected'])}"
        log.error("regression: %s", told)
    return EXIT_REGRESSION if found else 0


if __name__ == "__main__":
    cli.run(main)
