"""The text encoder: texts to L2-normalised vectors, pooled and prompted as the model wants it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.errors import InputError, RunError
from utils.models.devices import CPU_BATCH_TOKENS, check_devices, half_precision, token_batches, visible_devices
from utils.models.folders import read_json, weights_fingerprint
from utils.models.lengths import length_limit
from utils.models.loading import ENCODER, load_model
from utils.retrieval.recipe import read_recipe

if TYPE_CHECKING:
    import torch

QUERY, PASSAGE = "query", "passage"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # tell whether a tokenizer minds capitals


def sum_pool(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the sum over the tokens that are no padding, (B, D)."""
    return (hidden * mask.unsqueeze(-1)).sum(1)


def count(mask: torch.Tensor) -> torch.Tensor:
    """Return how many tokens are no padding, (B, 1), at least 1."""
    return mask.sum(1, keepdim=True).clamp(min=1)


def weighted_pool(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean in which the n-th token counts n times, (B, D): SGPT's (Muennighoff, arXiv 2202.08904)."""
    weights = mask * mask.new_tensor(range(1, mask.shape[1] + 1))
    return sum_pool(hidden, weights) / weights.sum(1, keepdim=True).clamp(min=1)


# (token vectors (B, T, D) in float32, mask (B, T), padding to the right) to (B, D), by what model2pooling names
POOLINGS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mean": lambda hidden, mask: sum_pool(hidden, mask) / count(mask),
    "cls": lambda hidden, mask: hidden[range(len(hidden)), mask.argmax(1)],
    "max": lambda hidden, mask: hidden.masked_fill(mask.unsqueeze(-1) == 0, -np.inf).amax(1),
    "last": lambda hidden, mask: hidden[range(len(hidden)), mask.cumsum(1).argmax(1)],
    "mean_sqrt_len_tokens": lambda hidden, mask: sum_pool(hidden, mask) / count(mask).sqrt(),
    "weightedmean": weighted_pool,
}
POOLER = "pooler"  # the model's own, which is no function of the token vectors


