"""What rerankers are tested on, and its orders before reranking: a retriever's or a run's, BM25's, and both fused."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from utils.config import Config, load_config
from utils.corpus.documents import Corpus
from utils.corpus.offsets import CACHE
from utils.data.judged import (
    JudgedPool,
    JudgedSet,
    Run,
    is_beir,
    pools_of_run,
    rankable,
    read_beir,
    read_run,
)
from utils.data.rows import pools_of_rows, read_examples
from utils.errors import InputError
from utils.files import find, hash64
from utils.retrieval.bm25 import BM25
from utils.retrieval.encoder import PASSAGE, QUERY, open_encoder
from utils.retrieval.fusion import reciprocal_rank_fusion
from utils.retrieval.stores import index_file, open_store

FIRST, LEXICAL, HYBRID = "first stage", "BM25", "first stage + BM25"
DEPTH = 100


class RankedPools(NamedTuple):
    """Pools to rank, and their orders before reranking."""

    pools: list[JudgedPool]
    first_stage: str  # what it is, in words
    graded: bool  # else relevance is yes or no
    orders: dict[str, list[np.ndarray]]  # scores, pool by pool, by ``FIRST``, ``LEXICAL`` and ``HYBRID``


def read_test_data(
    path: str, run: str | None = None, config: Config | None = None, depth: int | None = None, seed: int = 0
) -> RankedPools:
    """Read a BEIR folder, or rows of query, pos and neg.

    Args:
        path: the folder, or a file or folder of rows.
        run: a TREC file of the BEIR folder's first stage; without it, the configuration's retriever is the first stage.
        config: names the encoder, by default the demo's; of rows, BM25 is the first stage without it.
        depth: documents per query of a BEIR folder; by default all of the run, or the retriever's ``DEPTH`` best.
        seed: draws the order of equal scores of rows, whose positives come first in the file.

    Raises:
        InputError: a file is missing, malformed, or of another set.
    """
    found = find(path)
    beir = found is not None and is_beir(found)
    for flag, value in (("--run", run), ("--depth", depth)):
        if value and found and not beir:
            raise InputError(
                f"{flag} {value} needs a BEIR folder as --test_data; rows are pools themselves: leave it out"
            )
    test = _of_beir(read_beir(path), run, config, depth) if beir else _of_rows(path, config, random.Random(seed))
    if not rankable(test.pools):
        raise InputError(
            f"{path}: no query has both positives and negatives: there is nothing to rank; add some to neg"
        )
    return test


def _of_rows(path: str, config: Config | None, rng: random.Random) -> RankedPools:
    pools = [_shuffled(pool, rng) for pool in pools_of_rows(read_examples([path], "test data"))]
    graded = any(pool.grades.max() > 1 for pool in pools)
    texts = list(dict.fromkeys(passage for pool in pools for passage in pool.passages))
    lexical = _bm25(pools, dict(zip(texts, texts, strict=True)), [pool.passages for pool in pools])
    if config is None:
        return RankedPools(pools, LEXICAL, graded, {FIRST: list(map(without_ties, lexical))})
    return RankedPools(pools, config.retrieval_method, graded, _with_bm25(_similarities(pools, texts, config), lexical))


def _of_beir(judged: JudgedSet, run: str | None, config: Config | None, depth: int | None) -> RankedPools:
    if run:
        found, name = read_run(run, judged), Path(run).name
    else:
        # The demo's configuration cuts at what suits its own short texts.
        unnamed = config is None
        config = config or replace(load_config(), retrieval_query_max_length=Config.retrieval_query_max_length)
        if unnamed and find(config.model2path[config.retrieval_method]) is None:
            raise InputError(f"{judged.folder} needs a first stage: name a TREC file with --run, or your --config")
        found, name = retrieve(judged, config, depth or DEPTH), config.retrieval_method
    pools = pools_of_run(judged, found, depth)
    first = [pool.first for pool in pools if pool.first is not None]
    lexical = _bm25(pools, judged.documents, [pool.ids for pool in pools])
    return RankedPools(pools, name, True, _with_bm25(first, lexical))


def retrieve(judged: JudgedSet, config: Config, depth: int) -> Run:
    """Return the ``depth`` nearest documents of each query by a configuration's encoder.

    The vectors of the folder's corpus are kept in an index beside it, or in the cache where it is read-only. A document
    that is its own query, as in ArguAna and Quora, is left out.
    """
    folder = judged.folder
    own: Mapping[str, str] = MappingProxyType({})
    # The configuration's index belongs to its own corpus; this one is small enough to be searched exactly.
    config = replace(
        config, corpus_path=str(folder / "corpus.jsonl"), method2corpus=own, method2index=own,
        vector_store="faiss", faiss_index_factory="Flat", faiss_search_params=None,
    )  # fmt: skip
    corpus, encoder = Corpus(config.corpus), open_encoder(config)
    if not os.access(folder, os.W_OK):
        cached = CACHE / f"{hash64(str(folder.resolve())):016x}.{index_file(config, corpus).name}"
        config = replace(config, method2index=MappingProxyType({config.retrieval_method: str(cached)}))
    vectors = encoder.encode(list(judged.queries.values()), QUERY)
    scores, rows = open_store(config, corpus, encoder).search(vectors, depth + 1)
    names, run = list(judged.documents), {}
    for (query, text), near, values in zip(judged.queries.items(), rows, scores.tolist(), strict=True):
        found = dict(zip([names[row] for row in near], values, strict=True))
        if query in found and text in judged.documents[query]:
            del found[query]
        run[query] = dict(list(found.items())[:depth])
    return run


def _similarities(pools: Sequence[JudgedPool], texts: Sequence[str], config: Config) -> list[np.ndarray]:
    """Return the similarities of each pool's passages, among all ``texts``, to its query."""
    encoder = open_encoder(config)
    queries = encoder.encode([pool.query for pool in pools], QUERY)
    passages, row = encoder.encode(texts, PASSAGE), {text: row for row, text in enumerate(texts)}
    return [
        passages[[row[passage] for passage in pool.passages]] @ query
        for pool, query in zip(pools, queries, strict=True)
    ]


