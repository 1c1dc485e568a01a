"""Write a seeded sample of a corpus's document ids to a file for --doc_ids.

python -m tools.sample_doc_ids --num 50 --output ./sampled_doc_ids.txt
"""

import argparse
import random
from itertools import islice
from pathlib import Path

from utils import cli
from utils.config import DEFAULT_CONFIG, load_config
from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.files import locked, replacing


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--config", "--config_path", default=DEFAULT_CONFIG, help="YAML configuration (default: the demo's)")
    add("--num", type=cli.positive, default=50, help="number of ids")
    add("--min_length", type=int, default=300, help="shortest document, in characters")
    add("--output", default="./sampled_doc_ids.txt", help="file to write, one id per line")
    add("--seed", type=int, help="seed of the sample (default: the configuration's)")
    add("--overwrite", action="store_true", help="replace an existing file (default: refuse)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Sample the ids and write them."""
    args = parse_args(argv)
    output = Path(args.output)
    with locked(output):
        if output.exists() and not args.overwrite:
            raise InputError(f"{output} already exists: choose another --output, or add --overwrite")
        config = load_config(args.config).override(seed=args.seed)
        sample = Corpus(config.corpus).sample(random.Random(config.seed), args.min_length)
        ids = [document.id for document in islice(sample, args.num)]
        if not ids:
            raise InputError(f"{config.corpus} has no document of {args.min_length} characters: lower --min_length")
        with replacing(output) as out:
            out.writelines(f"{document_id}\n" for document_id in ids)
    print(f"wrote {len(ids)} document ids to {output}")
    print(f"next: python rerank_ablation_test.py --doc_ids {output}")


if __name__ == "__main__":
    cli.run(main)
