"""Test a reranker on query/pos/neg pools, next to a random order and other models.

    python test_reranker.py --model_path ./output_new --test_data ./data/test_data.jsonl
    python test_reranker.py --model_path ./output_new --baseline_model ../models/demo-reranker --output_file a.json
    python test_reranker.py --baseline_model ../models/a ../models/b --trec_dir ./trec

Each metric has a bootstrap interval, and the models are compared query by query. Next to the JSON file are a report
(HTML) and its plots (PNG, SVG); --trec_dir writes run and qrels files, with which other tools can check the figures.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils import cli
from utils.data.judged import pools_of_rows
from utils.data.rows import read_examples
from utils.errors import EXIT_REGRESSION
from utils.evaluation.metrics import Pool, pairs_of, pools_of, rankable, write_trec
from utils.evaluation.paired import WORSE, gate
from utils.evaluation.reranker_results import MODEL, reranker_test_result
from utils.evaluation.results import RerankerTestResult
from utils.files import check_output, write_json
from utils.progress import log
from utils.report.page import write_test_page
from utils.report.text import p_value, reranker_test_text
from utils.schema import ContrastiveExample
from utils.scoring import open_reranker


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model_path", default="./output_new", help="folder of the reranker")
    add("--test_data", default="./data/test_data.jsonl", help="JSONL file, or folder of them, of query/pos/neg rows")
    add("--output_file", default="./finetune_results.json", help="JSON file of the results; replaced if it exists")
    baselines = "other rerankers to compare with; may be given more than once (default: none)"
    add("--baseline_model", nargs="+", action="extend", default=[], metavar="FOLDER", help=baselines)
    add(
        "--max_length",
        type=cli.positive,
        help="longest pair, in tokens (default: as the model was trained, else its limit)",
    )
    add("--batch_size", type=cli.positive, default=16, help="pairs of --max_length that fit into memory at once")
    add("--trec_dir", help="folder for TREC run and qrels files (default: none are written)")
    loss = "exit 3 if the MRR is significantly worse than a baseline's, at 5%% after correction (default: exit 0)"
    add("--fail_on_regression", action="store_true", help=loss)
    gain = "exit 3 unless the MRR is significantly better than every baseline's (default: exit 0)"
    add("--fail_unless_better", action="store_true", help=gain)
    args = parser.parse_args(argv)
    if args.fail_unless_better and not args.baseline_model:
        parser.error("--fail_unless_better needs something to be better than: name a --baseline_model")
    return args


def main(argv: list[str] | None = None) -> int:
    """Score the pools, then print and write the metrics and what they show."""
    args = parse_args(argv)
    output = check_output(args.output_file)
    examples = read_examples([args.test_data], "test data")
    models = {MODEL: args.model_path} | name_baselines(args.baseline_model)
    pools = {name: pools_of(pools_of_rows(examples), score(args, path, examples)) for name, path in models.items()}
    warn_of_ties(models, pools)
    settings = models | {"test_data": args.test_data, "queries": len(examples), "max_length": args.max_length}
    result = reranker_test_result(examples, pools, settings)
    write_json(output, result.to_json())
    if args.trec_dir:
        write_trec(Path(args.trec_dir), pools)
    print(reranker_test_text(result))
    print(f"results are in {output}, the report in {write_test_page(result, output)}")
    print(f"next: python rerank_ablation_test.py --ft_model {args.model_path}")
    return exit_code(args, result)


def name_baselines(paths: Sequence[str]) -> dict[str, str]:
    """Return the baselines' folders by name: ``baseline``, and with a number from the second on."""
    return {"baseline" if i == 1 else f"baseline_{i}": path for i, path in enumerate(dict.fromkeys(paths), 1)}


def score(args: argparse.Namespace, path: str, examples: list[ContrastiveExample]) -> np.ndarray:
    """Return the scores of one model for all pairs."""
    reranker = open_reranker(path, max_length=args.max_length, batch_size=args.batch_size)
    return reranker.score(pairs_of(pools_of_rows(examples)), desc=f"scoring with {Path(path).name}")


def warn_of_ties(models: Mapping[str, str], pools: Mapping[str, Sequence[Pool]]) -> None:
    """Warn of each model that scores all passages of a pool alike: their order is drawn at random."""
    for name, path in models.items():
        ranked = rankable(pools[name])
        tied = sum(np.ptp(pool.scores) == 0 for pool in ranked)
        if tied:
            message = "%s scores all passages alike in %d of %d pools: their order there is random"
            log.warning(message, path, tied, len(ranked))


def exit_code(args: argparse.Namespace, result: RerankerTestResult) -> int:
    """Return 3 where a flag asks for it, after reporting the baselines that it is for, else 0."""
    if not (args.fail_on_regression or args.fail_unless_better):
        return 0
    mrr = [one for one in result.comparisons if one.metric == "MRR"]
    failed = [one for one in mrr if gate([one], unless_better=args.fail_unless_better)]
    for one in failed:
        reason = "regression" if one.outcome == WORSE else "no significant gain"
        p = p_value(one.p_corrected)
        log.error("%s: MRR %+.3f against %s, corrected p %s", reason, one.difference, one.baseline, p)
    return EXIT_REGRESSION if failed else 0


if __name__ == "__main__":
    cli.run(main)
