"""Devices, their precision, and batches that fit into their memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from utils.errors import InputError
from utils.progress import log

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
# How CUDA, its libraries and the CPU's allocator say that memory has run out.
OUT_OF_MEMORY = ("out of memory", "STATUS_ALLOC_FAILED", "not enough memory", "can't allocate memory")
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

    bf16 where there is hardware for it, fp16 on older GPUs. On CPUs that is AMX, or AVX-512-BF16 of AMD: on Intel's,
    where AMX is missing or hidden by a virtual machine, bf16 takes almost twice the time of full precision.
    """
    import torch

    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    capabilities = torch.cpu.get_capabilities()
    avx = capabilities.get("avx512_bf16") and "Intel" not in str(capabilities.get("cpu_name"))
    return torch.bfloat16 if avx or capabilities.get("amx_bf16") else None


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


@dataclass
class Batches:
    """How much goes through a model at once: less from when the device's memory has run out on."""

    max_tokens: int  # with padding
    max_items: int

    def compute(
        self, lengths: Sequence[int], model: Callable[[list[int]], torch.Tensor]
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Yield positions in length-bucketed batches, each with what ``model`` returns for them.

        OutOfMemoryError if the memory does not even hold one of them.
        """
        import torch

        waiting = list(token_batches(lengths, self.max_tokens, self.max_items))
        while waiting:
            if (found := within_memory(partial(model, waiting[0]))) is not None:
                yield waiting.pop(0), found
                continue
            if len(waiting[0]) == 1:
                raise torch.OutOfMemoryError(f"a single text of {lengths[waiting[0][0]]} tokens does not fit")
            self.max_tokens = len(waiting[0]) * lengths[waiting[0][0]] // 2
            log.warning("out of memory: from here on, batches hold at most %d tokens", self.max_tokens)
            left = [position for batch in waiting for position in batch]
            plan = token_batches([lengths[i] for i in left], self.max_tokens, self.max_items)
            waiting = [[left[i] for i in batch] for batch in plan]


def within_memory(work: Callable[[], T]) -> T | None:
    """Return what ``work`` returns, or None where memory ran out over it and has been freed."""
    import torch

    try:
        return work()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that the device's, or the machine's, memory has run out."""
    import torch

    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in OUT_OF_MEMORY)
