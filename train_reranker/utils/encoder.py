"""The text encoder: texts to L2-normalised vectors, with what e5 and bge want put before them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.cli import InputError

if TYPE_CHECKING:
    import torch

# More tokens at once make a CPU no faster and only take memory.
CPU_BATCH_TOKENS = 4096

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


def visible_devices() -> list[str]:
    """Return all visible GPUs, else the CPU."""
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]


def best_device() -> str:
    """Return the device that models run on: the first visible GPU, else the CPU."""
    return visible_devices()[0]


def half_precision(device: str) -> torch.dtype | None:
    """Return the half-precision type that ``device`` computes fast, or None where that is full precision.

    bf16 where there is hardware for it (also AVX-512-BF16 or AMX on CPUs), fp16 on older GPUs.
    """
    import torch

    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if fast else None


def token_batches(lengths: Sequence[int], max_tokens: int, max_items: int) -> Iterator[list[int]]:
    """Yield positions in batches of like length, longest first: at most ``max_items`` and ``max_tokens`` padded.

    A single item longer than ``max_tokens`` is a batch of its own. Longest first: if a batch does not fit into
    memory, it is the first.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batch: list[int] = []
    for position in order:
        if batch and (len(batch) == max_items or (len(batch) + 1) * lengths[batch[0]] > max_tokens):
            yield batch
            batch = []
        batch.append(int(position))
    if batch:
        yield batch


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
        from transformers import AutoModel

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
        self.device = self.devices[0]
        self.tokenizer, model = load_pretrained(AutoModel, path, "retrieval model")
        self.tokenizer.padding_side = "right"  # where the first and the last token are is counted from the left
        dtype = half_precision(self.device) if half else None
        self.model: Any = model.to(device=self.device, dtype=dtype).eval()
        budget = batch_size * 128
        self.batch_tokens = min(budget, CPU_BATCH_TOKENS) if self.device == "cpu" else budget
        self.max_length = min(max_length, length_limit(model.config, self.tokenizer))
        self.prefixes = instructions(method, instruction)
        described = [pooling, self.prefixes[PASSAGE], str(self.max_length), str(dtype)]
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


def load_pretrained(auto: Any, path: Path, what: str, **options: Any) -> tuple[Any, Any]:
    """Return tokenizer and model of a folder through a transformers auto class.

    Raises:
        InputError: the folder cannot be loaded as such a model.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # loading takes a second; the bars that matter are our own
    try:
        return AutoTokenizer.from_pretrained(path), auto.from_pretrained(path, **options)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{what} {path} cannot be loaded ({first}); see models/README.md") from None


def length_limit(config: Any, tokenizer: Any) -> int:
    """Return how many tokens a model takes: its position embeddings, less those that RoBERTa's padding uses up."""
    positions = getattr(config, "max_position_embeddings", None) or 10**9
    if config.model_type in ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert"):
        positions -= config.pad_token_id + 1
    return int(min(positions, tokenizer.model_max_length))


def weights_fingerprint(path: Path) -> str:
    """Return a hash over the files of a model folder that its outputs depend on."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.suffix in (".safetensors", ".bin", ".txt", ".model") or file.name in (
            "config.json",
            "tokenizer.json",
        ):
            with file.open("rb") as content:
                digest.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
