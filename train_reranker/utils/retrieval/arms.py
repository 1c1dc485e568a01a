"""The five retrieval arms over a corpus, an encoder and an index."""

from __future__ import annotations

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from utils.cli import InputError, find
from utils.corpus import Corpus
from utils.retrieval.encoder import QUERY, Encoder
from utils.retrieval.index import Index, open_index
from utils.retrieval.milvus import open_milvus
from utils.schema import Candidate, Document

if TYPE_CHECKING:
    from utils.config import Config
    from utils.reranker import Scorer

LAMBDAS = ("lambda1", "lambda2", "lambda3")
BASE, FINE_TUNED = "base", "fine-tuned"

# So deep is searched at most for texts that do not repeat: FAISS returns no more on a GPU.
DEEPEST = 2048


class Arm(NamedTuple):
    """One way to retrieve: whether the first stage is diverse, and which reranker sorts what it returns."""

    label: str
    diverse: bool
    reranker: str | None = None


ARMS: dict[str, Arm] = {
    "standard": Arm("nearest", diverse=False),
    "diverse": Arm("MMR-diverse", diverse=True),
    "zs": Arm("nearest, base reranker", diverse=False, reranker=BASE),
    "diverse_zs": Arm("MMR-diverse, base reranker", diverse=True, reranker=BASE),
    "diverse_ft": Arm("MMR-diverse, fine-tuned reranker", diverse=True, reranker=FINE_TUNED),
}


class Lambdas(NamedTuple):
    """Weights of relevance, likeness to the source and likeness to what is already chosen; they sum to 1."""

    relevance: float
    source: float
    chosen: float

    @classmethod
    def of(cls, flags: argparse.Namespace, config: Config) -> Lambdas:
        """Return the weights that the flags name, else the configuration, scaled to sum 1.

        Raises:
            InputError: as :meth:`scaled`.
        """
        given = (getattr(flags, name) for name in LAMBDAS)
        return cls.scaled(*(getattr(config, n) if f is None else f for n, f in zip(LAMBDAS, given, strict=True)))

    @classmethod
    def scaled(cls, lambda1: float, lambda2: float, lambda3: float) -> Lambdas:
        """Return the three weights scaled to sum 1.

        Raises:
            InputError: one is negative or not finite, or all are zero.
        """
        weights = (lambda1, lambda2, lambda3)
        total = sum(weights)
        if not all(0 <= weight < float("inf") for weight in weights) or total <= 0:
            raise InputError(f"lambda1, lambda2, lambda3 = {weights}: none may be negative, and one must be above 0")
        return cls(*(weight / total for weight in weights))


def mmr(query: np.ndarray, pool: np.ndarray, source: np.ndarray, k: int, weights: Lambdas) -> list[int]:
    """Choose ``k`` of a pool greedily by maximal marginal relevance with a penalty for likeness to the source.

    The score of candidate d is λ1·sim(q,d) − λ2·sim(d,d0) − λ3·max(0, max over chosen s of sim(d,s)), as HopWeaver
    (arXiv 2505.15087) extends MMR (Carbonell and Goldstein, 1998). Scores that agree to nine decimals are ties, and go
    to the better retrieval rank.

    Args:
        query: its vector, shape (D,), like all of them float64 and of length 1.
        pool: the candidates' vectors, shape (P, D), best retrieval rank first.
        source: the source document's vector, shape (D,).
        k: how many to choose; all of the pool if it has fewer.
        weights: λ1, λ2, λ3.

    Returns:
        Positions in the pool, in the order in which they were chosen.
    """
    base = weights.relevance * (pool @ query) - weights.source * (pool @ source)
    likeness = np.zeros(len(pool))
    chosen: list[int] = []
    for _ in range(min(k, len(pool))):
        scores = np.round(base - weights.chosen * likeness, 9)
        scores[chosen] = -np.inf
        best = int(scores.argmax())  # the first of equals
        chosen.append(best)
        np.maximum(likeness, pool @ pool[best], out=likeness)
    return chosen


class Clock:
    """Adds up how long each kind of work took, and for how many units of it."""

    def __init__(self) -> None:
        """Start from nothing."""
        self.seconds: defaultdict[Hashable, float] = defaultdict(float)
        self.units: Counter[Hashable] = Counter()

    @contextmanager
    def over(self, work: Hashable, units: int) -> Iterator[None]:
        """Time one piece of work."""
        started = time.perf_counter()
        yield
        self.seconds[work] += time.perf_counter() - started
        self.units[work] += units

    def mean(self, work: Hashable) -> float:
        """Return seconds a unit, 0 where nothing was done."""
        return self.seconds[work] / self.units[work] if self.units[work] else 0.0


