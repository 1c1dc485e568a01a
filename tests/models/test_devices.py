"""Devices: what is refused, and batches that fit into their memory."""

from __future__ import annotations

import pytest
import torch

from utils.errors import InputError
from utils.models.devices import Batches, check_devices, half_precision, is_out_of_memory, token_batches


def test_batches_hold_both_budgets_and_every_item_once_longest_first() -> None:
    lengths = [5, 90, 20, 20, 5, 5, 40]
    batches = list(token_batches(lengths, 60, 3))
    assert batches == [[1], [6], [2, 3, 0], [4, 5]]  # 90 alone is over the budget; 40 and 20 would take 80, padded
    assert list(token_batches([], 60, 3)) == []


def test_batches_shrink_for_good_where_memory_runs_out(caplog: pytest.LogCaptureFixture) -> None:
    lengths, asked = [5, 90, 20, 20, 5, 5, 40], []

    def model(batch: list[int]) -> torch.Tensor:
        asked.append(batch)
        if len(batch) * max(lengths[i] for i in batch) > 90:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.tensor(batch)

    batches = Batches(200, 7)
    for _ in range(2):
        results = [(batch, found.tolist()) for batch, found in batches.compute(lengths, model)]
        assert results == [([1], [1]), ([6, 2], [6, 2]), ([3, 0, 4, 5], [3, 0, 4, 5])]
    assert asked[0] == [1, 6]
    assert (len(asked), batches.max_tokens) == (7, 90)
    assert caplog.text.count("out of memory: from here on, batches hold at most 90 tokens") == 1
    lengths[1] = 91
    with pytest.raises(torch.OutOfMemoryError, match="a single text of 91 tokens"):
        [*batches.compute(lengths, model)]


def test_gpus_that_are_not_visible_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    check_devices(["cpu", "cuda:0"], "reranker_devices")
    with pytest.raises(InputError, match=r"reranker_devices names cuda:1, but only cuda:0 can be seen: fix the key"):
        check_devices(["cuda:0", "cuda:1"], "reranker_devices")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, None),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, torch.bfloat16),
        ({"avx512_bf16": True, "cpu_name": "Intel Xeon"}, None),
        ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, torch.bfloat16),
    ],
)
def test_cpus_compute_in_bf16_where_they_have_hardware_for_it(
    capabilities: dict[str, object], expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    assert half_precision("cpu") == expected


def test_out_of_memory_differs_from_other_errors() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"))  # filled by others
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not is_out_of_memory(RuntimeError("shapes differ"))
