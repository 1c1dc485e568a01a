"""Compare retrieval arms on the same sources and entities: success rate, and candidates judged until a usable one.

    python rerank_ablation_test.py --num 50 --ft_model ./output_new --exclude_data ./data/train_data.jsonl
    python rerank_ablation_test.py --config my.yaml --single diverse --doc_ids ./sampled_doc_ids.txt
    python rerank_ablation_test.py --num 200 --sweep_lambdas --sweep_pool_factor 1 2 4 --sweep_rerank_weight

The five arms are the nearest documents (standard), the MMR-diverse ones (diverse), and both sorted by a base reranker
(zs, diverse_zs) or by the fine-tuned one (diverse_ft). All arms see the same sources, entities and queries, and a
candidate is judged once for a source, whichever arms retrieve it. The other arms are then compared with --baseline,
source by source; next to the JSON file are a report (HTML) and its plots (PNG, SVG).
"""

import argparse
from contextlib import ExitStack
from pathlib import Path

from utils import cli
from utils.errors import InputError
from utils.evaluation.ablation_results import RunContext, ablation_result, titles
from utils.evaluation.results import AblationResult
from utils.files import check_output, locked, write_json
from utils.labelling.journal import Journal, open_journal
from utils.labelling.judging import report_errors, run_to_stop
from utils.labelling.retrieval_ablation import AblationRun, ArmSet, Excluded, choose_output, compared, journal_of
from utils.labelling.setup import Setup
from utils.labelling.sweep import Sweep, settings_to_try
from utils.report.page import write_ablation_page
from utils.report.text import ablation_text
from utils.retrieval.arms import ARMS
from utils.retrieval.mmr import Lambdas


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__.splitlines()[0], parents=(cli.labelling_flags(),))
    add = parser.add_argument
    add("--num", type=cli.positive, default=50, help="number of sources with a bridge entity to compare on")
    add("--candidates", type=cli.positive, default=10, help="candidates retrieved per arm")
    add("--exclude_data", nargs="+", default=[], metavar="FILE",
        help="training or provenance files whose sources are left out (default: none)")  # fmt: skip
    add("--single", choices=list(ARMS), help="run one arm only (default: all)")
    add("--output_file", help="JSON file of the results (default: ./ablation_results/ablation_<time>.json)")
    add("--ft_model", default="./output_new", help="folder of the fine-tuned reranker")
    add("--baseline", choices=list(ARMS), default="diverse", help="arm that the others are compared with")
    add("--sweep_lambdas", nargs="*", type=triple, metavar="λ1,λ2,λ3",
        help="also try these MMR weights on the same sources; none: a grid of 16 (default: no sweep)")  # fmt: skip
    add("--sweep_pool_factor", nargs="+", type=cli.positive, metavar="N",
        help="also try fetching this many times --candidates for reranking (default: no sweep)")  # fmt: skip
    add("--sweep_rerank_weight", nargs="*", type=cli.weight, metavar="W",
        help="also try these weights of the reranker; none: 0, 0.25, 0.5, 0.75, 1 (default: no sweep)")  # fmt: skip
    return parser.parse_args(argv)


def triple(text: str) -> tuple[float, float, float]:
    """Read three weights as in "0.85,0.05,0.1", for argparse's ``type``."""
    try:
        one, two, three = map(float, text.split(","))
        Lambdas.scaled(one, two, three)
    except (ValueError, InputError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} must be three weights such as 0.85,0.05,0.1") from error
    return one, two, three


def main(argv: list[str] | None = None) -> None:
    """Run the arms, then print and write what they needed and what that shows."""
    args = parse_args(argv)
    with ExitStack() as held:
        if output := args.output_file and check_output(args.output_file):
            held.enter_context(locked(output))
        run = open_run(args)
        output = output or held.enter_context(choose_output(run.settings))
        opened = open_journal(journal_of(output), run.settings, retry=args.retry_errors, restart="delete it")
        journal = held.enter_context(opened)
        stop = run_to_stop(lambda: cli.run_async(run.observe(journal)), cli.command_line())
        if compared(journal.sources):
            report(evaluate(run, journal), output)
        failure = stop.failure or run.failure(journal)
        if stop.failure is None and (failure or not report_errors(journal.rows, cli.retry_command(args, output))):
            journal.path.unlink()
    if failure:
        raise failure


def open_run(args: argparse.Namespace) -> AblationRun:
    """Return the run that the flags describe, with its rerankers loaded."""
    setup = Setup.from_flags(args, args.candidates, Path("./data"))
    cli.use_gpus(setup.config.gpu_id)
    own = (setup.weights, setup.config.rerank_pool_factor, setup.config.rerank_weight)
    excluded = Excluded.read(args.exclude_data)
    arm_set = ArmSet.open(setup.config, args.single, args.ft_model)
    tried = args.sweep_lambdas, args.sweep_pool_factor, args.sweep_rerank_weight
    sweep = settings_to_try(arm_set.arms, own, *tried)
    return AblationRun(setup, arm_set, args.num, args.baseline, excluded, sweep)


def evaluate(run: AblationRun, journal: Journal) -> AblationResult:
    """Return what the run has shown so far."""
    sources, setup, arm_set = compared(journal.sources), run.setup, run.arm_set
    context = RunContext(
        settings={"config": str(setup.config.path), "baseline": run.baseline, **run.settings},
        finished=run.is_finished(journal),
        documents=titles(sources, setup.corpus),
        left_out=arm_set.left_out,
        ledger=setup.ledger.summary(),
        **run.measured(journal),
    )
    swept = Sweep.read(run.sweep, journal)
    return ablation_result(sources, arm_set.arms, run.baseline, budget=setup.candidates, context=context, sweep=swept)


def report(result: AblationResult, output: Path) -> None:
    """Write the result and its page, and print it; a result without evidence does not replace another."""
    if output.exists() and not any(arm.sources for arm in result.table):
        output = output.with_name(f"{output.stem}_failed.json")
    write_json(output, result.to_json())
    print(ablation_text(result))
    print(f"results are in {output}, the report in {write_ablation_page(result, output)}")


if __name__ == "__main__":
    cli.run(main)