def _bm25(
    pools: Sequence[JudgedPool], documents: Mapping[str, str], chosen: Sequence[Sequence[str]]
) -> list[np.ndarray]:
    """Return the BM25 scores of each pool's ``chosen`` documents, by name, with statistics over all documents."""
    index, row = BM25(list(documents.values())), {name: row for row, name in enumerate(documents)}
    return [index.scores(pool.query)[[row[name] for name in names]] for pool, names in zip(pools, chosen, strict=True)]


def _with_bm25(first: list[np.ndarray], lexical: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Return all orders; the first stage's has no ties, so that metrics and fusions see the same one."""
    hybrid = [reciprocal_rank_fusion(*both) for both in zip(first, lexical, strict=True)]
    return {FIRST: list(map(without_ties, first)), LEXICAL: lexical, HYBRID: hybrid}


def _shuffled(pool: JudgedPool, rng: random.Random) -> JudgedPool:
    """Return a pool of rows in random order."""
    places = rng.sample(range(len(pool.passages)), len(pool.passages))
    return pool._replace(passages=[pool.passages[i] for i in places], grades=pool.grades[places])


def without_ties(scores: np.ndarray) -> np.ndarray:
    """Return scores, (N,), in the same order but without ties in single precision, in which trec_eval compares.

    Equal scores become smaller by the least possible, in the order that they are given.
    """
    order = np.argsort(-np.asarray(scores, dtype=float), kind="stable")
    values = np.asarray(scores, dtype=np.float32)[order]
    if (values[1:] >= values[:-1]).any():
        for i in range(1, len(values)):
            values[i] = min(values[i], np.nextafter(values[i - 1], np.float32(-np.inf)))
    distinct = np.empty_like(values)
    distinct[order] = values
    return distinct
