"""Scores of (query, passage) pairs from a cross-encoder, in length-bucketed batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from utils.config import Config
from utils.errors import InputError
from utils.models.devices import CPU_BATCH_TOKENS, Batches, check_devices, half_precision, visible_devices
from utils.models.folders import find_model
from utils.models.lengths import cut_text, length_limit, scoring_lengths, trained_lengths
from utils.models.loading import RERANKER, load_model
from utils.progress import log, progress_bar

if TYPE_CHECKING:
    import torch

WINDOW = 1024  # pairs that are tokenised at once, while the model scores those before them


class Scorer(Protocol):
    """What orders candidates: scores for (query, passage) pairs, higher is better."""

    def score(self, pairs: Sequence[tuple[str, str]], desc: str | None = None) -> np.ndarray:
        """Return one score for each pair, float32 of shape (pairs,)."""
        ...


class CachedScorer:
    """A scorer that scores each pair once, for callers that ask for the same pairs again and again."""

    def __init__(self, scorer: Scorer) -> None:
        """Wrap a scorer."""
        self._scorer = scorer
        self._known: dict[tuple[str, str], float] = {}

    def score(self, pairs: Sequence[tuple[str, str]], desc: str | None = None) -> np.ndarray:
        """Return one score for each pair, float32 of shape (pairs,)."""
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        self._known.update(zip(new, self._scorer.score(new, desc).tolist(), strict=True))
        return np.array([self._known[pair] for pair in pairs], dtype=np.float32)


@dataclass(frozen=True)
class ScoringOptions:
    """How a :class:`Reranker` scores; lengths that are None are the folder's (those it was trained at), in tokens."""

    query_max_length: int | None = None
    max_length: int | None = None  # of a pair, the end of the passage being cut
    batch_size: int = 16  # pairs of ``max_length`` that fit into memory at once; of shorter ones more go together
    normalize: bool = False  # pass the scores through a sigmoid, into 0 to 1
    half: bool = True  # compute in half precision where the device is fast at it
    device: str | None = None  # as torch names it; None is the first visible GPU, else the CPU
    lengths_from: str = "--max_length"  # the flag or keys that ask for lengths, for the log


