"""Test a reranker against the order before it, a random order and other models, on anything judged.

    python test_reranker.py --model_path ./output_new --test_data ./data/test_data.jsonl
    python test_reranker.py --model_path ./output_new --test_data ./scifact --run first_stage.trec
    python test_reranker.py --baseline_model ../models/a ../models/b --trec_dir ./trec

The test data are rows of query, pos and neg, or a BEIR folder, whose documents the retriever of --config finds, or a
run has. All orders are compared query by query, and the result says whether to rerank, how many and with which weight.
Next to the JSON file are a report (HTML) and its plots (PNG, SVG); --trec_dir writes run and qrels files, with which
other tools can check the figures.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np

from utils import cli
from utils.config import load_config
from utils.data.first_stage import LEXICAL, read_test_data
from utils.data.judged import JudgedPool, rankable
from utils.errors import EXIT_REGRESSION, InputError
from utils.evaluation.metrics import Pool, pairs_of, write_trec
from utils.evaluation.paired import WORSE, difference_text
from utils.evaluation.reranker_results import orders_of, reranker_test_result
from utils.evaluation.results import RerankerTestResult
from utils.evaluation.verdict import MODEL, failures
from utils.files import check_output, locked, write_json
from utils.models.folders import find_model
from utils.models.lengths import Lengths
from utils.progress import log
from utils.report.page import write_test_page
from utils.report.text import p_value, percent, reranker_test_text
from utils.scoring import open_reranker
from utils.training.job import trained_on

DEFAULT_OUTPUT = "./finetune_results.json"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__.splitlines()[0], parents=(cli.test_flags(),))
    add = parser.add_argument
    add("--model_path", default="./output_new", help="folder of the reranker")
    add("--output_file", help=f"JSON file of the results; replaced if it exists (default: {DEFAULT_OUTPUT}, unless "
        "that is of another model or other data)")  # fmt: skip
    baselines = "other rerankers to compare with; may be given more than once (default: none)"
    add("--baseline_model", nargs="+", action="extend", default=[], metavar="FOLDER", help=baselines)
    add(
        "--max_length",
        type=cli.positive,
        help="longest pair, in tokens (default: as the model was trained, else its limit)",
    )
    add("--trec_dir", help="folder for TREC run and qrels files (default: none are written)")
    loss = "exit 3 if significantly worse than a baseline, or than the first stage without a fusion that gains"
    add("--fail_on_regression", action="store_true", help=f"{loss} (default: exit 0)")
    gain = "exit 3 unless it is significantly better than every baseline and, alone or fused, than the first stage"
    add("--fail_unless_better", action="store_true", help=f"{gain} (default: exit 0)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Keep other runs off what this one writes, and compare the orders."""
    args = parse_args(argv)
    output = check_output(args.output_file or unclaimed(args.model_path, args.test_data))
    with ExitStack() as held:
        for path in filter(None, (output, args.trec_dir)):
            held.enter_context(locked(Path(path)))
        return compare(args, output)


def unclaimed(model: str, data: str) -> Path:
    """Return the default output; InputError if it holds the test of another model or other data."""
    output = Path(DEFAULT_OUTPUT)
    with suppress(OSError, ValueError, KeyError, TypeError):  # nothing is there, or no result
        earlier = json.loads(output.read_bytes())["settings"]
        if [*map(os.path.normpath, (earlier[MODEL], earlier["test_data"]))] != [*map(os.path.normpath, (model, data))]:
            found = f"{output} holds the test of {earlier[MODEL]} on {earlier['test_data']}"
            raise InputError(f"{found}: name another --output_file, or this one to replace it")
    return output


