"""Distil a corpus's dense and BM25 rankings into an encoder: a base reranker to fine-tune, made without a label.

    python -m tools.distil_base --output_dir ../models/my-base --config my.yaml

Queries are random fragments of the corpus's sentences. For each, passages near the top of the dense and of the BM25
ranking get both rankings' scores as a target, which the encoder, under a fresh one-label head, learns to give.
"""

import argparse
import random
from pathlib import Path

import numpy as np

from utils import cli
from utils.config import DEFAULT_CONFIG, load_config
from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.files import new_output, write_jsonl
from utils.progress import log
from utils.retrieval.bm25 import BM25
from utils.retrieval.encoder import QUERY
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import Retriever, open_retrieval
from utils.schema import ContrastiveExample
from utils.teachers.words import sentences

NUM_QUERIES = 2500
GROUP = 6  # passages per query
DEPTH = 40  # of the rankings that they are drawn from
# The target's weight of cosine similarity and of BM25: both then spread about as much within a group.
COSINE, LEXICAL = 10.0, 0.4
WORDS = range(5, 15)  # of a fragment


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__.splitlines()[0], parents=(cli.model_flags(),))
    add = parser.add_argument
    add("--config", "--config_path", default=DEFAULT_CONFIG, help="YAML configuration (default: the demo's)")
    add("--output_dir", required=True, help="folder for the reranker")
    add("--num_queries", type=cli.positive, default=NUM_QUERIES, help=f"fragments to learn from, {GROUP} pairs each")
    add("--bm25_weight", type=cli.fraction, default=LEXICAL, help=f"of BM25 in the target, beside {COSINE:g} × cosine")
    add("--seed", type=int, help="seed of the fragments and the training (default: the configuration's)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Make the targets and train on them."""
    args = parse_args(argv)
    config = load_config(args.config).override(seed=args.seed)
    cli.use_gpus(config.gpu_id)
    with new_output(args.output_dir, "--output_dir") as output:
        retriever = open_retrieval(config, Corpus(config.corpus), Lambdas(1, 0, 0))
        distil(retriever, output, config.seed, args.num_queries, args.bm25_weight)
    print(f"base reranker: {output}")
    print(f"next: python train_reranker.py --model_path {output}")


def distil(
    retriever: Retriever, output: Path, seed: int, num_queries: int = NUM_QUERIES, bm25_weight: float = LEXICAL
) -> None:
    """Train the retriever's encoder, under a fresh head, on the targets of ``num_queries`` fragments.

    The targets are kept beside ``output``; InputError if the corpus has too few sentences.
    """
    from utils.training.job import prepare
    from utils.training.run import run
    from utils.training.settings import TrainingSettings

    log.info(
        "distilling %s: %s under a fresh head learns to rank %d fragments of the corpus as it does itself, with BM25",
        output.name, retriever.encoder.path.name, num_queries,
    )  # fmt: skip
    rows = target_rows(retriever, num_queries, bm25_weight, random.Random(seed))
    data = output.with_name(f"{output.name}-targets.jsonl")
    write_jsonl(data, (row.row() for row in rows))
    unfinished = output.with_name(f".{output.name}.tmp") / output.name  # the model card has the last name
    # Longer pairs than the encoder was trained at are ranked worse: 128 tokens in all.
    settings = TrainingSettings(
        model_path=str(retriever.encoder.path), train_data=[str(data)], output_dir=str(unfinished), epochs=1,
        batch_size=16, train_group_size=GROUP, learning_rate=1.5e-4, query_max_len=32, passage_max_len=96,
        knowledge_distillation=True, soft_labels_only=True, freeze_embeddings=True, dropout=0.0, eval_fraction=0,
        save_steps=0, report_to="none", seed=seed, overwrite_output_dir=True,
    )  # fmt: skip
    run(prepare(settings))
    unfinished.replace(output)
    unfinished.parent.rmdir()


def fragments(corpus: Corpus, count: int, rng: random.Random) -> list[str]:
    """Return ``count`` fragments of 5 to 14 words from sentences of random documents.

    Raises:
        InputError: hardly any document has a sentence that long.
    """
    found: list[str] = []
    for _ in range(20 * count):
        parts = sentences(corpus[rng.randrange(len(corpus))].contents)
        if long := [words for sentence in parts if len(words := sentence.split()) >= WORDS[0]]:
            words, length = rng.choice(long), rng.choice(WORDS)
            start = rng.randrange(max(1, len(words) - length + 1))
            found.append(" ".join(words[start : start + length]))
            if len(found) == count:
                return found
    raise InputError(f"{corpus.path} has too few sentences of {WORDS[0]} words or more to learn from")


def target_rows(
    retriever: Retriever, num_queries: int, bm25_weight: float, rng: random.Random
) -> list[ContrastiveExample]:
    """Return the group of each query with its targets, the passage with the highest one as the positive.

    Half of a group comes from the dense ranking's first ``DEPTH`` passages, half from BM25's.
    """
    corpus = retriever.corpus
    queries = fragments(corpus, num_queries, rng)
    lexical = BM25([document.text for document in corpus])
    vectors = retriever.encoder.encode(queries, QUERY)
    _, dense = retriever.index.search(vectors, DEPTH)
    _, sparse = lexical.search(queries, DEPTH)
    rows = []
    for query, vector, near, matching in zip(queries, vectors, dense, sparse, strict=True):
        drawn = [*_sample(near, rng), *_sample(matching, rng)]
        group = list(dict.fromkeys([*drawn, *rng.sample(range(len(corpus)), min(GROUP, len(corpus)))]))[:GROUP]
        similarity = retriever.index.vectors(group) @ vector
        targets = COSINE * similarity + bm25_weight * lexical.scores(query)[group]
        order = np.argsort(-targets, kind="stable").tolist()
        texts, scores = [corpus[group[i]].text for i in order], targets[order].tolist()
        rows.append(ContrastiveExample(query, texts[:1], texts[1:], scores[:1], scores[1:]))
    return rows


def _sample(rows: np.ndarray, rng: random.Random) -> list[int]:
    found = rows[rows >= 0].tolist()  # approximate indexes fill up with -1
    return rng.sample(found, min(GROUP // 2, len(found)))


if __name__ == "__main__":
    cli.run(main)
