"""Generate contrastive examples (query, pos, neg) from a corpus, labelled by a teacher.

    python contrastive_data_generator.py                              # the demo's corpus, the offline teacher
    python contrastive_data_generator.py --config my.yaml --num_examples 1000 --max_doc_candidates 5
    python contrastive_data_generator.py --test_fraction 0.2          # also train_data.jsonl and test_data.jsonl

A source document is sampled, the teacher extracts a bridge entity and a query from it, the diverse retriever finds
candidates, and the teacher judges them in order: usable ones become positives, unusable ones negatives.
"""

import argparse
import shlex
from pathlib import Path
from typing import Any

from utils import cli
from utils.labelling.example_generation import GenerationRun, Target, plan, reporting_only
from utils.labelling.judging import report_errors, run_to_stop
from utils.labelling.outputs import Outputs
from utils.labelling.setup import Setup
from utils.report.text import listed


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__.splitlines()[0], parents=(cli.labelling_flags(),))
    add = parser.add_argument
    add("--num_examples", type=cli.positive, default=100, help="number of examples")
    add("--max_doc_candidates", type=cli.positive, default=10, help="candidates retrieved per source")
    add("--output_dir", default="./data", help="folder of all output files")
    add("--output_file", help="file name of the examples (default: contrastive_examples_<time>.jsonl)")
    add("--output", help="file name of the summary (default: the examples', ending in .summary.json)")
    add(
        "--num_pos",
        type=cli.positive,
        default=1,
        help="judge a source's candidates until it has this many positives and --num_neg negatives",
    )
    add(
        "--num_neg",
        type=cli.positive,
        default=1,
        help="judge a source's candidates until it has this many negatives and --num_pos positives",
    )
    add(
        "--max_judged", type=cli.positive, help="candidates judged per source at most (default: all that are retrieved)"
    )
    add("--test_fraction", type=cli.fraction, default=0.0, help="share of examples held out in test_data.jsonl")
    add("--max_attempts", type=cli.positive, help="most sources to try (default: all)")
    add("--dry_run", action="store_true", help="print how many calls to expect, without making any (default: run)")
    add("--overwrite", action="store_true", help="replace files of an earlier run (default: refuse)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Generate examples and write them with their summary and provenance."""
    args = parse_args(argv)
    folder = Path(args.output_dir)
    setup = Setup.from_flags(args, args.max_doc_candidates, folder)
    cli.use_gpus(setup.config.gpu_id)
    target = Target(args.num_examples, args.num_pos, args.num_neg, args.max_attempts, args.max_judged)
    split, retry = args.test_fraction > 0, args.retry_errors
    if args.dry_run:
        print(plan(setup, target, args.test_fraction))
        with reporting_only():
            if not args.overwrite:
                named = Outputs.named(folder, args.output_file or "new.jsonl", args.output)
                named.refuse_others(split, args.output is not None, retry)
        return
    with Outputs.choose(folder, args.output_file, args.output, split, args.overwrite, retry) as outputs:
        generate(GenerationRun(setup, target, outputs, args.test_fraction), args)


def generate(run: GenerationRun, args: argparse.Namespace) -> None:
    """Judge sources into the journal, write what came out, and report it; a failure is raised after that."""
    with run.open_journal(args.overwrite, args.retry_errors) as journal:
        stop = run_to_stop(lambda: cli.run_async(run.judge(journal)), cli.command_line())
        summary = run.write(journal, stop)
    if journal.rows:
        report(summary, run)
    if stop.failure:
        raise stop.failure
    report_errors(journal.rows, cli.retry_command(args, run.outputs.examples.name))


def report(summary: dict[str, Any], run: GenerationRun) -> None:
    """Print what came out, where it is, and what to run next."""
    for key, value in summary.items():
        if value is not None:
            print(f"{key:>21}  {listed(value)}")
    examples, provenance, file = run.outputs
    print(f"examples are in {examples}, verdicts in {provenance}, the summary in {file}")
    if summary["finished"]:
        data = examples.with_name("train_data.jsonl") if "train" in summary else examples
        base = run.setup.config.reranker_path
        output = "./output_new" if not Path("output_new").exists() else f"./output_{examples.parent.resolve().name}"
        command = ["--model_path", base, "--train_data", str(data), "--output_dir", output]
        print(f"next: {shlex.join(['python', 'train_reranker.py', *command])}")


if __name__ == "__main__":
    cli.run(main)
