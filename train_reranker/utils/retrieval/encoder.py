"""The text encoder: texts to L2-normalised vectors, pooled and prompted as the model expects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.errors import InputError, RunError
from utils.models.devices import CPU_BATCH_TOKENS, Batches, check_devices, half_precision, visible_devices
from utils.models.folders import read_json, weights_fingerprint
from utils.models.lengths import length_limit
from utils.models.loading import ENCODER, load_model, unloadable
from utils.retrieval.model_conventions import EncoderOptions, read_conventions

if TYPE_CHECKING:
    import torch

    from utils.config import Config

QUERY, PASSAGE = "query", "passage"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # show whether a tokenizer is case-sensitive


def weighted_mean(hidden: torch.Tensor, weights: torch.Tensor, power: float = 1) -> torch.Tensor:
    """Return the sum of (B, T, D) token vectors by (B, T) weights, over the weights' sum to the ``power``, (B, D)."""
    return (hidden * weights.unsqueeze(-1)).sum(1) / weights.sum(1, keepdim=True).clamp(min=1) ** power


# (token vectors (B, T, D) in float32, mask (B, T), padding to the right) to (B, D), by the names for model2pooling
POOLINGS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mean": weighted_mean,
    "cls": lambda hidden, mask: hidden[range(len(hidden)), mask.argmax(1)],
    "max": lambda hidden, mask: hidden.masked_fill(mask.unsqueeze(-1) == 0, -np.inf).amax(1),
    "last": lambda hidden, mask: hidden[range(len(hidden)), mask.cumsum(1).argmax(1)],
    "mean_sqrt_len_tokens": lambda hidden, mask: weighted_mean(hidden, mask, 0.5),
    # The n-th token counts n times: SGPT (Muennighoff, arXiv 2202.08904).
    "weightedmean": lambda hidden, mask: weighted_mean(hidden, mask * mask.new_tensor(range(1, mask.shape[1] + 1))),
}
POOLER = "pooler"  # the model's own, which is no function of the token vectors


class Encoder:
    """A transformers encoder. ``fingerprint`` identifies all that its vectors of length ``dimension`` depend on."""

    def __init__(self, path: Path, options: EncoderOptions | None = None, devices: Sequence[str] | None = None) -> None:
        """Load the model of a folder; one that cannot be used, or not with these options, is an ``InputError``.

        All ``devices`` (torch's names; default: the visible GPUs, else the CPU) encode a corpus, the first one queries.
        """
        self.path, self.options = path, (options := options or EncoderOptions())
        self.conventions = read_conventions(path, options)
        self._poolings = self.conventions.pooling.split("+")
        if self._poolings != [POOLER] and (unknown := [name for name in self._poolings if name not in POOLINGS]):
            problem = f"pooling of {options.method or path}: {unknown[0]!r} is unknown"
            raise InputError(f"{problem}; let model2pooling name {' or '.join([*POOLINGS, POOLER])}")
        self.devices = list(devices or visible_devices())
        check_devices(self.devices, "retrieval_devices")
        self.device = self.devices[0]
        folder, pooler = self.conventions.folder, self._poolings == [POOLER]
        # Padded on the right: the first and the last token are found by counting from the left.
        self.tokenizer, model, _ = load_model(folder.transformer, ENCODER, pooler=pooler)
        self.model: Any = model.to(device=self.device, dtype=half_precision(self.device) if options.half else None)
        budget = options.batch_size * 128
        limit = min(budget, CPU_BATCH_TOKENS) if self.device == "cpu" else budget
        self.batches = Batches(limit, options.batch_size)
        self._steps: list[Any] = [open_dense(step).to(self.device) if step else unit_length for step in folder.steps]
        self.dimension = self._final_dimension(int(model.config.hidden_size) * len(self._poolings))
        self._lower = folder.lower_case and self.tokenizer.tokenize(LETTERS) != self.tokenizer.tokenize(LETTERS.lower())
        self.prefixes = {QUERY: self.conventions.query, PASSAGE: self.conventions.passage}
        self.max_length = self._usable_length()
        # Tokens of the prompt that are not pooled; the model's own last one comes behind the text.
        self._unpooled = dict.fromkeys(self.prefixes, 0)
        if not folder.pools_prompt:
            self._unpooled |= {kind: self._count(text, last=False) for kind, text in self.prefixes.items() if text}
        self.fingerprint = self._fingerprint()

    def _final_dimension(self, dimension: int) -> int:
        """Return the length of the vectors after all steps, of which each must fit the one before."""
        for dense in (step[0] for step in self._steps if step is not unit_length):
            if dense.in_features != dimension:
                takes = f"{self.path}: a dense layer takes {dense.in_features} numbers"
                gives = f"{self.conventions.pooling} pooling gives {dimension}"
                raise InputError(f"{takes}, but {gives}: let model2pooling name another, or download the model again")
            dimension = dense.out_features
        return dimension

    def _usable_length(self) -> int:
        """Return how many tokens a text has at most, prompt included; some must be left for the text itself."""
        limits = (self.conventions.folder.max_length, length_limit(self.model.config, self.tokenizer))
        length = min([self.options.max_length, *filter(None, limits)])
        taken = max(map(self._count, self.prefixes.values()))
        if length <= taken:
            filled = f"of {self.path}'s {length} tokens then, its own and the instruction's fill {taken}"
            remedy = "raise it, or shorten the instruction"
            raise InputError(f"retrieval_query_max_length {self.options.max_length}: {filled}: {remedy}")
        return length

    def _fingerprint(self) -> str:
        """Return a hash of what vectors depend on; not the precision, so that machines can share an index."""
        folder = self.conventions.folder
        described = [self.conventions.pooling, self.prefixes[PASSAGE], str(self.max_length)]
        # What few models have is added where they have it, so that the others' indexes stay valid.
        described += ["lower case"] * self._lower + ["prompt not pooled"] * (self._unpooled[PASSAGE] > 0)
        if any(folder.steps):  # normalising alone changes nothing
            described += [weights_fingerprint(step) if step else "normalised" for step in folder.steps]
        return hashlib.sha256("\0".join([weights_fingerprint(folder.transformer), *described]).encode()).hexdigest()

    def _count(self, prefix: str, last: bool = True) -> int:
        """Return the tokens of a prefix and the model's own, without the ``last`` one if that is the model's own."""
        ids = self.tokenizer(self._cased(prefix))["input_ids"]
        return len(ids) - (not last and bool(ids) and ids[-1] in self.tokenizer.all_special_ids)

    def _cased(self, text: str) -> str:
        return text.lower() if self._lower else text

    def encode(self, texts: Sequence[str], kind: str, done: Callable[[int], object] | None = None) -> np.ndarray:
        """Return the vectors of texts, float32 of shape (texts, dimension), of length 1; ``RunError`` where impossible.

        ``kind``, ``QUERY`` or ``PASSAGE``, decides what goes before each text; ``done`` receives each batch's size.
        """
        import torch

        prefixed = [self._cased(self.prefixes[kind] + text) for text in texts]
        # A tokenizer takes no empty list.
        ids = self.tokenizer(prefixed, truncation=True, max_length=self.max_length)["input_ids"] if prefixed else []
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        with torch.inference_mode():
            for batch, pooled in self.batches.compute([len(i) for i in ids], partial(self._vectors, ids, kind)):
                vectors[batch] = pooled.cpu().numpy()
                if done:
                    done(len(batch))
        if (wrong := np.flatnonzero(off_unit_length(vectors))).size:
            problem = f"gives no vector for {len(wrong)} of {len(texts)} texts, such as {texts[wrong[0]][:30]!r}"
            remedy = "set retrieval_use_fp16: False; if that does not help, download the damaged model again"
            raise RunError(f"retrieval model {self.path} {problem}: {remedy}")
        return vectors

    def _vectors(self, ids: Sequence[list[int]], kind: str, batch: Sequence[int]) -> torch.Tensor:
        """Return the vectors of the texts at ``batch``, (B, D), of which all texts' token ids are given."""
        padded = self.tokenizer.pad({"input_ids": [ids[i] for i in batch]}, return_tensors="pt")
        inputs = padded.to(self.device)
        return self._pool(self.model(**inputs), inputs["attention_mask"], self._unpooled[kind])

    def _pool(self, output: Any, mask: torch.Tensor, unpooled: int) -> torch.Tensor:
        """Return one vector per text, (B, D), from the model's output and its attention mask, (B, T)."""
        import torch

        if self._poolings == [POOLER]:
            if getattr(output, "pooler_output", None) is None:
                raise InputError(f"retrieval model {self.path} has no pooler: let model2pooling name another pooling")
            pooled = output.pooler_output.float()
        else:
            mask = mask.clone()
            mask[:, :unpooled] = 0
            hidden = output.last_hidden_state.float()
            pooled = torch.cat([POOLINGS[name](hidden, mask) for name in self._poolings], dim=-1)
        for step in self._steps:
            pooled = step(pooled)
        return unit_length(pooled)


