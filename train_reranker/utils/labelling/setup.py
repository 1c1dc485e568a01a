"""What the generator and the ablation share: sources, teacher and retriever, as flags and configuration name them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from utils.config import Config, load_config
from utils.corpus.documents import Corpus, count_sources, ids_fingerprint, sources_of
from utils.labelling.scheduler import Pipeline
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import open_retrieval
from utils.schema import Document
from utils.scoring import Scorer
from utils.teachers.ledger import Ledger
from utils.teachers.registry import open_teacher


@dataclass(frozen=True)
class Setup:
    """The choices that both scripts have; what they name is opened on first use."""

    config: Config
    doc_ids: str | None  # file of source ids; None samples the corpus with the configuration's seed
    min_length: int  # characters of a sampled source
    candidates: int  # retrieved per arm
    reply_cache: Path
    ledger: Ledger = field(default_factory=Ledger)  # what this process spends, and its limits
    give_up_after: int | None = None  # sources without any result
    concurrency: int = 1  # sources in flight

    @classmethod
    def from_flags(cls, flags: Any, candidates: int, folder: Path) -> Setup:
        """Return the choices of :func:`utils.cli.labelling_flags`; ``folder`` is for the replies."""
        own = {name: getattr(flags, name) for name in ("seed", "lambda1", "lambda2", "lambda3", "rerank_weight")}
        config, replies = (
            load_config(flags.config).override(**own),
            Path(flags.reply_cache or folder / "replies.sqlite"),
        )
        return cls(
            config, flags.doc_ids, flags.min_length, candidates, replies,
            Ledger(flags.max_llm_calls, flags.max_cost), flags.give_up_after, flags.concurrency,
        )  # fmt: skip

    @property
    def weights(self) -> Lambdas:
        """The weights of MMR."""
        return Lambdas.scaled(self.config.lambda1, self.config.lambda2, self.config.lambda3)

    @cached_property
    def corpus(self) -> Corpus:
        """The configuration's corpus."""
        return Corpus(self.config.corpus)

    @property
    def settings(self) -> dict[str, Any]:
        """What the choice of sources depends on, besides the corpus."""
        doc_ids = self.doc_ids and ids_fingerprint(self.doc_ids)
        return {"seed": self.config.seed, "min_length": self.min_length, "doc_ids": doc_ids}

    @property
    def available(self) -> int:
        """How many sources there are."""
        return count_sources(self.corpus, self.doc_ids, self.min_length)

    def sources(self) -> Iterator[Document]:
        """Return the source documents, in the same order each time."""
        return sources_of(self.corpus, self.doc_ids, random.Random(self.config.seed), self.min_length)

    def open_pipeline(self, rerankers: Mapping[str, Scorer] | None = None) -> Pipeline:
        """Open teacher and retriever; InputError if one of them cannot be used."""
        teacher = open_teacher(self.config, self.corpus, self.reply_cache, self.ledger, self.config.seed)
        retriever = open_retrieval(self.config, self.corpus, self.weights, rerankers)
        return Pipeline(self.sources, teacher, retriever, self.candidates, self.concurrency, self.give_up_after)
