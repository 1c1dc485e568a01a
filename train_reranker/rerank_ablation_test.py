"""Compare retrieval arms on the same sources and entities: success rate, and candidates judged until a usable one.

    python rerank_ablation_test.py --num 50 --ft_model ./output_new --exclude_data ./data/train_data.jsonl
    python rerank_ablation_test.py --config my.yaml --single diverse --doc_ids ./sampled_doc_ids.txt

The five arms are the nearest documents (standard), the MMR-diverse ones (diverse), and both sorted by a base reranker
(zs, diverse_zs) or by the fine-tuned one (diverse_ft). All arms see the same sources, entities and queries, and a
candidate is judged once for a source, whichever arms retrieve it.
"""

from __future__ import annotations

import argparse
import random
from datetime import datetime
from pathlib import Path

from utils import cli, jsonl
from utils.ablation import ArmResult, Contest, Excluded, compare_arms, summarize, to_json
from utils.config import DEFAULT_CONFIG, load_config
from utils.corpus import Corpus, sources_of
from utils.ledger import Ledger
from utils.report import percent, table
from utils.retrieval import ARMS, Lambdas, open_retrieval
from utils.teachers import open_teacher


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--config", "--config_path", default=DEFAULT_CONFIG, help="YAML configuration (default: the demo's)")
    add("--num", type=cli.positive, default=50, help="sources with a bridge entity to compare on")
    add("--candidates", type=cli.positive, default=10, help="candidates that an arm retrieves")
    add("--min_length", type=int, default=300, help="characters that a source document has at least")
    add(
        "--doc_ids",
        "--doc_ids_file",
        help="file of source ids, one a line, tried in order (default: sampled)",
    )
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
    cli.add_lambdas(parser)
    add("--seed", type=int, help="decides which sources, in which order (default: the configuration's)")
    cli.add_teacher_flags(parser, cache="./data/replies.sqlite, the generator's")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the arms, print and write what they needed."""
    args = parse_args(argv)
    config = load_config(args.config)
    weights = Lambdas.of(args, config)
    excluded = Excluded.read(args.exclude_data)
    seed = config.seed if args.seed is None else args.seed
    cli.use_gpus(config.gpu_id)
    contest = Contest.open(config, args.single, args.ft_model)
    corpus = Corpus(config.corpus)
    sources = sources_of(corpus, args.doc_ids, random.Random(seed), args.min_length)
    ledger = Ledger(args.max_llm_calls, args.max_cost)
    teacher = open_teacher(config, corpus, Path(args.reply_cache or "./data/replies.sqlite"), ledger)
    retriever = open_retrieval(config, corpus, weights, contest.rerankers)

    results = cli.run_to_end(
        compare_arms(
            contest.arms,
            sources,
            teacher,
            retriever,
            num=args.num,
            candidates=args.candidates,
            concurrency=args.concurrency,
            excluded=excluded,
        )
    )
    summary = summarize(results, contest.arms)
    settings = {
        **vars(args),
        "config": str(args.config),
        "seed": seed,
        **retriever.settings,
        **teacher.settings,
    }
    output = Path(args.output_file or f"./ablation_results/ablation_{datetime.now():%Y%m%d_%H%M%S}.json")
    jsonl.write_json(output, to_json(settings, summary, contest.left_out, results) | {"ledger": ledger.summary()})
    report(summary, contest.left_out, output)


def report(summary: list[ArmResult], left_out: dict[str, str], output: Path) -> None:
    """Print the table, the arms that were left out with the reason, and where the results are."""
    sources = summary[0].sources
    rows = [
        [r.arm, ARMS[r.arm].label, percent(r.success_rate), r.mean_attempts, r.mean_judged, r.errors] for r in summary
    ]
    rows += [[arm, f"left out: {reason}"] for arm, reason in left_out.items()]
    headers = ["arm", "what it returns", "success rate", "mean attempts", "judged a source", "errors"]
    print(f"{sources} sources, the same for every arm")
    print(table(rows, headers))
    print("attempts: candidates judged until the first usable one, over the sources that have one")
    print(f"results are in {output}")


if __name__ == "__main__":
    cli.run(main)
