"""What encoders and rerankers share: their folders, the devices that they run on, and batches of like length."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.cli import ROOT, InputError, find

if TYPE_CHECKING:
    import torch

BASE_MODEL = "BAAI/bge-reranker-v2-m3"
# What a model's folder must hold, and by which names.
PARTS = {
    "config.json": ("config.json",),
    "weights": ("*.safetensors", "pytorch_model*.bin"),
    "tokenizer": ("tokenizer.json", "vocab.*", "*.model"),
}

# Positions of these model types start behind the padding's, so that many of the table's rows are never used.
POSITIONS_AFTER_PADDING = (
    "camembert", "data2vec-text", "ibert", "lilt", "longformer", "luke", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip

# More tokens at once make a CPU no faster and only take memory.
CPU_BATCH_TOKENS = 4096


def find_model(path: str | Path) -> Path:
    """Return the folder of a reranker, or of an encoder to make one of, looked up as all inputs are.

    Raises:
        InputError: it is not there, which says what to download to where, or it lacks a file of a model.
    """
    found = find(path)
    if found is None:
        # A folder of ours before the slash, as in models/name, is no owner of a repository.
        named = re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(path)) and find(Path(path).parent) is None
        repository = str(path) if named else BASE_MODEL
        folder = ROOT / "models" / repository.partition("/")[2]
        raise InputError(
            f"model {path} is not there: fine-tune one with train_reranker.py, or download {repository} "
            f"(hf download {repository} --local-dir {folder}) and name its folder"
        )
    missing = [what for what, names in PARTS.items() if not any(any(found.glob(n)) for n in names)]
    if missing:
        raise InputError(f"model {found} has no {' and no '.join(missing)}: give the folder of a whole model")
    return found


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
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
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


def check_devices(devices: Sequence[str], key: str) -> None:
    """Refuse GPUs that cannot be seen.

    Raises:
        InputError: names them, the configuration's ``key``, and what can be seen.
    """
    visible = visible_devices()
    if missing := [device for device in devices if device != "cpu" and device not in visible]:
        raise InputError(
            f"{key} names {', '.join(missing)}, but only {', '.join(visible)} can be seen: mend it, or "
            "CUDA_VISIBLE_DEVICES, from which GPUs are counted"
        )


def load_pretrained(auto: Any, path: Path, what: str, *, whole: bool = False, **options: Any) -> tuple[Any, Any]:
    """Return tokenizer and model of a folder through a transformers auto class.

    ``whole`` refuses a folder that lacks weights, which would be drawn at random: an encoder's, that has no head.

    Raises:
        InputError: the folder cannot be loaded as such a model.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # loading takes a second; the bars that matter are our own
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model, found = auto.from_pretrained(path, output_loading_info=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{what} {path} cannot be loaded ({first}); see models/README.md") from None
    if whole and (missing := sorted(found["missing_keys"])):
        raise InputError(
            f"{what} {path} has no weights for {missing[0]}: it is no reranker; name one, or make one of it with "
            "train_reranker.py"
        )
    return tokenizer, model


def cut_text(tokenizer: Any, text: str, limit: int) -> str:
    """Return the beginning of a text that is at most ``limit`` tokens long."""
    encoded = tokenizer(text, add_special_tokens=False, truncation=True, max_length=limit, return_offsets_mapping=True)
    return text if len(encoded["input_ids"]) < limit else text[: encoded["offset_mapping"][-1][1]]


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that the device's, or the machine's, memory has run out."""
    import torch

    told = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in told or "can't allocate memory" in told


def length_limit(config: Any, tokenizer: Any) -> int:
    """Return how many tokens a loaded model takes: what its positions and its tokenizer allow."""
    limit = position_limit(config.to_dict())
    return int(min(limit or math.inf, tokenizer.model_max_length))


def position_limit(config: Mapping[str, Any]) -> int | None:
    """Return how many tokens a model can take by its ``config.json``; None where that does not say."""
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions <= 0:
        return None
    if config.get("model_type") not in POSITIONS_AFTER_PADDING:
        return positions
    padding = config.get("pad_token_id")
    return positions - 1 - (1 if padding is None else padding)


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
