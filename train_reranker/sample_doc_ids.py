"""Sample document ids of a corpus, seeded, into a file for --doc_ids.

python sample_doc_ids.py --num 50 --output ./sampled_doc_ids.txt
"""

from __future__ import annotations

import argparse
import random
from itertools import islice
from pathlib import Path

from utils import cli
from utils.config import DEFAULT_CONFIG, load_config
from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.files import replacing


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--config", "--config_path", default=DEFAULT_CONFIG, help="YAML configuration (default: the demo's)")
    add("--num", type=cli.positive, default=50, help="ids wanted")
    add("--min_length", type=int, default=300, help="characters that a document has at least")
    add("--output", default="./sampled_doc_ids.txt", help="file to write, one id a line")
    add("--seed", type=int, help="decides which (default: the configuration's)")
    add("--overwrite", action="store_true", help="replace the file if it is there (default: refuse)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Sample ids and write them."""
    args = parse_args(argv)
    output = Path(args.output)
    if output.exists() and not args.overwrite:
        raise InputError(f"{output} is there already: name another --output, or give --overwrite")
    config = load_config(args.config)
    corpus = Corpus(config.corpus)
    rng = random.Random(config.seed if args.seed is None else args.seed)
    ids = [document.id for document in islice(corpus.sample(rng, args.min_length), args.num)]
    if not ids:
        raise InputError(f"{config.corpus} has no document of {args.min_length} characters: lower --min_length")
    with replacing(output) as out:
        out.writelines(f"{document_id}\n" for document_id in ids)
    print(f"{len(ids)} document ids are in {output}")
    print(f"next: python rerank_ablation_test.py --doc_ids {output}")


if __name__ == "__main__":
    cli.run(main)
