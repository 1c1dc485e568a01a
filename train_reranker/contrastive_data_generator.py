"""Generate contrastive examples (query, pos, neg) from a corpus, labelled by a teacher.

    python contrastive_data_generator.py                              # the demo's corpus, the offline teacher
    python contrastive_data_generator.py --config my.yaml --num_examples 1000 --max_doc_candidates 5
    python contrastive_data_generator.py --test_fraction 0.2          # also train_data.jsonl and test_data.jsonl

A source document is sampled, the teacher extracts a bridge entity and a query from it, the diverse retriever finds
candidates, and the teacher judges them in order: usable ones become positives, unusable ones negatives.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path

from utils import cli
from utils.config import load_config
from utils.corpus.documents import Corpus
from utils.corpus.sources import count_sources, ids_fingerprint, sources_of
from utils.data.split import split_examples, write_split
from utils.errors import RunError
from utils.files import write_json, write_jsonl
from utils.labelling.generation import Journal, Outputs, Plan, Stop, Target, explain_none, generate, summarize
from utils.progress import log
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import open_retrieval
from utils.schema import Document
from utils.teachers.context_window import count_windows
from utils.teachers.ledger import Ledger
from utils.teachers.registry import OFFLINE, open_teacher


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__.splitlines()[0], parents=(cli.labelling_flags(),))
    add = parser.add_argument
    add("--num_examples", type=cli.positive, default=100, help="examples wanted")
    add("--max_doc_candidates", type=cli.positive, default=10, help="candidates retrieved for each source")
    add("--output_dir", default="./data", help="folder that all files go to")
    add("--output_file", help="the examples' file name (default: contrastive_examples_<time>.jsonl)")
    add("--output", help="the summary's file name (default: the examples', ending in .summary.json)")
    add("--num_pos", type=cli.positive, default=1, help="positives after which, with --num_neg, judging stops")
    add("--num_neg", type=cli.positive, default=1, help="negatives after which, with --num_pos, judging stops")
    add(
        "--test_fraction",
        type=cli.fraction,
        default=0.0,
        help="share of examples held out in test_data.jsonl",
    )
    add("--max_attempts", type=cli.positive, help="sources to try at most (default: all)")
    add("--dry_run", action="store_true", help="print how many calls to expect, and make none (default: run)")
    add("--overwrite", action="store_true", help="replace files of an earlier run (default: refuse)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Generate examples and write them with their summary and provenance."""
    args = parse_args(argv)
    config = load_config(args.config)
    weights = Lambdas.from_config(config)
    seed = config.seed if args.seed is None else args.seed
    wanted = Target(args.num_examples, args.max_doc_candidates, args.num_pos, args.num_neg)
    outputs = Outputs.choose(args.output_dir, args.output_file, args.output, args.test_fraction > 0, args.overwrite)
    cli.use_gpus(config.gpu_id)
    corpus = Corpus(config.corpus)

    def sources() -> Iterator[Document]:
        return sources_of(corpus, args.doc_ids, random.Random(seed), args.min_length)

    available = count_sources(corpus, args.doc_ids, args.min_length)
    windows = count_windows(corpus.longest, config.max_document_tokens, config.max_document_windows)
    plan = Plan(wanted, available, args.max_attempts, args.max_llm_calls, windows)
    if args.dry_run:
        print(plan)
        return
    with outputs.held():
        ledger = Ledger(args.max_llm_calls, args.max_cost)
        cache = Path(args.reply_cache or outputs.folder / "replies.sqlite")
        teacher = open_teacher(config, corpus, cache, ledger, seed)
        retriever = open_retrieval(config, corpus, weights)
        settings = {
            "seed": seed,
            "min_length": args.min_length,
            "doc_ids": args.doc_ids and ids_fingerprint(args.doc_ids),
            "max_doc_candidates": wanted.candidates,
            "num_pos": wanted.positives,
            "num_neg": wanted.negatives,
            "test_fraction": args.test_fraction,
            **retriever.settings,
            **teacher.settings,
        }
        if args.overwrite:
            outputs.summary.unlink(missing_ok=True)  # which says that the run is finished
        journal = Journal(outputs.provenance, settings, args.overwrite)
        if config.generator_model != OFFLINE:
            log.info("%s", plan)

        started = time.monotonic()
        work = generate(
            sources,
            teacher,
            retriever,
            wanted,
            journal,
            max_attempts=args.max_attempts,
            concurrency=args.concurrency,
            give_up_after=args.give_up_after,
        )
        stop, failure = None, None
        try:
            stop = cli.run_async(work)
        except RunError as error:  # what there is so far is written all the same
            stop, failure = Stop(str(error), finished=False), error
        labelled = journal.labelled(corpus)
        write_jsonl(outputs.examples, (one.example.row() for one in labelled))
        summary = summarize(journal, stop, time.monotonic() - started, ledger)
        if args.test_fraction and stop.finished and labelled:
            split = split_examples(labelled, args.test_fraction, random.Random(seed))
            if len(split.test) < 0.9 * split.wanted:
                log.warning(
                    "%d of %d wanted test examples: more would cost too many others, which share sources, entities or "
                    "passages with them; generate more examples, or name other test data (--eval_data when training)",
                    len(split.test), split.wanted,
                )  # fmt: skip
            summary |= write_split(outputs.folder, split)
        write_json(outputs.summary, {"settings": settings, "summary": summary})
    if journal.rows or not failure:
        report(summary, outputs, bool(labelled))
    if stop.finished and not labelled:
        failure = RunError(f"{explain_none(journal.rows)} ({stop.reason})")
    if failure:
        raise failure


def report(summary: dict[str, object], outputs: Outputs, any_examples: bool) -> None:
    """Say what came out, where it is, and what to run next."""
    for key, value in summary.items():
        print(f"{key:>21}  {value}")
    print(f"examples are in {outputs.examples}, verdicts in {outputs.provenance}, the summary in {outputs.summary}")
    if not summary["finished"]:
        print(f"to go on: {cli.command_line()}")
    elif any_examples:
        data = outputs.folder / "train_data.jsonl" if "train" in summary else outputs.examples
        print(f"next: python train_reranker.py --train_data {data} --output_dir ./output_new")


if __name__ == "__main__":
    cli.run(main)
