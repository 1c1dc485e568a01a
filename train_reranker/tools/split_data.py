"""Split rows of query, pos and neg into training and test data that share no query and no passage.

    python -m tools.split_data ./rows.jsonl --test_fraction 0.2 --output_dir ./my_data
    python -m tools.split_data ./triplets.parquet ./more.csv --output_dir ./my_data

It reads what the training reads, splits as the generator does with --test_fraction, and writes train_data.jsonl,
test_data.jsonl and the first ten rows of the latter. A passage of both sides stays on one; the test's queries are
those with few links to others.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path

from utils import cli
from utils.data.rows import pools_of_rows, read_examples
from utils.data.split import SPLIT_FILES, labelled_by_query, split_examples, split_files, too_few
from utils.errors import InputError
from utils.files import new_output, replacing
from utils.progress import log
from utils.report.text import listed


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("data", nargs="+", metavar="PATH", help="files of rows in any format, or folders")
    add("--test_fraction", type=cli.fraction, default=0.2, help="share of the rows held out in test_data.jsonl")
    add("--output_dir", required=True, help="folder of the files to write")
    add("--seed", type=int, default=42, help="seed of which rows are held out")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Read the rows, split them, and say what that cost."""
    args = parse_args(argv)
    folder = Path(args.output_dir)
    with ExitStack() as held:
        paths = [held.enter_context(new_output(folder / name, "--output_dir")) for name in SPLIT_FILES]
        split = split_examples(labelled_by_query(read_examples(args.data, drop=False)), args.test_fraction, args.seed)
        if not split.test:
            raise InputError(
                f"{', '.join(args.data)}: nothing can be held out: {split.shortfall or '--test_fraction is 0'}"
            )
        for path, text in zip(paths, split_files(split).values(), strict=True):
            with replacing(path) as out:
                out.write(text)
    queries = len(pools_of_rows(split.test))
    print(f"{listed(split.counts)}; {queries} queries to test on")
    for warning in filter(None, (too_few(queries), split.shortfall)):
        log.warning("%s", warning)
    print(f"training data are in {paths[0]}, test data in {paths[1]}")
    command = f"python train_reranker.py --train_data {paths[0]} --output_dir ./output_{folder.resolve().name}"
    print(f"next: {command}  # and --model_path for your base")


if __name__ == "__main__":
    cli.run(main)
