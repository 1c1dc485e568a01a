"""What the Trainer is given on a device."""

from __future__ import annotations

import pytest

from utils.training.settings import TrainingSettings


@pytest.mark.parametrize("fast", [True, False])
def test_precision_is_what_the_device_is_fast_at(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from utils.training import arguments

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(arguments, "half_precision", lambda _: torch.bfloat16 if fast else None)
    assert arguments.precision(TrainingSettings()) == {"bf16": fast, "fp16": False}
    assert arguments.precision(TrainingSettings(bf16=True)) == {"bf16": True, "fp16": False}
    for full in (TrainingSettings(no_mixed_precision=True), TrainingSettings(use_deepspeed=True)):
        assert not any(arguments.precision(full).values())