def compare(args: argparse.Namespace, output: Path) -> int:
    """Score the pools, then print and write the metrics and what they show; return the exit code."""
    config = load_config(args.config) if args.config else None
    cli.use_gpus(config.gpu_id if config else None)
    test = read_test_data(args.test_data, args.run, config, args.depth)
    models = {MODEL: args.model_path} | name_baselines(args.baseline_model)
    scored = {name: score(args, path, test.pools) for name, path in models.items()}
    orders, fusion = orders_of(test, {name: scores for name, (scores, _) in scored.items()})
    if test.first_stage == LEXICAL:
        log.info("the order before reranking is BM25's: name your retriever's configuration with --config for its own")
    warn_of_lengths({path: scored[name][1] for name, path in models.items()})
    warn_of_ties(models, orders)
    warn_of_training_data(args, models, test.pools)
    result = reranker_test_result(test, orders, fusion, describe(args, models, test.pools))
    write_json(output, result.to_json())
    if args.trec_dir:
        write_trec(Path(args.trec_dir), test.pools, orders)
    print(reranker_test_text(result))
    print(f"results are in {output}, the report in {write_test_page(result, output)}")
    if result.advice is None or result.advice.rerank:
        print(f"next: python rerank_ablation_test.py --ft_model {args.model_path} --exclude_data TRAINING_DATA")
    return exit_code(args, result)


def name_baselines(paths: Sequence[str]) -> dict[str, str]:
    """Return the baselines' folders by name: ``baseline``, and with a number from the second on."""
    return {"baseline" if i == 1 else f"baseline_{i}": path for i, path in enumerate(dict.fromkeys(paths), 1)}


def describe(args: argparse.Namespace, models: Mapping[str, str], pools: Sequence[JudgedPool]) -> dict[str, object]:
    """Return the settings that the figures depend on."""
    first = {"run": args.run, "config": args.config, "depth": args.depth}
    settings = {**models, "test_data": args.test_data, "queries": len(pools), "max_length": args.max_length}
    return settings | {key: value for key, value in first.items() if value is not None}


def score(args: argparse.Namespace, path: str, pools: Sequence[JudgedPool]) -> tuple[np.ndarray, Lengths]:
    """Return the scores of one model for all pairs, and the lengths that it read them at."""
    reranker = open_reranker(path, max_length=args.max_length, batch_size=args.batch_size)
    return reranker.score(pairs_of(pools), desc=f"scoring with {Path(path).name}"), reranker.lengths


def warn_of_lengths(lengths: Mapping[str, Lengths]) -> None:
    """Warn where models read texts of different lengths, so that not only their weights are compared."""
    if len({one.pair for one in lengths.values()}) > 1:
        read = ", ".join(f"{path} {one.pair}" for path, one in lengths.items())
        message = "the models read pairs of different lengths (%s tokens), each as it was trained: compare at the same "
        log.warning(message + "with --max_length, too, or train at the base's", read)


def warn_of_ties(models: Mapping[str, str], pools: Mapping[str, Sequence[Pool]]) -> None:
    """Warn of each model that scores all passages of a pool alike: their order is drawn at random."""
    for name, path in models.items():
        ranked = [pool for pool in rankable(pools[name]) if pool.size > 1]
        tied = sum(np.ptp(pool.scores) == 0 for pool in ranked)
        if tied:
            message = "%s scores all passages alike in %d of %d pools: their order there is random"
            log.warning(message, path, tied, len(ranked))


def warn_of_training_data(args: argparse.Namespace, models: Mapping[str, str], pools: Sequence[JudgedPool]) -> None:
    """Warn of each model that was trained or chosen on queries of the test data, which flatter it."""
    for path in models.values():
        if seen := trained_on(find_model(path), [pool.query for pool in pools]):
            message = "%s was trained, or chosen, on %s of the queries of %s, which flatters it: test on others"
            log.warning(message, path, percent(seen), args.test_data)


def exit_code(args: argparse.Namespace, result: RerankerTestResult) -> int:
    """Return 3 where a flag asks for it, after reporting why, else 0."""
    if not (args.fail_on_regression or args.fail_unless_better):
        return 0
    failed = failures(result, unless_better=args.fail_unless_better)
    for one in failed:
        reason = "regression" if one.outcome == WORSE else "no significant gain"
        found = f"{one.metric} of {one.order} {difference_text(one)} against {one.baseline}"
        log.error("%s: %s, corrected p %s", reason, found, p_value(one.p_corrected))
    return EXIT_REGRESSION if failed else 0


if __name__ == "__main__":
    cli.run(main)
