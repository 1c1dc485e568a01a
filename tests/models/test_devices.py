"""Devices: what is refused, and batches that fit into their memory."""

from __future__ import annotations

import pytest
import torch

from utils.errors import InputError
from utils.models.devices import check_devices, half_precision, is_out_of_memory, token_batches


def test_batches_hold_both_budgets_and_every_item_once_longest_first() -> None:
    lengths = [5, 90, 20, 20, 5, 5, 40]
    batches = list(token_batches(lengths, 60, 3))
    assert batches == [[1], [6], [2, 3, 0], [4, 5]]  # 90 alone is over the budget; 40 and 20 would take 80, padded
    assert list(token_batches([], 60, 3)) == []


def test_gpus_that_are_not_visible_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    check_devices(["cpu", "cuda:0"], "reranker_devices")
    with pytest.raises(InputError, match=r"reranker_devices names cuda:1, but only cuda:0 can be seen: fix the key"):
        check_devices(["cuda:0", "cuda:1"], "reranker_devices")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({}, None), ({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16)],
)
def test_cpus_compute_in_bf16_where_they_have_hardware_for_it(
    capabilities: dict[str, bool], expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    assert half_precision("cpu") == expected


def test_out_of_memory_differs_from_other_errors() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("shapes differ"))