class Encoder:
    """A transformers encoder. ``fingerprint`` names all that its vectors of length ``dimension`` depend on."""

    def __init__(
        self,
        path: Path,
        *,
        method: str = "",
        pooling: str | None = None,
        instruction: str | None = None,
        passage_instruction: str | None = None,
        max_length: int = 512,
        batch_size: int = 256,
        half: bool = True,
        devices: Sequence[str] | None = None,
    ) -> None:
        """Load the model of a folder.

        Args:
            path: a folder with config, weights and tokenizer.
            method: the retriever's name in the configuration; tells the model's family where the folder does not.
            pooling: how token vectors become one: names in ``POOLINGS``, joined by "+", or ``POOLER``. Default: the
                model's.
            instruction: put before queries. Default: the model's.
            passage_instruction: put before passages. Default: the model's.
            max_length: tokens; cut to what the model can take.
            batch_size: texts in a batch at most.
            half: compute in half precision where the device is fast at it.
            devices: as torch names them; all encode a corpus, the first one queries. Default: all visible GPUs, else
                the CPU.

        Raises:
            InputError: the folder holds no such model, or one that cannot be used as its files say, the pooling is
                unknown, or ``max_length`` leaves no room for a text.
        """
        # What opens the same encoder in another process.
        self.options = {
            "path": path,
            "method": method,
            "pooling": pooling,
            "instruction": instruction,
            "passage_instruction": passage_instruction,
            "max_length": max_length,
            "batch_size": batch_size,
            "half": half,
        }
        options = {"pooling": pooling, "instruction": instruction, "passage_instruction": passage_instruction}
        self.recipe = read_recipe(path, method, **options)
        self.path, self.batch_size, folder = path, batch_size, self.recipe.folder
        self._poolings = self.recipe.pooling.split("+")
        if self._poolings != [POOLER] and (unknown := [name for name in self._poolings if name not in POOLINGS]):
            raise InputError(
                f"pooling of {method or path}: {unknown[0]!r} is unknown; let model2pooling name "
                f"{' or '.join([*POOLINGS, POOLER])}"
            )
        path = folder.transformer
        self.devices = list(devices or visible_devices())
        check_devices(self.devices, "retrieval_devices")
        self.device = self.devices[0]
        # Padded on the right: where the first and the last token are is counted from the left.
        self.tokenizer, model, _ = load_model(path, ENCODER, pooler=self._poolings == [POOLER])
        dtype = half_precision(self.device) if half else None
        self.model: Any = model.to(device=self.device, dtype=dtype)
        budget = batch_size * 128
        self.batch_tokens = min(budget, CPU_BATCH_TOKENS) if self.device == "cpu" else budget
        self._steps: list[Any] = [open_dense(step).to(self.device) if step else unit_length for step in folder.steps]
        self.dimension = int(model.config.hidden_size) * len(self._poolings)
        for dense in (step[0] for step in self._steps if step is not unit_length):
            if dense.in_features != self.dimension:
                raise InputError(
                    f"{self.path}: a dense layer takes {dense.in_features} numbers, but {self.recipe.pooling} pooling "
                    f"gives {self.dimension}: let model2pooling name another, or download the model again"
                )
            self.dimension = dense.out_features
        self._lower = folder.lower_case and self.tokenizer.tokenize(LETTERS) != self.tokenizer.tokenize(LETTERS.lower())
        self.prefixes = {QUERY: self.recipe.query, PASSAGE: self.recipe.passage}
        limits = (folder.max_length, length_limit(model.config, self.tokenizer))
        self.max_length = min([max_length, *filter(None, limits)])
        taken = {kind: self._count(text) for kind, text in self.prefixes.items()}
        if self.max_length <= max(taken.values()):
            raise InputError(
                f"retrieval_query_max_length {max_length}: {self.path} takes {self.max_length} tokens then, and "
                f"{max(taken.values())} of them are its own and the instruction's: raise it, or shorten the instruction"
            )
        # Tokens of the prompt that are not pooled; the model's own last one comes behind the text.
        self._unpooled = {
            kind: self._count(text, last=False) if text and not folder.pools_prompt else 0
            for kind, text in self.prefixes.items()
        }
        # Not the precision: an index that one machine built is another's, whatever each is fast at. What few models
        # have is added where they have it, so that the others' indexes stay what they were.
        described = [self.recipe.pooling, self.prefixes[PASSAGE], str(self.max_length)]
        described += ["lower case"] * self._lower + ["prompt not pooled"] * (self._unpooled[PASSAGE] > 0)
        if any(folder.steps):  # normalising alone changes nothing
            described += [weights_fingerprint(step) if step else "normalised" for step in folder.steps]
        self.fingerprint = hashlib.sha256("\0".join([weights_fingerprint(path), *described]).encode()).hexdigest()

    def _count(self, prefix: str, last: bool = True) -> int:
        """Return the tokens of a prefix and the model's own, without the ``last`` one if that is the model's own."""
        ids = self.tokenizer(self._as_read(prefix))["input_ids"]
        return len(ids) - (not last and bool(ids) and ids[-1] in self.tokenizer.all_special_ids)

    def _as_read(self, text: str) -> str:
        return text.lower() if self._lower else text

    def encode(self, texts: Sequence[str], kind: str, done: Callable[[int], object] | None = None) -> np.ndarray:
        """Return the vectors of texts, float32 of shape (texts, dimension), each of length 1.

        Args:
            texts: at least one text.
            kind: ``QUERY`` or ``PASSAGE``: what is put before the text.
            done: told after each batch how many texts were in it.

        Raises:
            RunError: the model gives no numbers, or only zeros.
        """
        import torch

        prefixed = [self._as_read(self.prefixes[kind] + text) for text in texts]
        ids = self.tokenizer(prefixed, truncation=True, max_length=self.max_length)["input_ids"]
        lengths = [len(i) for i in ids]
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        with torch.inference_mode():
            for batch in token_batches(lengths, self.batch_tokens, self.batch_size):
                padded = self.tokenizer.pad({"input_ids": [ids[i] for i in batch]}, return_tensors="pt")
                inputs = padded.to(self.device)
                pooled = self._pool(self.model(**inputs), inputs["attention_mask"], self._unpooled[kind])
                vectors[batch] = pooled.cpu().numpy()
                if done:
                    done(len(batch))
        if (wrong := np.flatnonzero(off_unit_length(vectors))).size:
            raise RunError(
                f"retrieval model {self.path} gives no vector for {len(wrong)} of {len(texts)} texts, such as "
                f"{texts[wrong[0]][:30]!r}: set retrieval_use_fp16: False; if it stays so, the weights are damaged"
            )
        return vectors

    def _pool(self, output: Any, mask: torch.Tensor, unpooled: int) -> torch.Tensor:
        """Return one vector a text, (B, D), out of the model's output and its attention mask, (B, T)."""
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


def unit_length(vectors: torch.Tensor) -> torch.Tensor:
    """Return vectors, (N, D), scaled to length 1."""
    import torch

    return torch.nn.functional.normalize(vectors, dim=-1)


def off_unit_length(vectors: np.ndarray) -> np.ndarray:
    """Return which of the vectors, (N, D), are not of length 1 to 0.01: also those of zeros, or with no number."""
    return ~(np.abs(np.linalg.norm(vectors, axis=1) - 1) < 0.01)


def open_dense(folder: Path) -> Any:
    """Return the dense layer that sentence-transformers saved in a folder.

    Raises:
        InputError: it cannot be loaded, or is of a kind that cannot be applied here.
    """
    import torch
    from safetensors.torch import load_file

    config = read_json(folder / "config.json")
    sides = [config.get(f"module_{side}_name") or "sentence_embedding" for side in ("input", "output")]
    package, _, activation = str(config.get("activation_function", "torch.nn.Tanh")).rpartition(".")
    if sides != ["sentence_embedding"] * 2 or not package.startswith("torch.nn") or config.get("use_residual"):
        raise InputError(f"{folder / 'config.json'}: such a layer cannot be applied here: name another model")
    try:
        linear = torch.nn.Linear(config["in_features"], config["out_features"], config.get("bias", True))
        weights = folder / "model.safetensors"
        state = load_file(weights) if weights.exists() else torch.load(folder / "pytorch_model.bin", weights_only=True)
        linear.load_state_dict({name.removeprefix("linear."): value for name, value in state.items()})
        return torch.nn.Sequential(linear.float(), getattr(torch.nn, activation)()).eval()
    except Exception as error:  # damaged weights raise what they like
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{folder} cannot be loaded ({first}): download the model again") from None