class Retriever:
    """Runs the arms over one corpus and index, many queries at a time."""

    def __init__(
        self,
        corpus: Corpus,
        encoder: Encoder,
        index: Index,
        weights: Lambdas,
        rerankers: Mapping[str, Scorer] | None = None,
        pool_factor: int = 1,
    ) -> None:
        """Put the parts together.

        Args:
            corpus: the documents; row i belongs to row i of the index.
            encoder: encodes the queries.
            index: holds the documents' vectors.
            weights: of the diverse first stage.
            rerankers: by what the arms ask for: ``BASE``, ``FINE_TUNED``.
            pool_factor: what an arm that reranks fetches is this many times k.
        """
        self.corpus, self.encoder, self.index, self.weights = corpus, encoder, index, weights
        self.rerankers, self.pool_factor = dict(rerankers or {}), pool_factor
        self.clock = Clock()

    def varied(self, weights: Lambdas, pool_factor: int, rerankers: Mapping[str, Scorer]) -> Retriever:
        """Return a retriever over the same corpus and index with other settings, and a clock of its own."""
        return Retriever(self.corpus, self.encoder, self.index, weights, rerankers, pool_factor)

    @property
    def settings(self) -> dict[str, Any]:
        """All that the lists depend on, but for the rerankers."""
        return {
            "corpus": self.corpus.fingerprint,
            "encoder": self.encoder.fingerprint,
            **self.index.settings,
            **dict(zip(LAMBDAS, self.weights, strict=True)),
            "rerank_pool_factor": self.pool_factor,
        }

    def retrieve(
        self, arms: Sequence[str], queries: Sequence[str], sources: Sequence[Document], k: int
    ) -> list[dict[str, list[Candidate]]]:
        """Return, for each query, the candidates of each arm, best first, ``k`` at most.

        None is of the source's article or has its text, and none has the text of another, up to white space.

        Args:
            arms: names in ``ARMS``.
            queries: at least one.
            sources: the document that each query came from.
            k: how many candidates an arm returns.
        """
        with self.clock.over("encode", len(queries)):
            vectors = self.encoder.encode(queries, QUERY)
        staged = {}
        for diverse, depth in {self._stage(ARMS[arm], k) for arm in arms}:
            stage = self._diverse if diverse else self._nearest
            with self.clock.over((diverse, depth), len(queries)):
                staged[diverse, depth] = stage(vectors, sources, depth)
        reranked = [arm for arm in arms if ARMS[arm].reranker]
        scores = {
            name: self._score(
                name,
                [
                    (query, candidate.document.text)
                    for arm in reranked
                    if ARMS[arm].reranker == name
                    for query, candidates in zip(queries, staged[self._stage(ARMS[arm], k)], strict=True)
                    for candidate in candidates
                ],
            )
            for name in {ARMS[arm].reranker for arm in reranked}
            if name is not None
        }
        return [
            {arm: self._order(ARMS[arm], query, staged[self._stage(ARMS[arm], k)][i], scores)[:k] for arm in arms}
            for i, query in enumerate(queries)
        ]

    def _stage(self, arm: Arm, k: int) -> tuple[bool, int]:
        """Return which first stage an arm uses and how many candidates it asks it for."""
        return arm.diverse, k * (self.pool_factor if arm.reranker else 1)

    def _score(self, reranker: str, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], float]:
        """Score each different pair once, whichever arms ask for it."""
        different = list(dict.fromkeys(pairs))
        with self.clock.over(reranker, len(different)):
            return dict(zip(different, self.rerankers[reranker].score(different).tolist(), strict=True))

    def latency(self, arms: Sequence[str], k: int) -> dict[str, dict[str, float]]:
        """Return each arm's mean milliseconds a query, by stage, over all queries so far.

        Queries go in blocks, and arms share what they can; an arm is told what it would take by itself: its own first
        stage, and as many pairs reranked as it asks for, at the pace of all.
        """
        result = {}
        for arm in arms:
            stage, reranker = self._stage(ARMS[arm], k), ARMS[arm].reranker
            seconds = {"encode": self.clock.mean("encode"), "search": self.clock.mean(stage)}
            seconds["rerank"] = self.clock.mean(reranker) * stage[1] if reranker else 0.0
            result[arm] = {name: 1000 * value for name, value in seconds.items()}
        return result

    @staticmethod
    def _order(
        arm: Arm,
        query: str,
        candidates: list[Candidate],
        scores: Mapping[str, Mapping[tuple[str, str], float]],
    ) -> list[Candidate]:
        """Sort by the arm's reranker, if it has one; equals keep their order."""
        if arm.reranker is None:
            return candidates
        scored = [
            candidate._replace(score=scores[arm.reranker][query, candidate.document.text]) for candidate in candidates
        ]
        return sorted(scored, key=lambda candidate: -candidate.score)

    def _search(
        self, vectors: np.ndarray, sources: Sequence[Document], least: int, k: int
    ) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Return each source's row, and scores and rows of what is nearest to its query and may answer it.

        Looks at the ``least`` nearest, and at more where the source's chunks or repeated texts leave fewer than ``k``.
        """
        origins = [self.corpus.row(source.id) for source in sources]
        depths = [max(least, k + self.corpus.chunks(source.id)) for source in sources]
        found: dict[int, tuple[int, np.ndarray, np.ndarray]] = {}
        while left := [i for i in range(len(sources)) if i not in found]:
            scores, rows = self.index.search(vectors[left], max(depths[i] for i in left))
            for i, near, near_scores in zip(left, rows, scores, strict=True):
                real = np.flatnonzero(near[: depths[i]] >= 0)  # approximate indexes fill up with -1
                kept = real[self.corpus.answering(origins[i], near[real])]
                if len(kept) >= k or depths[i] >= min(len(self.corpus), DEEPEST):
                    found[i] = origins[i], near_scores[kept], near[kept]
                depths[i] = min(4 * depths[i], DEEPEST)
        return [found[i] for i in range(len(sources))]

    def _nearest(self, vectors: np.ndarray, sources: Sequence[Document], k: int) -> list[list[Candidate]]:
        """The ``k`` nearest that may answer."""
        return [self._candidates(rows[:k], scores[:k]) for _, scores, rows in self._search(vectors, sources, 0, k)]

    def _diverse(self, vectors: np.ndarray, sources: Sequence[Document], k: int) -> list[list[Candidate]]:
        """MMR over those of the 3k nearest that may answer."""
        found = self._search(vectors, sources, 3 * k, k)
        # All vectors at once: an index may have to encode them, or to ask another machine for them.
        needed = np.unique(np.concatenate([[origin for origin, *_ in found], *(rows for *_, rows in found)]))
        known = self.index.vectors(needed).astype(np.float64)
        results = []
        for query, (origin, scores, rows) in zip(vectors.astype(np.float64), found, strict=True):
            pool = known[np.searchsorted(needed, rows)]
            chosen = mmr(query, pool, known[np.searchsorted(needed, origin)], k, self.weights)
            results.append(self._candidates(rows[chosen], scores[chosen]))
        return results

    def _candidates(self, rows: np.ndarray, scores: np.ndarray) -> list[Candidate]:
        return [Candidate(self.corpus[row], float(score)) for row, score in zip(rows, scores, strict=True)]


def index_file(config: Config, corpus: Corpus) -> Path:
    """Return where the index is, or is to be built: as the configuration says, else beside the corpus."""
    if config.index_path is None:
        return corpus.path.with_name(f"{corpus.path.stem}.{config.retrieval_method}.index")
    return located(config.index_path)


def located(name: str) -> Path:
    """Return where a file is, or is to be made: in the first of the usual places that has it, or else its folder."""
    named = Path(name)
    folder = find(named.parent)
    return find(named) or (folder / named.name if folder else named)


def open_retrieval(
    config: Config, corpus: Corpus, weights: Lambdas, rerankers: Mapping[str, Scorer] | None = None
) -> Retriever:
    """Open a corpus's encoder and index as a configuration names them.

    Raises:
        InputError: one of them is not there or cannot be used.
    """
    encoder = Encoder(
        config.encoder_path,
        method=config.retrieval_method,
        pooling=config.pooling,
        instruction=config.instruction,
        max_length=config.retrieval_query_max_length,
        batch_size=config.retrieval_batch_size,
        half=config.retrieval_use_fp16,
        devices=config.devices("retrieval_devices"),
    )
    return Retriever(
        corpus, encoder, open_store(config, corpus, encoder), weights, rerankers, config.rerank_pool_factor
    )


def open_store(config: Config, corpus: Corpus, encoder: Encoder) -> Index:
    """Open the index of a corpus in the vector store that a configuration names.

    Raises:
        InputError: the store is unknown, not there, or cannot be used.
    """
    if config.vector_store == "faiss":
        return open_index(
            corpus,
            encoder,
            index_file(config, corpus),
            config.faiss_index_factory,
            search_params=config.faiss_search_params,
            gpu=config.faiss_gpu,
            seed=config.seed,
        )
    if config.vector_store != "milvus":
        raise InputError(f"{config.path}: vector_store must be faiss or milvus, not {config.vector_store!r}")
    if not config.milvus_uri:
        raise InputError(f"{config.path}: vector_store milvus needs milvus_uri: a file (name.db) or a server's address")
    return open_milvus(
        corpus,
        encoder,
        config.milvus_uri if "://" in config.milvus_uri else str(located(config.milvus_uri)),
        config.milvus_token,
        config.milvus_index,
        config.milvus_search_params,
    )
