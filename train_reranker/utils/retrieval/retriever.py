"""The retriever: runs arms over a corpus, an encoder and an index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.corpus.documents import Corpus
from utils.retrieval.encoder import QUERY, Encoder
from utils.retrieval.faiss_store import Index
from utils.schema import Candidate, Document

if TYPE_CHECKING:
    from utils.config import Config
    from utils.scoring import Scorer

from utils.retrieval.arms import ARMS, Arm
from utils.retrieval.clock import Clock
from utils.retrieval.mmr import LAMBDAS, Lambdas, mmr
from utils.retrieval.stores import open_store

# So deep is searched at most for texts that do not repeat: FAISS returns no more on a GPU.
DEEPEST = 2048


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
            **({"instruction": instruction} if (instruction := self.encoder.prefixes[QUERY]) else {}),
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
        passage_instruction=config.passage_instruction,
        max_length=config.retrieval_query_max_length,
        batch_size=config.retrieval_batch_size,
        half=config.retrieval_use_fp16,
        devices=config.devices("retrieval_devices"),
    )
    return Retriever(
        corpus, encoder, open_store(config, corpus, encoder), weights, rerankers, config.rerank_pool_factor
    )