def open_encoder(config: Config) -> Encoder:
    """Open the encoder that a configuration names; ``InputError`` if it cannot be used."""
    options = EncoderOptions(
        config.retrieval_method, config.pooling, config.instruction, config.passage_instruction,
        config.retrieval_query_max_length, config.retrieval_batch_size, config.retrieval_use_fp16,
    )  # fmt: skip
    return Encoder(config.encoder_path, options, config.devices("retrieval_devices"))


def unit_length(vectors: torch.Tensor) -> torch.Tensor:
    """Return vectors, (N, D), scaled to length 1."""
    import torch

    return torch.nn.functional.normalize(vectors, dim=-1)


def off_unit_length(vectors: np.ndarray) -> np.ndarray:
    """Return which of the vectors, (N, D), are not of length 1 to 0.01, also those that are not finite."""
    close: np.ndarray = np.abs(np.linalg.norm(vectors, axis=1) - 1) < 0.01  # false for NaN
    return ~close


def open_dense(folder: Path) -> Any:
    """Return the dense layer that sentence-transformers saved in a folder; ``InputError`` if it cannot be used."""
    import torch
    from safetensors.torch import load_file

    config = read_json(folder / "config.json")
    sides = [config.get(f"module_{side}_name") or "sentence_embedding" for side in ("input", "output")]
    package, _, activation = str(config.get("activation_function", "torch.nn.Tanh")).rpartition(".")
    if sides != ["sentence_embedding"] * 2 or not package.startswith("torch.nn") or config.get("use_residual"):
        raise InputError(f"{folder / 'config.json'}: such a layer cannot be applied here: name another model")
    try:
        linear = torch.nn.Linear(config["in_features"], config["out_features"], config.get("bias", True))
        weights, older = folder / "model.safetensors", folder / "pytorch_model.bin"
        state = load_file(weights) if weights.exists() else torch.load(older, "cpu", weights_only=True)
        linear.load_state_dict({name.removeprefix("linear."): value for name, value in state.items()})
        return torch.nn.Sequential(linear.float(), getattr(torch.nn, activation)()).eval()
    except Exception as error:  # damaged weights raise anything
        raise unloadable(folder, error) from None
