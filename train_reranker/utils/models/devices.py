"""Devices, their precision, and batches that fit into their memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from utils.errors import InputError

if TYPE_CHECKING:
    import torch

CPU_BATCH_TOKENS = 4096  # more at once make a CPU no faster


def visible_devices() -> list[str]:
    """Return all visible GPUs, else the CPU."""
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]


def check_devices(devices: Sequence[str], key: str) -> None:
    """Refuse GPUs that are not visible, with an InputError that names the configuration ``key``."""
    visible = visible_devices()
    if missing := [device for device in devices if device != "cpu" and device not in visible]:
        raise InputError(
            f"{key} names {', '.join(missing)}, but only {', '.join(visible)} can be seen: fix the key, or "
            "CUDA_VISIBLE_DEVICES, from which GPUs are counted"
        )


def half_precision(device: str) -> torch.dtype | None:
    """Return the half-precision type that ``device`` computes fast, or None where that is full precision.

    bf16 where there is hardware for it (also AVX-512-BF16 or AMX on CPUs), fp16 on older GPUs.
    """
    import torch

    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else None


def token_batches(lengths: Sequence[int], max_tokens: int, max_items: int) -> Iterator[list[int]]:
    """Yield positions in length-bucketed batches of at most ``max_items``, and ``max_tokens`` with padding.

    A longer item is a batch of its own. The longest come first, so that what does not fit into memory shows at once.
    """
    batch: list[int] = []
    for position in np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable"):
        if batch and (len(batch) == max_items or (len(batch) + 1) * lengths[batch[0]] > max_tokens):
            yield batch
            batch = []
        batch.append(int(position))
    if batch:
        yield batch


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that the device's, or the machine's, memory has run out."""
    import torch

    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in text or "can't allocate memory" in text
