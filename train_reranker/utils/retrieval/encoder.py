"""The text encoder: texts to L2-normalised vectors, with what e5 and bge want put before them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.cli import InputError
from utils.models import (
    CPU_BATCH_TOKENS,
    ENCODER,
    check_devices,
    half_precision,
    length_limit,
    load_model,
    token_batches,
    visible_devices,
    weights_fingerprint,
)

if TYPE_CHECKING:
    import torch

QUERY, PASSAGE = "query", "passage"
BGE_INSTRUCTION = "Represent this sentence for searching relevant passages: "


def instructions(method: str, instruction: str | None) -> dict[str, str]:
    """Return what is put before queries and before passages, as the models' cards ask for.

    ``instruction`` of the configuration replaces the query's. Known by the method's name: e5 (Wang et al.,
    arXiv 2212.03533), its instruct variants, and the English bge v1 models (Xiao et al., arXiv 2309.07597).
    """
    name = method.lower()
    query = passage = ""
    if "e5" in name and "instruct" in name:
        task = "Given a web search query, retrieve relevant passages that answer the query"
        query = f"Instruct: {task}\nQuery: "
    elif "e5" in name:
        query, passage = "query: ", "passage: "
    elif "bge" in name and "m3" not in name:
        query = BGE_INSTRUCTION
    return {QUERY: query if instruction is None else instruction, PASSAGE: passage}


def mean_pool(output: Any, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean over the tokens that are no padding, (B, D)."""
    weights = mask.unsqueeze(-1).float()
    return (output.last_hidden_state.float() * weights).sum(1) / weights.sum(1)


def last_pool(output: Any, mask: torch.Tensor) -> torch.Tensor:
    """Return the last token that is no padding, (B, D), as encoders made out of language models want."""
    hidden = output.last_hidden_state
    return hidden[range(len(hidden)), mask.sum(1) - 1].float()


# (model output, attention mask (B, T)) to (B, D), by what model2pooling names
POOLINGS: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "mean": mean_pool,
    "cls": lambda output, _: output.last_hidden_state[:, 0].float(),
    "last": last_pool,
    "pooler": lambda output, _: output.pooler_output.float(),
}


class Encoder:
    """A transformers encoder. ``fingerprint`` names all that its vectors depend on."""

    def __init__(
        self,
        path: Path,
        *,
        method: str = "",
        pooling: str = "mean",
        instruction: str | None = None,
        max_length: int = 512,
        batch_size: int = 256,
        half: bool = True,
        devices: Sequence[str] | None = None,
    ) -> None:
        """Load the model of a folder.

        Args:
            path: a folder with config, weights and tokenizer.
            method: the retriever's name; decides what is put before queries and passages.
            pooling: how token vectors become one, a name in ``POOLINGS``.
            instruction: replaces what is put before queries.
            max_length: tokens; cut to what the model can take.
            batch_size: texts in a batch at most.
            half: compute in half precision where the device is fast at it.
            devices: as torch names them; all encode a corpus, the first one queries. Default: all visible GPUs, else
                the CPU.

        Raises:
            InputError: the folder holds no such model, or the pooling is unknown.
        """
        if pooling not in POOLINGS:
            raise InputError(f"model2pooling of {method}: {pooling!r} is unknown; use {' or '.join(POOLINGS)}")
        # What opens the same encoder in another process.
        self.options = {
            "path": path,
            "method": method,
            "pooling": pooling,
            "instruction": instruction,
            "max_length": max_length,
            "batch_size": batch_size,
            "half": half,
        }
        self.path, self.batch_size, self._pool = path, batch_size, POOLINGS[pooling]
        self.devices = list(devices or visible_devices())
        check_devices(self.devices, "retrieval_devices")
        self.device = self.devices[0]
        # Padded on the right: where the first and the last token are is counted from the left.
        self.tokenizer, model, _ = load_model(path, ENCODER, pooler=pooling == "pooler")
        dtype = half_precision(self.device) if half else None
        self.model: Any = model.to(device=self.device, dtype=dtype)
        budget = batch_size * 128
        self.batch_tokens = min(budget, CPU_BATCH_TOKENS) if self.device == "cpu" else budget
        self.max_length = min(max_length, length_limit(model.config, self.tokenizer) or max_length)
        self.prefixes = instructions(method, instruction)
        # Not the precision: an index that one machine built is another's, whatever each is fast at.
        described = [pooling, self.prefixes[PASSAGE], str(self.max_length)]
        self.fingerprint = hashlib.sha256("\0".join([weights_fingerprint(path), *described]).encode()).hexdigest()

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        return int(self.model.config.hidden_size)

    def encode(self, texts: Sequence[str], kind: str, done: Callable[[int], object] | None = None) -> np.ndarray:
        """Return the vectors of texts, float32 of shape (texts, dimension), each of length 1.

        Args:
            texts: at least one text.
            kind: ``QUERY`` or ``PASSAGE``: what is put before the text.
            done: told after each batch how many texts were in it.
        """
        import torch
        from torch.nn.functional import normalize

        prefixed = [self.prefixes[kind] + text for text in texts]
        ids = self.tokenizer(prefixed, truncation=True, max_length=self.max_length)["input_ids"]
        lengths = [len(i) for i in ids]
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        with torch.inference_mode():
            for batch in token_batches(lengths, self.batch_tokens, self.batch_size):
                padded = self.tokenizer.pad({"input_ids": [ids[i] for i in batch]}, return_tensors="pt")
                inputs = padded.to(self.device)
                pooled = self._pool(self.model(**inputs), inputs["attention_mask"])
                vectors[batch] = normalize(pooled, dim=-1).cpu().numpy()
                if done:
                    done(len(batch))
        return vectors
