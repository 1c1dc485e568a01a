"""The guard: queries of another origin than the training data, on which a model that has forgotten does worse."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from utils.data.judged import JudgedPool, JudgedSet, is_beir, pools_of_run, rankable, read_beir
from utils.data.rows import pools_of_rows, read_examples
from utils.errors import InputError
from utils.files import find_input
from utils.retrieval.bm25 import BM25

# An evaluation on BEIR folders scores 4,000 pairs at most; rows keep their passages. Where differences spread by
# 0.25, a loss of 0.05 nDCG@10 on 200 queries is found four times out of five.
MOST_QUERIES, POOL_SIZE = 200, 20
MOST_RELEVANT = 10  # of a BEIR folder's query: nDCG@10 counts no more, and the other half is there to rank them above


def read_guard(paths: Sequence[str], seed: int, warn: Callable[[str], object]) -> list[JudgedPool]:
    """Read the pools of files of rows, and of BEIR folders; seeded samples, of equal size, where they are too many.

    ``warn`` receives what :func:`utils.data.rows.read_examples` has to say. An InputError says what cannot be read, or
    that a path has no query with both a relevant passage and another to rank.
    """
    pools = []
    for path in paths:
        folder = find_input(path, "guard data", "name a JSONL file of query/pos/neg rows, or a BEIR folder")
        rng, most = random.Random(seed), max(1, MOST_QUERIES // len(paths))
        if is_beir(folder):
            judged = read_beir(folder)
            chosen = rng.sample(list(judged.queries), min(most, len(judged.queries)))
            found = pools_of_set(judged._replace(queries={query: judged.queries[query] for query in chosen}))
        else:
            found = pools_of_rows(row for row in read_examples([path], "guard data", warn) if row.neg)
            found = rng.sample(found, min(most, len(found)))
        if not (ranking := rankable(found)):
            raise InputError(f"guard data {path}: no query has both a relevant passage and another to rank")
        pools += ranking
    return pools


def pools_of_set(judged: JudgedSet) -> list[JudgedPool]:
    """Return a pool of ``POOL_SIZE`` documents for each query of a judged set.

    They are the relevant documents, best grades first, then those judged irrelevant, then BM25's best of the others.
    """
    names, run = list(judged.documents), {}
    _, rows = BM25(list(judged.documents.values())).search(list(judged.queries.values()), POOL_SIZE)
    for query, best in zip(judged.queries, rows, strict=True):
        grades = {name: grade for name, grade in judged.grades[query].items() if name in judged.documents}
        relevant = sorted((name for name in grades if grades[name] > 0), key=lambda name: -grades[name])
        irrelevant = [name for name in grades if grades[name] <= 0]
        others = [names[row] for row in best if names[row] not in grades]
        pool = [*relevant[:MOST_RELEVANT], *irrelevant, *others][:POOL_SIZE]
        run[query] = {name: -float(rank) for rank, name in enumerate(pool)}
    return pools_of_run(judged, run)


def as_json(pool: JudgedPool) -> list[Any]:
    """Return a pool as a JSON value, for a digest."""
    return [pool.query, pool.passages, pool.grades.tolist()]
