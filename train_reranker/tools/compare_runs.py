"""Put results of rerank_ablation_test.py side by side, source by source: a new model, other weights, another teacher.

    python -m tools.compare_runs ablation_results/before.json ablation_results/after.json
    python -m tools.compare_runs old.json new.json newer.json --arms diverse_ft --output_file three.json

Every arm of a later file is compared with the same arm of the first, over the sources that all files share.
"""

from __future__ import annotations

import argparse
from datetime import datetime

from utils import cli
from utils.evaluation.arm_comparison import evidence
from utils.evaluation.run_comparison import merge
from utils.evaluation.runs import Run
from utils.files import check_output, write_json
from utils.report.page import write_ablation_page
from utils.report.text import ablation_text, versions
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
        parser.error("two files or more are wanted")
    return args


def main(argv: list[str] | None = None) -> None:
    """Compare the runs, then print and write what that shows."""
    args = parse_args(argv)
    name = args.output_file or f"./ablation_results/comparison_{datetime.now():%Y%m%d_%H%M%S}.json"
    output = check_output(name)
    runs = [Run.read(file) for file in args.runs]
    merged = merge(runs, args.arms)
    result = {
        "title": f"{' and '.join(merged.names)}, side by side",
        "settings": {"runs": [str(run.path) for run in runs], "differing": merged.settings},
        **evidence(merged.sources, merged.arms, merged.versus, labels=labels(merged.arms)),
        "other_queries": merged.other_queries,
        "documents": {key: title for run in runs for key, title in run.documents.items()},
        "versions": versions(),
    }
    write_json(output, result)
    print(f"{len(merged.sources)} sources that all runs share; {merged.other_queries} of them with different queries")
    for key, values in merged.settings.items():
        print(f"{key}: " + "; ".join(f"{value} in {name}" for name, value in values.items()))
    print(ablation_text(result))
    print(f"results are in {output}, the report in {write_ablation_page(result, output)}")


def labels(arms: list[str]) -> dict[str, str]:
    """Return in words what each run's arm does."""
    return {arm: ARMS[name].label for arm in arms if (name := arm.rpartition(": ")[2]) in ARMS}


if __name__ == "__main__":
    cli.run(main)
