"""Write a reranker's scores into rows of query, pos and neg: soft labels to distil from.

    python -m tools.score_examples --model_path ../models/bge-reranker-v2-m3 --output_file ./data/scored.jsonl
    python train_reranker.py --train_data ./data/scored.jsonl --knowledge_distillation

The teacher may be any reranker's folder, also of another architecture than the student.
"""

import argparse

from utils import cli
from utils.data.rows import read_examples
from utils.data.scores import score_rows
from utils.files import new_output, write_jsonl
from utils.scoring import open_reranker


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__.splitlines()[0], parents=(cli.model_flags(),))
    add = parser.add_argument
    add("--train_data", nargs="+", default=["./data/train_data.jsonl"], metavar="PATH",
        help="files of rows in any format, or folders (default: ./data/train_data.jsonl)")  # fmt: skip
    add("--model_path", default="./models/bge-reranker-v2-m3", help="folder of the reranker that scores")
    add("--output_file", required=True, help="file to write: the rows with pos_scores and neg_scores")
    add("--max_length", type=cli.positive, help="longest pair in tokens (default: what the reranker was trained at)")
    add("--batch_size", type=cli.positive, default=16, help="pairs of --max_length that fit into memory at once")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Score all passages of the rows and write them to a new file."""
    args = parse_args(argv)
    with new_output(args.output_file) as output:
        rows = read_examples(args.train_data)
        reranker = open_reranker(args.model_path, max_length=args.max_length, batch_size=args.batch_size)
        scored = score_rows(rows, reranker, "passages scored")
        write_jsonl(output, (row.row() for row in scored))
    agree = sum(min(row.pos_scores or [0]) > max(row.neg_scores or [0]) for row in scored if row.neg)
    print(f"wrote {len(scored)} rows to {output}; {reranker.path.name} ranks every positive first in {agree} of them")
    print(f"next: python train_reranker.py --train_data {output} --knowledge_distillation")


if __name__ == "__main__":
    cli.run(main)
