"""Generate contrastive examples (query, pos, neg) from a corpus, labelled by a teacher.

    python contrastive_data_generator.py                              # the demo's corpus, the offline teacher
    python contrastive_data_generator.py --config my.yaml --num_examples 1000 --max_doc_candidates 5
    python contrastive_data_generator.py --test_fraction 0.2          # also train_data.jsonl and test_data.jsonl

A source document is sampled, the teacher extracts a bridge entity and a query from it, the diverse retriever finds
candidates, and the teacher judges them in order: usable ones become positives, unusable ones negatives.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time

from utils import cli, jsonl
from utils.config import DEFAULT_CONFIG, load_config
from utils.corpus import sources_of
from utils.examples import split_examples, write_split
from utils.generation import Journal, Outputs, Wanted, generate, summarize
from utils.retrieval import Lambdas, open_retrieval
from utils.teacher import open_teacher


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--config", "--config_path", default=DEFAULT_CONFIG, help="YAML configuration (default: the demo's)")
    add("--num_examples", type=cli.positive, default=100, help="examples wanted")
    add("--max_doc_candidates", type=cli.positive, default=10, help="candidates retrieved for each source")
    add("--min_length", type=int, default=300, help="characters that a source document has at least")
    cli.add_lambdas(parser)
    add(
        "--doc_ids_file",
        "--doc_ids",
        help="file of source ids, one a line, tried in order (default: sampled)",
    )
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
    add("--seed", type=int, help="decides which sources, in which order (default: the configuration's)")
    add("--concurrency", type=cli.positive, default=1, help="source documents in flight at a time")
    add("--max_attempts", type=cli.positive, help="sources to try at most (default: all)")
    add("--overwrite", action="store_true", help="replace files of an earlier run (default: refuse)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Generate examples and write them with their summary and provenance."""
    args = parse_args(argv)
    config = load_config(args.config)
    weights = Lambdas.of(args, config)
    seed = config.seed if args.seed is None else args.seed
    outputs = Outputs.choose(args.output_dir, args.output_file, args.output, args.test_fraction > 0, args.overwrite)
    cli.use_gpus(config.gpu_id)
    retriever = open_retrieval(config, weights)
    teacher = open_teacher(config, retriever.corpus)
    sources = sources_of(retriever.corpus, args.doc_ids_file, random.Random(seed), args.min_length)
    wanted = Wanted(args.num_examples, args.max_doc_candidates, args.num_pos, args.num_neg)
    settings = {
        "seed": seed,
        "min_length": args.min_length,
        "doc_ids_file": args.doc_ids_file,
        "max_doc_candidates": wanted.candidates,
        "num_pos": wanted.positives,
        "num_neg": wanted.negatives,
        **retriever.settings,
        **teacher.settings,
    }

    started = time.monotonic()
    journal = Journal(outputs.provenance, settings)
    limits = {"max_attempts": args.max_attempts, "concurrency": args.concurrency}
    stopped = asyncio.run(generate(sources, teacher, retriever, wanted, journal, **limits))
    labelled = journal.labelled(retriever.corpus)
    jsonl.write(outputs.examples, (one.example.row() for one in labelled))
    summary = summarize(journal, stopped, time.monotonic() - started)
    if args.test_fraction:
        split = split_examples(labelled, args.test_fraction, random.Random(seed))
        summary |= write_split(outputs.folder, split)
    jsonl.write_json(outputs.summary, {"settings": settings, "summary": summary})
    report(summary, outputs)


def report(summary: dict[str, object], outputs: Outputs) -> None:
    """Say what came out, where it is, and what to run next."""
    for key, value in summary.items():
        print(f"{key:>20}  {value}")
    print(f"examples are in {outputs.examples}, verdicts in {outputs.provenance}, the summary in {outputs.summary}")
    data = outputs.folder / "train_data.jsonl" if "train" in summary else outputs.examples
    print(f"next: python train_reranker.py --train_data {data} --output_dir ./output_new")


if __name__ == "__main__":
    cli.run(main)
