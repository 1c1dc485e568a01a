"""The retriever: runs arms over a corpus, an encoder and an index."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from utils.corpus.documents import Corpus
from utils.retrieval.arms import ARMS, Arm
from utils.retrieval.encoder import QUERY, Encoder, open_encoder
from utils.retrieval.fusion import fuse
from utils.retrieval.mmr import LAMBDAS, Lambdas, mmr
from utils.retrieval.stores import Index, open_store
from utils.schema import Candidate, Document

if TYPE_CHECKING:
    from utils.config import Config
    from utils.scoring import Scorer

MAX_DEPTH = 2048  # of a search that goes deeper to get past chunks and repeated texts: FAISS's limit on a GPU


class Stage(NamedTuple):
    """A first stage: nearest or diverse, and how many candidates it returns."""

    diverse: bool
    depth: int


class Hits(NamedTuple):
    """Rows found for one query and their similarities to it, both of shape (hits,), best first."""

    rows: np.ndarray
    scores: np.ndarray


class Reranking(NamedTuple):
    """How arms rerank: how many candidates they fetch per one returned, and how much the reranker's scores weigh."""

    pool_factor: int = 1
    weight: float = 1.0  # 0 to 1, the rest being the first stage's; 1 is the reranker alone


AS_HOPWEAVER = Reranking()


class Clock:
    """Adds up seconds and units of work (queries, documents, pairs) per stage."""

    def __init__(self) -> None:
        """Start at zero."""
        self.seconds: defaultdict[Hashable, float] = defaultdict(float)
        self.units: defaultdict[Hashable, int] = defaultdict(int)

    @contextmanager
    def over(self, stage: Hashable, units: int) -> Iterator[None]:
        """Time one piece of work."""
        started = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - started
        self.units[stage] += units

    def mean(self, stage: Hashable) -> float:
        """Return seconds per unit, 0 where nothing was done."""
        return self.seconds[stage] / self.units[stage] if self.units[stage] else 0.0


