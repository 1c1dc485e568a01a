"""Micro-batches: scores and gradients of one batch, whether graphs are kept, recomputed or run out of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from utils.training.groups import Group, collate
from utils.training.micro_batches import MemoryBudget, MicroBatchScorer

LENGTHS = [30, 7, 120, 64, 8, 9, 100, 31]


def load(folder: Path, dropout: bool = False) -> Any:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return model.train(dropout)


def ragged() -> dict[str, Any]:
    torch.manual_seed(1)
    pairs = [{"input_ids": torch.randint(5, 60, (n,)).tolist(), "token_type_ids": [0] * n} for n in LENGTHS]
    return collate([Group(pairs)])["pair"]


def gradients(model: Any, memory: MemoryBudget, pairs: dict[str, Any] | None = None) -> tuple[Any, list[Any]]:
    """Scores of the ragged batch, and the gradients of their listwise loss."""
    torch.manual_seed(2)
    model.zero_grad()
    pairs = pairs or ragged()
    scores = MicroBatchScorer(model, {"input_ids": 0, "token_type_ids": 0}, memory)(pairs)
    torch.nn.functional.cross_entropy(scores.view(-1, 4), torch.zeros(2, dtype=torch.long)).backward()
    return scores.detach(), [None if p.grad is None else p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(("tokens", "overhead"), [(1, 0), (130, 0), (300, 50), (10_000, 0)])
def test_micro_batches_change_no_score_and_no_gradient(
    tiny_reranker: Path, tokens: int, overhead: int, keep: bool
) -> None:
    model = load(tiny_reranker)
    padded = torch.nn.utils.rnn.pad_sequence(list(ragged()["input_ids"].split(LENGTHS)), batch_first=True)
    whole = model(padded, attention_mask=(padded != 0).long()).logits
    expected, gradient = gradients(model, MemoryBudget(10**6))
    assert torch.allclose(expected, whole, atol=1e-5)
    scores, found = gradients(model, MemoryBudget(tokens, keep, multiple=8, overhead=overhead))
    assert torch.allclose(scores, expected, atol=1e-5)
    for ours, theirs in zip(found, gradient, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.allclose(ours, theirs, atol=1e-5)


def test_recomputation_draws_the_same_dropout(tiny_reranker: Path) -> None:
    model = load(tiny_reranker, dropout=True)
    (kept, one), (again, other) = (gradients(model, MemoryBudget(130, keep)) for keep in (True, False))
    assert torch.equal(kept, again)
    assert all(a is None or torch.allclose(a, b, atol=1e-6) for a, b in zip(one, other, strict=True))


def test_half_precision_sums_in_full(tiny_reranker: Path) -> None:
    model = load(tiny_reranker)
    _, full = gradients(model, MemoryBudget(130, keep=False))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, autocast = gradients(model, MemoryBudget(130, keep=False))
    _, half = gradients(model.bfloat16(), MemoryBudget(130, keep=False))
    for a, b, c in zip(full, autocast, half, strict=True):
        if a is not None and a.abs().max() > 1e-3:
            assert b.dtype == torch.float32
            assert c.dtype == torch.bfloat16
            assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.98
            assert torch.nn.functional.cosine_similarity(a.flatten(), c.float().flatten(), dim=0) > 0.98


@pytest.mark.parametrize("in_backward", [False, True])
def test_exhausted_memory_lowers_the_budget(
    tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, in_backward: bool
) -> None:
    model = load(tiny_reranker)
    expected = gradients(model, MemoryBudget(10**6))
    forward = type(model).forward

    def small(self: Any, input_ids: Any, **rest: Any) -> Any:
        if input_ids.numel() > 200 and torch.is_grad_enabled() >= in_backward:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, input_ids=input_ids, **rest)

    monkeypatch.setattr(type(model), "forward", small)
    memory = MemoryBudget(1000, keep=not in_backward, multiple=8)
    scores, found = gradients(model, memory)
    assert "out of memory: from here on" in caplog.text
    assert memory.max_tokens < 1000
    assert not memory.keep
    assert torch.allclose(scores, expected[0], atol=1e-5)
    assert all(a is None or torch.allclose(a, b, atol=1e-5) for a, b in zip(expected[1], found, strict=True))


def test_a_pair_too_large_for_memory_is_an_error(tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(tiny_reranker)

    def full(self: Any, **inputs: Any) -> Any:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(type(model), "forward", full)
    with pytest.raises(torch.OutOfMemoryError, match="a single pair"):
        gradients(model, MemoryBudget(1000))
