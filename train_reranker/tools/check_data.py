"""Check rows of query, pos and neg before they are trained or tested on: everything that is wrong, with file and line.

    python -m tools.check_data ./data/train_data.jsonl ./data/test_data.jsonl --output_file ./checks.json
    python -m tools.check_data ./data/train_data.jsonl ./data/test_data.jsonl --fix ./data/clean.jsonl
    python -m tools.check_data ./triplets.parquet --from triplets --fix ./data/train_data.jsonl

Each argument is a data set: a file, or a folder of files, in JSON Lines, JSON, TSV, CSV (also as .gz or .zst) or
Parquet, a folder that `datasets` saved, or a BEIR folder. What several of them share is a leak. Exit code 2 tells that
there are rows that cannot be trained on.
"""

import argparse
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from utils import cli
from utils.data.audit import Gathered
from utils.data.cleaning import LEFT_OUT, cleaned
from utils.data.figures import figures, token_figures
from utils.data.findings import Analysis, Finding
from utils.data.shapes import SHAPES
from utils.errors import EXIT_UNUSABLE_INPUT
from utils.files import check_output, find_input, new_output, write_json, write_jsonl
from utils.models.folders import find_model
from utils.progress import log
from utils.report.text import listed


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("data", nargs="+", metavar="FILE", help="data sets, each a file or folder")
    add("--from", dest="shape", choices=SHAPES, help="what the rows are; triplets with columns of other names than "
        "anchor, positive and negative are taken by their order (default: recognised)")  # fmt: skip
    add("--num_negatives", type=cli.positive, default=3, help="negatives that a row should have: a group's")
    add("--exact", action="store_true", help="do not look for near-duplicates, which takes most of the time")
    add("--model_path", help="model whose tokens are counted (default: characters are)")
    longest = "longest query in tokens, as in training (default: as the model was trained, else 512)"
    add("--query_max_len", type=cli.positive, help=longest)
    longest = "longest passage in tokens, as in training (default: as the model was trained, else what is left)"
    add("--passage_max_len", type=cli.positive, help=longest)
    add("--output_file", help="JSON file of all findings with all lines; replaced if it exists (default: none)")
    add("--fix", metavar="OUT", help="new file for the first data set without what can be left out (default: none)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Gather, report all findings and figures, and write what is asked for."""
    args = parse_args(argv)
    output = check_output(args.output_file) if args.output_file else None
    model = find_model(args.model_path) if args.model_path else None
    paths = [find_input(path, "data", "name a file or folder of query/pos/neg rows") for path in args.data]
    with ExitStack() as held:
        fixed = held.enter_context(new_output(args.fix, "--fix")) if args.fix else None
        gathered = Gathered(log.warning, near=not args.exact)
        for path in paths:
            gathered.read(path, args.shape)
        analysis = Analysis(gathered, args.num_negatives)
        findings = list(analysis.findings())
        known = figures(gathered)
        if model and gathered.sample:
            known |= token_figures(gathered.sample, model, args.query_max_len, args.passage_max_len)
        report(findings, known)
        if output:
            write_json(output, {"data": args.data, "findings": [one.as_json() for one in findings], "figures": known})
            print(f"all lines are in {output}")
        if fixed:
            fix(paths[0], fixed, analysis, args.shape)
    return EXIT_UNUSABLE_INPUT if any(one.fatal for one in findings) else 0


def report(findings: list[Finding], known: dict[str, Any]) -> None:
    """Print the figures, and a line for each kind of fault."""
    for name, value in known.items():
        print(f"{name}: {shown(value)}")
    for one in findings:
        print(f"{'UNUSABLE' if one.fatal else 'found'}: {one}")
    if not findings:
        print("nothing is wrong")


def shown(value: Any) -> str:
    """Return a figure as text, or rows by their place and length."""
    if isinstance(value, list):
        return "; ".join(f"{one['place']} ({one['characters']:,} characters)" for one in value)
    return listed(value)


def fix(path: Path, output: Path, analysis: Analysis, shape: str | None) -> None:
    """Write the first data set without what is wrong with it, and print what that leaves out."""
    changes: Counter[str] = Counter()
    write_jsonl(output, cleaned(path, analysis, shape, changes))
    left_out = ", ".join(f"{changes[what]:,} {what}" for what in LEFT_OUT if changes[what])
    print(f"{output} is {path} without {left_out or 'anything: nothing had to be left out'}")


if __name__ == "__main__":
    cli.run(main)
