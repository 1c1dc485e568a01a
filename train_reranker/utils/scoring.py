"""Scoring (query, passage) pairs with a cross-encoder: batches of like length held to a token budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from utils.config import Config
from utils.errors import InputError
from utils.models.devices import CPU_BATCH_TOKENS, best_device, check_devices, half_precision, token_batches
from utils.models.folders import find_model
from utils.models.lengths import NO_LIMIT, cut_text, length_limit
from utils.models.loading import RERANKER, load_model
from utils.progress import progress_bar

if TYPE_CHECKING:
    import torch

# Pairs that are tokenised at once, while the model scores those before them.
WINDOW = 1024


class Scorer(Protocol):
    """What orders candidates: scores for (query, passage) pairs, higher is better."""

    def score(self, pairs: Sequence[tuple[str, str]], desc: str | None = None) -> np.ndarray:
        """Return one score for each pair, float32 of shape (pairs,)."""
        ...


class CachedScorer:
    """A scorer that scores each pair once, for settings that ask for the same pairs again and again."""

    def __init__(self, scorer: Scorer) -> None:
        """Wrap a scorer; what it scored is kept as long as this lives."""
        self._scorer = scorer
        self._known: dict[tuple[str, str], float] = {}

    def score(self, pairs: Sequence[tuple[str, str]], desc: str | None = None) -> np.ndarray:
        """Return one score for each pair, float32 of shape (pairs,)."""
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        self._known.update(zip(new, self._scorer.score(new, desc).tolist(), strict=True))
        return np.array([self._known[pair] for pair in pairs], dtype=np.float32)


class Reranker:
    """A one-label sequence classifier, such as bge-reranker-v2-m3, that scores how well a passage answers a query."""

    def __init__(
        self,
        path: Path,
        *,
        query_max_length: int = 512,
        max_length: int | None = None,
        batch_size: int = 16,
        normalize: bool = False,
        half: bool = True,
        device: str | None = None,
    ) -> None:
        """Load the model of a folder.

        Args:
            path: a folder with config, weights and tokenizer.
            query_max_length: tokens that are kept of a query.
            max_length: tokens that are kept of a pair, the passage's end being cut; default: what the model takes.
            batch_size: pairs of ``max_length`` that fit into memory at once; of shorter ones more go together.
            normalize: pass the scores through a sigmoid, into 0 to 1.
            half: compute in half precision where the device is fast at it.
            device: as torch names it; default: the first visible GPU, else the CPU.

        Raises:
            utils.errors.InputError: the folder holds no such model.
        """
        self.path, self.normalize = path, normalize
        self.tokenizer, model, _ = load_model(path, RERANKER)
        self.device = device or best_device()
        check_devices([self.device], "reranker_devices")
        self.half = half_precision(self.device) if half else None
        # A CPU's bf16 is coarse, and its memory large: there the weights stay as they are, and only products are
        # computed in it, which takes no longer and keeps more candidates in the order of full precision.
        dtype = None if self.device == "cpu" else self.half
        self.model: Any = model.to(device=self.device, dtype=dtype)
        for head in ("classifier", "score"):
            if self.half is not None and hasattr(self.model, head):
                in_full_precision(getattr(self.model, head))
        limit = length_limit(model.config, self.tokenizer)
        self.max_length = int(min(max_length or limit or NO_LIMIT, limit or math.inf))
        # As FlagEmbedding does: a query leaves at least a quarter of the room to the passage.
        self.query_max_length = min(query_max_length, self.max_length * 3 // 4)
        budget = batch_size * self.max_length
        self.batch_tokens = min(budget, CPU_BATCH_TOKENS) if self.device == "cpu" else budget

    def score(self, pairs: Sequence[tuple[str, str]], desc: str | None = None) -> np.ndarray:
        """Return one score for each (query, passage), float32 of shape (pairs,), in the order of the pairs.

        Higher is better; logits, or 0 to 1 with ``normalize``. ``desc`` names a progress bar.

        Raises:
            utils.errors.InputError: the model's scores are not finite.
        """
        import torch

        scores = np.empty(len(pairs), dtype=np.float32)
        if not pairs:
            return scores
        # Characters foretell tokens: windows of like length make batches of like length.
        order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][1]))
        windows = [order[start : start + WINDOW] for start in range(0, len(order), WINDOW)]
        bar = progress_bar(desc=desc, total=len(pairs), unit="pair", disable=desc is None)
        mixed = torch.autocast("cpu", self.half, enabled=self.device == "cpu" and self.half is not None)
        with torch.inference_mode(), mixed, bar:
            for window, features in zip(windows, self._tokenize_ahead(pairs, windows), strict=True):
                lengths = [len(ids) for ids in features["input_ids"]]
                for batch in token_batches(lengths, self.batch_tokens, len(window)):
                    scores[[window[i] for i in batch]] = self._logits(features, batch).float().cpu().numpy()
                    bar.update(len(batch))
        if not np.isfinite(scores).all():  # which no order follows from
            raise InputError(f"reranker {self.path} gives scores that are not finite: train or download it again")
        return 1 / (1 + np.exp(-scores)) if self.normalize else scores

    def _logits(self, features: Mapping[str, list[list[int]]], batch: Sequence[int]) -> torch.Tensor:
        """Return the logits of a window's pairs at the positions of ``batch``, (B,)."""
        import torch

        inputs = self.tokenizer.pad(
            {key: [values[i] for i in batch] for key, values in features.items()}, return_tensors="pt"
        ).to(self.device)
        if len({len(features["input_ids"][i]) for i in batch}) == 1:
            del inputs["attention_mask"]  # without one, attention need not read it
        try:
            return self.model(**inputs).logits.view(-1)
        except ValueError:  # T5 and BART refuse a batch of texts that spell their end token unequally often
            if len(batch) == 1:
                raise
            return torch.cat([self._logits(features, [i]) for i in batch])

    def _tokenize_ahead(
        self, pairs: Sequence[tuple[str, str]], windows: Sequence[Sequence[int]]
    ) -> Iterator[dict[str, list[list[int]]]]:
        """Yield the windows' token ids; another thread makes the next ones while the model has these."""

        def tokenize(window: Sequence[int]) -> dict[str, list[list[int]]]:
            queries, passages = zip(*(pairs[i] for i in window), strict=True)
            return self._tokenize(queries, passages)

        with ThreadPoolExecutor(1) as other:
            coming = other.submit(tokenize, windows[0])
            for after in (*windows[1:], None):
                features = coming.result()
                if after is not None:
                    coming = other.submit(tokenize, after)
                yield features

    def _tokenize(self, queries: Sequence[str], passages: Sequence[str]) -> dict[str, list[list[int]]]:
        cut = {query: cut_text(self.tokenizer, query, self.query_max_length) for query in dict.fromkeys(queries)}
        return dict(
            self.tokenizer(
                [cut[query] for query in queries],
                list(passages),
                truncation="only_second",
                max_length=self.max_length,
            )
        )


def in_full_precision(module: Any) -> None:
    """Let a module of a half-precision model compute in float32.

    For the head that makes the scores: rounded to the eight bits that bf16 has, close candidates would tie.
    """
    import torch

    forward = module.float().forward

    def full(features: torch.Tensor) -> Any:
        with torch.autocast(features.device.type, enabled=False):
            return forward(features.float())

    module.forward = full


def open_reranker(path: str | Path, **options: Any) -> Reranker:
    """Load a reranker's folder, looked up as all inputs are; the options are :class:`Reranker`'s.

    Raises:
        utils.errors.InputError: it is not there (the line says how to get it), or holds no such model.
    """
    return Reranker(find_model(path), **options)


def reranker_options(config: Config) -> dict[str, Any]:
    """Return :class:`Reranker`'s options as a configuration gives them; of several devices, it takes the first."""
    devices = config.devices("reranker_devices")
    return {
        "query_max_length": config.query_max_length or 512,
        "max_length": config.passage_max_length,
        "batch_size": config.reranker_batch_size,
        "normalize": config.reranker_normalize,
        "device": devices[0] if devices else None,
    }
