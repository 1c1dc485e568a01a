"""Give rows of query, pos and neg the hard negatives that they lack, and find the false ones among all negatives.

    python -m tools.mine_negatives --config my.yaml --num_negatives 7 --range_max 50 --output_file ./data/mined.jsonl
    python -m tools.mine_negatives --config my.yaml --judge margin --relative_margin 0.05 --output_file ./mined.jsonl

Candidates come from the configuration's corpus and index, and are scored by its reranker. The teacher, or without one
the margin, then finds false negatives: certain ones become positives, likely ones are dropped. What was decided about
which passage, and why, goes to a file beside the output. Replies are kept, so that none is paid for twice.
"""

import argparse
from collections import Counter
from contextlib import aclosing
from pathlib import Path

from utils import cli
from utils.config import DEFAULT_CONFIG, Config, load_config
from utils.corpus.documents import Corpus
from utils.data.mining import Margin, Window, mine, with_mined
from utils.data.relabelling import (
    CALLS_PER_ROW,
    Finding,
    Steps,
    by_margin,
    by_teacher,
    corrected,
    provenance,
    suspects_of,
)
from utils.data.rows import read_examples
from utils.data.scores import score_rows
from utils.errors import BudgetSpent, InputError
from utils.files import new_output, write_jsonl
from utils.labelling.outputs import Outputs
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import open_retrieval
from utils.schema import ContrastiveExample
from utils.scoring import CachedScorer, open_reranker, reranker_options
from utils.teachers.ledger import Ledger
from utils.teachers.registry import open_teacher

TEACHER, MARGIN = JUDGES = "teacher", "margin"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__.splitlines()[0], parents=(cli.model_flags(), cli.budget_flags()))
    add = parser.add_argument
    add("--config", "--config_path", default=DEFAULT_CONFIG, help="YAML configuration (default: the demo's)")
    add("--train_data", nargs="+", default=["./data/train_data.jsonl"], metavar="PATH",
        help="files of rows in any format, or folders (default: ./data/train_data.jsonl)")  # fmt: skip
    add("--output_file", required=True, help="file to write; .provenance.jsonl is written beside it")
    add("--num_negatives", type=cli.positive, default=3, help="negatives that each row shall have")
    add("--range_min", type=int, default=0, help="best ranks to skip")
    add("--range_max", type=cli.positive, default=50, help="nearest passages that the reranker scores")
    for name, meaning in (("absolute", "this far"), ("relative", "this share of the positive's score")):
        add(f"--{name}_margin", type=float, help=f"stay {meaning} below the lowest positive (default: no limit)")
    add("--max_score", type=float, help="reranker's highest score of a negative (default: no limit)")
    add("--judge", choices=JUDGES, default=TEACHER, help="what finds false negatives")
    add("--no_relabel", action="store_true", help="do not make positives of certain ones (default: do)")
    add("--no_drop", action="store_true", help="do not drop likely ones (default: do)")
    add("--calls_per_row", type=float, default=CALLS_PER_ROW, help="most questions to the teacher, per row on average")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Mine, find false negatives, and write the rows and what was decided."""
    args = parse_args(argv)
    margin = Margin(args.absolute_margin, args.relative_margin, args.max_score)
    if args.judge == MARGIN and margin == Margin():
        raise InputError("--judge margin needs --absolute_margin, --relative_margin or --max_score")
    output = Path(args.output_file)
    beside = Outputs.named(output.parent, output.name).provenance
    with new_output(output), new_output(beside):
        mine_rows(args, margin, output, beside)
    print(f"next: python train_reranker.py --train_data {output}")


def mine_rows(args: argparse.Namespace, margin: Margin, output: Path, beside: Path) -> None:
    """Write the rows with mined negatives and without false ones, and beside them what was decided."""
    config = load_config(args.config)
    cli.use_gpus(config.gpu_id)
    given = read_examples(args.train_data)
    corpus = Corpus(config.corpus)
    scorer = CachedScorer(open_reranker(config.reranker_path, reranker_options(config)))
    window = Window(args.num_negatives, args.range_min, args.range_max, margin)
    mined = mine(given, open_retrieval(config, corpus, Lambdas(1, 0, 0)), scorer, window)
    rows = score_rows(with_mined(given, mined), scorer, "passages scored")
    findings, asked = find(args, rows, margin, config, corpus)
    written = [row._replace(pos_scores=None, neg_scores=None) for row in corrected(rows, findings)]
    write_jsonl(output, (row.row() for row in written))
    write_jsonl(beside, provenance(rows, mined, findings), private=True)  # it holds replies
    counts = Counter(one.decision for one in findings).most_common()
    judged = ", ".join(f"{decision} {count}" for decision, count in counts)
    print(f"{len(rows)} rows: {len(mined)} negatives mined; judged: {judged or 'none'}; {asked} questions")
    print(f"rows are in {output}, decisions in {beside}")


def find(
    args: argparse.Namespace, rows: list[ContrastiveExample], margin: Margin, config: Config, corpus: Corpus
) -> tuple[list[Finding], int]:
    """Return what is found out about the rows' negatives, and with how many questions."""
    suspects, steps = suspects_of(rows), Steps(not args.no_relabel, not args.no_drop)
    if args.judge == MARGIN:
        return by_margin(suspects, margin, steps), 0
    ledger = Ledger(args.max_llm_calls, args.max_cost)
    teacher = open_teacher(config, corpus, Path(args.reply_cache or "./data/replies.sqlite"), ledger, config.seed)

    async def ask() -> tuple[list[Finding], int]:
        async with aclosing(teacher):
            return await by_teacher(rows, suspects, teacher, args.calls_per_row * len(rows), steps)

    try:
        return cli.run_async(ask())
    except BudgetSpent as limit:
        raise BudgetSpent(f"{limit}. To resume: {cli.command_line()}") from None


if __name__ == "__main__":
    cli.run(main)
