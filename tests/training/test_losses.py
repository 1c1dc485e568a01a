"""The distillation loss, by plain arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from trainings import distillation_by_hand
from utils.training.losses import as_groups, distillation


def test_distillation_is_divergence_and_a_tenth_of_the_squared_error() -> None:
    rng = np.random.default_rng(0)
    scores, targets = rng.normal(0, 3, (2, 4, 6)).tolist()
    loss = distillation(torch.tensor(scores), torch.tensor(targets))
    assert float(loss) == pytest.approx(distillation_by_hand(scores, targets), rel=1e-5)


def test_only_differences_within_a_group_count() -> None:
    scores = torch.tensor([[1.0, 2.0, 4.0], [0.0, 1.0, 0.0]], requires_grad=True)
    loss = distillation(scores, scores.detach() + torch.tensor([[5.0], [-7.0]]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert scores.grad is not None
    assert float(scores.grad.abs().max()) < 1e-6


def test_numbers_take_the_shape_of_the_groups() -> None:
    grouped: Any = as_groups([1, 2, 3, 4, 5, 6], torch.zeros(2, 3))
    assert grouped.tolist() == [[1, 2, 3], [4, 5, 6]]
