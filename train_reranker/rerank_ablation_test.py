"""Compare retrieval arms on the same sources and entities: success rate, and candidates judged until a usable one.

    python rerank_ablation_test.py --num 50 --ft_model ./output_new --exclude_data ./data/train_data.jsonl
    python rerank_ablation_test.py --config my.yaml --single diverse --doc_ids ./sampled_doc_ids.txt
    python rerank_ablation_test.py --num 200 --sweep_lambdas --sweep_pool_factor 1 2 4

The five arms are the nearest documents (standard), the MMR-diverse ones (diverse), and both sorted by a base reranker
(zs, diverse_zs) or by the fine-tuned one (diverse_ft). All arms see the same sources, entities and queries, and a
candidate is judged once for a source, whichever arms retrieve it. The other arms are then compared with --baseline,
source by source; beside the JSON file come a report to look at (HTML) and its plots (PNG, SVG).
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from contextlib import aclosing
from datetime import datetime
from pathlib import Path

from utils import cli
from utils.config import load_config
from utils.corpus.documents import Corpus
from utils.corpus.sources import sources_of
from utils.errors import RunError
from utils.evaluation.ablation_results import RunContext, ablation_result, titles
from utils.files import check_output, write_json
from utils.labelling.ablation import ArmSet, Excluded, compare_arms
from utils.labelling.record import JudgedSource
from utils.labelling.sweep import Setting, Sweep, settings_to_try, sweep, triple
from utils.report.page import write_ablation_page
from utils.report.text import ablation_text
from utils.retrieval.arms import ARMS
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import Retriever, open_retrieval
from utils.schema import Document
from utils.teachers.base import Teacher
from utils.teachers.ledger import Ledger
from utils.teachers.registry import open_teacher


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__.splitlines()[0], parents=(cli.labelling_flags(),))
    add = parser.add_argument
    add("--num", type=cli.positive, default=50, help="sources with a bridge entity to compare on")
    add("--candidates", type=cli.positive, default=10, help="candidates that an arm retrieves")
    add(
        "--exclude_data",
        nargs="+",
        default=[],
        metavar="FILE",
        help="training or provenance files whose sources are left out (default: none)",
    )
    add("--single", choices=list(ARMS), help="run one arm only (default: all)")
    add("--output_file", help="where the results go (default: ./ablation_results/ablation_<time>.json)")
    add("--ft_model", default="./output_new", help="the fine-tuned reranker's folder")
    add("--baseline", choices=list(ARMS), default="diverse", help="the arm that the others are compared with")
    add(
        "--sweep_lambdas",
        nargs="*",
        type=triple,
        metavar="λ1,λ2,λ3",
        help="also try these weights on the judged sources; without any, a grid of 16 (default: no sweep)",
    )
    add(
        "--sweep_pool_factor",
        nargs="+",
        type=cli.positive,
        metavar="N",
        help="also try reranking this many times the candidates (default: no sweep)",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the arms, then print and write what they needed and what that shows."""
    args = parse_args(argv)
    config = load_config(args.config)
    weights = Lambdas.from_config(config)
    excluded = Excluded.read(args.exclude_data)
    seed = config.seed if args.seed is None else args.seed
    name = args.output_file or f"./ablation_results/ablation_{datetime.now():%Y%m%d_%H%M%S}.json"
    output = check_output(name)
    cli.use_gpus(config.gpu_id)
    contest = ArmSet.open(config, args.single, args.ft_model)
    own = (weights, config.rerank_pool_factor)
    settings = settings_to_try(contest.arms, own, args.sweep_lambdas, args.sweep_pool_factor)
    corpus = Corpus(config.corpus)
    sources = sources_of(corpus, args.doc_ids, random.Random(seed), args.min_length)
    ledger = Ledger(args.max_llm_calls, args.max_cost)
    teacher = open_teacher(config, corpus, Path(args.reply_cache or "./data/replies.sqlite"), ledger, seed)
    retriever = open_retrieval(config, corpus, weights, contest.rerankers)

    results, swept = cli.run_async(observe(args, contest.arms, sources, teacher, retriever, excluded, settings))
    run = {"config": str(args.config), "seed": seed, **retriever.settings, **teacher.settings}
    context = RunContext(
        settings=vars(args) | run,
        documents=titles(results, corpus),
        left_out=contest.left_out,
        latency_ms=retriever.latency(contest.arms, args.candidates),
        ledger=ledger,
    )
    result = ablation_result(results, contest.arms, args.baseline, budget=args.candidates, context=context, sweep=swept)
    completed = any(arm.sources for arm in result.table)
    if not completed and output.exists():  # which may hold a result
        output = output.with_name(f"{output.stem}_failed.json")
    write_json(output, result.to_json())
    print(ablation_text(result))
    print(f"results are in {output}, the report in {write_ablation_page(result, output)}")
    if not completed:
        complaint = next((source.complaint for source in reversed(results) if source.complaint), "there were none")
        raise RunError(f"no arm completed on any of {len(results)} sources (the last: {complaint})")


async def observe(
    args: argparse.Namespace,
    arms: list[str],
    sources: Iterator[Document],
    teacher: Teacher,
    retriever: Retriever,
    excluded: Excluded,
    settings: list[Setting],
) -> tuple[list[JudgedSource], Sweep]:
    """Try all arms, then the sweep's settings on the same sources, and close the teacher."""
    bounds = {"candidates": args.candidates, "concurrency": args.concurrency}
    limits = {"num": args.num, "give_up_after": args.give_up_after, **bounds}
    async with aclosing(teacher):
        results = await compare_arms(arms, sources, teacher, retriever, excluded=excluded, **limits)
        return results, await sweep(settings, results, teacher, retriever, **bounds)


if __name__ == "__main__":
    cli.run(main)