class Reranker:
    """A one-label sequence classifier, such as bge-reranker-v2-m3, that scores how well a passage answers a query."""

    def __init__(self, path: Path, options: ScoringOptions | None = None) -> None:
        """Load the model of a folder; an InputError if it holds none, or the device is not visible."""
        options = options or ScoringOptions()
        self.path, self.normalize = path, options.normalize
        self.tokenizer, model, _ = load_model(path, RERANKER)
        self.device = options.device or visible_devices()[0]
        check_devices([self.device], "reranker_devices")
        self.half = half_precision(self.device) if options.half else None
        # In a CPU's bf16 many candidates would tie: there the weights stay in float32 and only products are computed
        # in bf16, which is as fast and keeps the order of more candidates.
        self.model: Any = model.to(device=self.device, dtype=None if self.device == "cpu" else self.half)
        for head in ("classifier", "score"):
            if self.half is not None and hasattr(self.model, head):
                in_full_precision(getattr(self.model, head), self.model.device.type)
        self._settle_lengths(options, model.config)

    def _settle_lengths(self, options: ScoringOptions, config: Any) -> None:
        """Set the lengths to score at, and the tokens of a batch."""
        trained, limit = trained_lengths(self.tokenizer), length_limit(config, self.tokenizer)
        self.lengths = scoring_lengths(options.query_max_length, options.max_length, trained, limit)
        if trained and self.lengths != trained:
            log.info(
                "model %s was trained at %d tokens (query: %d), scored at %d (query: %d) as %s says", self.path,
                trained.pair, trained.query, self.lengths.pair, self.lengths.query, options.lengths_from,
            )  # fmt: skip
        budget = options.batch_size * self.lengths.pair
        self.batches = Batches(min(budget, CPU_BATCH_TOKENS) if self.device == "cpu" else budget, WINDOW)

    def score(self, pairs: Sequence[tuple[str, str]], desc: str | None = None) -> np.ndarray:
        """Return one score for each (query, passage), float32 of shape (pairs,); logits, or 0 to 1 if normalized.

        ``desc`` names a progress bar, and lets the log say what share of the pairs is cut. An InputError says that the
        model's scores are not finite.
        """
        import torch

        scores, full = np.empty(len(pairs), dtype=np.float32), 0
        if not pairs:
            return scores
        # Characters predict tokens: sorted by them, a window holds pairs of similar length.
        order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][1]))
        windows = [order[start : start + WINDOW] for start in range(0, len(order), WINDOW)]
        bar = progress_bar(desc=desc, total=len(pairs), unit="pair", disable=desc is None)
        mixed = torch.autocast("cpu", self.half, enabled=self.device == "cpu" and self.half is not None)
        with torch.inference_mode(), mixed, bar:
            texts = [[pairs[i] for i in window] for window in windows]
            for window, features in zip(windows, self._tokenize_ahead(texts), strict=True):
                lengths = [len(ids) for ids in features["input_ids"]]
                full += sum(length >= self.lengths.pair for length in lengths)
                for batch, logits in self.batches.compute(lengths, partial(self._logits, features)):
                    scores[[window[i] for i in batch]] = logits.float().cpu().numpy()
                    bar.update(len(batch))
        if not np.isfinite(scores).all():
            raise InputError(f"reranker {self.path} gives scores that are not finite: train or download it again")
        if desc and full:
            message = "%s: %.0f%% of the pairs fill the %d tokens that it reads (--max_length), or are cut there"
            log.info(message, self.path, 100 * full / len(pairs), self.lengths.pair)
        return 1 / (1 + np.exp(-scores)) if self.normalize else scores

    def _logits(self, features: Mapping[str, list[list[int]]], batch: Sequence[int]) -> torch.Tensor:
        """Return the logits of the pairs of a window at ``batch``, shape (B,)."""
        import torch

        chosen = {key: [values[i] for i in batch] for key, values in features.items()}
        inputs = self.tokenizer.pad(chosen, return_tensors="pt").to(self.device)
        if len({len(features["input_ids"][i]) for i in batch}) == 1:
            del inputs["attention_mask"]  # attention is faster without one
        try:
            logits: torch.Tensor = self.model(**inputs).logits.view(-1)
            return logits
        except ValueError:  # T5 and BART refuse texts with different numbers of end tokens
            if len(batch) == 1:
                raise
            return torch.cat([self._logits(features, [i]) for i in batch])

    def _tokenize_ahead(self, windows: Sequence[Sequence[tuple[str, str]]]) -> Iterator[dict[str, list[list[int]]]]:
        """Yield the token ids of each window; another thread prepares the next while the model scores."""
        with ThreadPoolExecutor(1) as other:
            coming = other.submit(self._tokenize, windows[0])
            for window in windows[1:]:
                features = coming.result()
                coming = other.submit(self._tokenize, window)
                yield features
            yield coming.result()

    def _tokenize(self, pairs: Sequence[tuple[str, str]]) -> dict[str, list[list[int]]]:
        queries, passages = zip(*pairs, strict=True)
        cut = {query: cut_text(self.tokenizer, query, self.lengths.query) for query in dict.fromkeys(queries)}
        texts = [cut[query] for query in queries], list(passages)
        return dict(self.tokenizer(*texts, truncation="only_second", max_length=self.lengths.pair))


def in_full_precision(module: Any, device: str) -> None:
    """Let the head of a half-precision model compute in float32: in bf16's eight bits, close candidates would tie."""
    import torch

    forward = module.float().forward
    module.forward = torch.autocast(device, enabled=False)(lambda features: forward(features.float()))


def open_reranker(path: str | Path, options: ScoringOptions | None = None, **named: Any) -> Reranker:
    """Load the folder of a reranker, looked up like every input, with these options, or with these of their fields."""
    return Reranker(find_model(path), options or ScoringOptions(**named))


def reranker_options(config: Config) -> ScoringOptions:
    """Return the options that a configuration asks for; of several devices, the first."""
    devices = config.devices("reranker_devices")
    return ScoringOptions(
        config.query_max_length,
        config.passage_max_length,  # HopWeaver's name for the length of the pair
        config.reranker_batch_size, config.reranker_normalize, device=devices[0] if devices else None,
        lengths_from=f"{config.path} (query_max_length, passage_max_length)",
    )  # fmt: skip
