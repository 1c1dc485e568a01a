"""Put results of rerank_ablation_test.py side by side, source by source: a new model, other weights, another teacher.

    python -m tools.compare_runs ablation_results/before.json ablation_results/after.json
    python -m tools.compare_runs old.json new.json newer.json --arms diverse_ft --output_file three.json

Every arm of a later file is compared with the same arm of the first, over the sources that all files share.
"""

import argparse
from pathlib import Path

from utils import cli
from utils.evaluation.run_comparison import Run, compare_runs
from utils.files import check_output, locked, write_json
from utils.labelling.outputs import named_run
from utils.labelling.retrieval_ablation import RESULTS
from utils.report.page import write_ablation_page
from utils.report.text import ablation_text
from utils.retrieval.arms import ARMS


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("runs", nargs="+", metavar="FILE", help="JSON files of rerank_ablation_test.py, two or more")
    add("--arms", nargs="+", choices=list(ARMS), help="arms to compare (default: all that are shared)")
    add("--output_file", help="where the results go (default: ./ablation_results/comparison_<time>.json)")
    args = parser.parse_args(argv)
    if len(args.runs) < 2:
        parser.error("name two files or more")
    return args


def main(argv: list[str] | None = None) -> None:
    """Name the result, keep other runs off it, and compare."""
    args = parse_args(argv)
    output = check_output(args.output_file or RESULTS / "comparison.json")
    with locked(output) if args.output_file else named_run(RESULTS, "comparison", ".json") as name:
        compare(args, output if args.output_file else RESULTS / f"{name}.json")


def compare(args: argparse.Namespace, output: Path) -> None:
    """Compare the runs, then print and write what that shows."""
    result = compare_runs([Run.read(file) for file in args.runs], args.arms)
    write_json(output, result.to_json())
    print(f"{len(result.sources)} sources that all runs share; {result.other_queries} of them with different queries")
    for key, values in result.settings["differing"].items():
        print(f"{key}: " + "; ".join(f"{value} in {name}" for name, value in values.items()))
    print(ablation_text(result))
    print(f"results are in {output}, the report in {write_ablation_page(result, output)}")


if __name__ == "__main__":
    cli.run(main)