class Retriever:
    """Runs the arms over one corpus and index, many queries at a time."""

    def __init__(
        self, corpus: Corpus, encoder: Encoder, index: Index, weights: Lambdas,
        rerankers: Mapping[str, Scorer] | None = None, reranking: Reranking = AS_HOPWEAVER,
    ) -> None:  # fmt: skip
        """Put the parts together; row i of the index is the vector of the corpus's row i.

        ``weights`` are those of the diverse first stage, ``rerankers`` are by the arms' names for them, ``BASE`` and
        ``FINE_TUNED``.
        """
        self.corpus, self.encoder, self.index, self.weights = corpus, encoder, index, weights
        self.rerankers, self.reranking = dict(rerankers or {}), reranking
        self.clock = Clock()

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that the results depend on, except the rerankers."""
        instruction = self.encoder.prefixes[QUERY]
        return {
            "corpus": self.corpus.fingerprint, "encoder": self.encoder.fingerprint,
            **({"instruction": instruction} if instruction else {}), **self.index.settings,
            **dict(zip(LAMBDAS, self.weights, strict=True)), "rerank_pool_factor": self.reranking.pool_factor,
            "rerank_weight": self.reranking.weight,
        }  # fmt: skip

    def retrieve(
        self, arms: Sequence[str], queries: Sequence[str], sources: Sequence[Document], k: int
    ) -> list[dict[str, list[Candidate]]]:
        """Return, for each query, the candidates of each arm, by its name in ``ARMS``, best first, ``k`` at most.

        None is of the article of the query's source or has its text; no two have the same text, up to white space.
        """
        with self.clock.over("encode", len(queries)):
            vectors = self.encoder.encode(queries, QUERY)
        origins = [self.corpus.row(source.id) for source in sources]
        documents: dict[int, Document] = {}  # by row: what several arms or queries find is read once
        pools: dict[Stage, list[list[Candidate]]] = {}
        for stage in dict.fromkeys(self._stage(ARMS[arm], k) for arm in arms):
            with self.clock.over(stage, len(queries)):
                hits = self._first_stage(stage, vectors, origins)
            pools[stage] = self._candidates(hits, documents)
        lists = self._rerank(queries, {arm: pools[self._stage(ARMS[arm], k)] for arm in arms})
        return [{arm: lists[arm][i][:k] for arm in arms} for i in range(len(queries))]

    def latency(self, arms: Sequence[str], k: int) -> dict[str, dict[str, float]]:
        """Return each arm's mean milliseconds per query so far, by stage, as if no other arm shared its work."""
        result = {}
        for arm in arms:
            stage, reranker = self._stage(ARMS[arm], k), ARMS[arm].reranker
            seconds = {
                "encode": self.clock.mean("encode"),
                "search": self.clock.mean(stage) + self.clock.mean("read") * stage.depth,
                "rerank": self.clock.mean(reranker) * stage.depth if reranker else 0.0,
            }
            result[arm] = {name: 1000 * value for name, value in seconds.items()}
        return result

    def _stage(self, arm: Arm, k: int) -> Stage:
        return Stage(arm.diverse, k * (self.reranking.pool_factor if arm.reranker else 1))

    def _candidates(self, hits: Sequence[Hits], documents: dict[int, Document]) -> list[list[Candidate]]:
        """Return the candidates of each query, reading those that ``documents`` lacks into it."""
        new = sorted({row for rows, _ in hits for row in rows.tolist()} - documents.keys())
        with self.clock.over("read", len(new)):
            documents.update((row, self.corpus[row]) for row in new)
        return [[Candidate(documents[int(row)], float(s)) for row, s in zip(*hit, strict=True)] for hit in hits]

    def _rerank(
        self, queries: Sequence[str], pools: Mapping[str, list[list[Candidate]]]
    ) -> dict[str, list[list[Candidate]]]:
        """Return each arm's candidates in its order; a reranker scores different pairs once."""
        lists = dict(pools)
        for name in dict.fromkeys(filter(None, (ARMS[arm].reranker for arm in pools))):
            arms = [arm for arm in pools if ARMS[arm].reranker == name]
            asked = [each for arm in arms for each in zip(queries, pools[arm], strict=True)]
            pairs = list(dict.fromkeys((query, c.document.text) for query, candidates in asked for c in candidates))
            with self.clock.over(name, len(pairs)):
                scores = dict(zip(pairs, self.rerankers[name].score(pairs).tolist(), strict=True))
            for arm in arms:
                lists[arm] = [
                    self._ordered(ARMS[arm], candidates, [scores[query, one.document.text] for one in candidates])
                    for query, candidates in zip(queries, pools[arm], strict=True)
                ]
        return lists

    def _ordered(self, arm: Arm, candidates: list[Candidate], scores: list[float]) -> list[Candidate]:
        """Return one query's candidates by the reranker's scores, fused with the first stage's; ties keep its order.

        The first stage's score is the similarity to the query; where MMR chose, it is the rank of the choice, because
        similarity ignores diversity, and MMR's own score drops after the first choice, the only one that no other
        penalises. Weight 0 thus gives the first stage's order in every arm.
        """
        if self.reranking.weight != 1 and candidates:
            first = -np.arange(len(candidates)) if arm.diverse else np.array([one.score for one in candidates])
            scores = fuse(first, np.array(scores), self.reranking.weight).tolist()
        scored = [one._replace(score=score) for one, score in zip(candidates, scores, strict=True)]
        return sorted(scored, key=lambda one: -one.score)

    def _search(self, vectors: np.ndarray, origins: Sequence[int], least: int, k: int) -> list[Hits]:
        """Return the nearest rows that may answer each query; ``origins`` are the rows of their sources.

        Looks at the ``least`` nearest, and at more where the source's chunks or repeated texts leave fewer than ``k``.
        """
        depths = [max(least, k + self.corpus.chunks(origin)) for origin in origins]
        found: dict[int, Hits] = {}
        while left := [i for i in range(len(origins)) if i not in found]:
            scores, rows = self.index.search(vectors[left], max(depths[i] for i in left))
            for i, near, near_scores in zip(left, rows, scores, strict=True):
                real = np.flatnonzero(near[: depths[i]] >= 0)  # approximate indexes fill up with -1
                kept = real[self.corpus.answering(origins[i], near[real])]
                if len(kept) >= k or depths[i] >= min(len(self.corpus), MAX_DEPTH):
                    found[i] = Hits(near[kept], near_scores[kept])
                depths[i] = min(4 * depths[i], MAX_DEPTH)
        return [found[i] for i in range(len(origins))]

    def _first_stage(self, stage: Stage, vectors: np.ndarray, origins: Sequence[int]) -> list[Hits]:
        """Return the k nearest that may answer, or the k that MMR chooses among those of the 3k nearest that may."""
        k = stage.depth
        found = self._search(vectors, origins, 3 * k if stage.diverse else 0, k)
        if not stage.diverse:
            return [Hits(rows[:k], scores[:k]) for rows, scores in found]
        # All vectors at once: an index may have to encode them, or to ask another machine for them.
        needed = np.unique(np.concatenate([origins, *(rows for rows, _ in found)]))
        known = self.index.vectors(needed).astype(np.float64)
        results = []
        for query, origin, (rows, scores) in zip(vectors.astype(np.float64), origins, found, strict=True):
            pool, source = known[np.searchsorted(needed, rows)], known[np.searchsorted(needed, origin)]
            chosen = mmr(query, pool, source, k, self.weights)
            results.append(Hits(rows[chosen], scores[chosen]))
        return results


def open_retrieval(
    config: Config, corpus: Corpus, weights: Lambdas, rerankers: Mapping[str, Scorer] | None = None
) -> Retriever:
    """Open a corpus's encoder and index as a configuration names them; ``InputError`` if one cannot be used."""
    encoder = open_encoder(config)
    reranking = Reranking(config.rerank_pool_factor, config.rerank_weight)
    return Retriever(corpus, encoder, open_store(config, corpus, encoder), weights, rerankers, reranking)
