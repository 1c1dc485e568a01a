"""The losses, by plain arithmetic."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from trainings import distillation_by_hand, softmax
from utils.training.losses import as_groups, distillation, listwise, soft_cross_entropy

NAN = math.nan


def test_distillation_is_divergence_and_a_tenth_of_the_squared_error() -> None:
    rng = np.random.default_rng(0)
    scores, targets = rng.normal(0, 3, (2, 4, 6)).tolist()
    loss = distillation(torch.tensor(scores), torch.tensor(targets))
    assert float(loss.mean()) == pytest.approx(distillation_by_hand(scores, targets), rel=1e-5)


def test_only_differences_within_a_group_count() -> None:
    scores = torch.tensor([[1.0, 2.0, 4.0], [0.0, 1.0, 0.0]], requires_grad=True)
    loss = distillation(scores, scores.detach() + torch.tensor([[5.0], [-7.0]]))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([0, 0], abs=1e-6)
    assert scores.grad is not None
    assert float(scores.grad.abs().max()) < 1e-6


def test_numbers_take_the_shape_of_the_groups() -> None:
    grouped: Any = as_groups([1, 2, 3, 4, 5, 6], torch.zeros(2, 3))
    assert grouped.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_listwise_weighs_passages_by_their_grades() -> None:
    scores = [[2.0, 1.0, 0.0, -1.0], [0.5, 3.0, 1.0, 0.0]]
    grades = torch.tensor([[3, 1, 0, 0], [1, 0, 0, 0]])
    first, second = (softmax(group) for group in scores)
    expected = [-(3 * math.log(first[0]) + math.log(first[1])) / 4, -math.log(second[0])]
    assert listwise(torch.tensor(scores), grades).tolist() == pytest.approx(expected)
    one_positive = torch.nn.functional.cross_entropy(torch.tensor(scores[1:]), torch.tensor([0]))
    assert expected[1] == pytest.approx(float(one_positive))


@pytest.mark.parametrize("loss", [distillation, soft_cross_entropy])
def test_a_passage_without_a_score_takes_no_part(loss: Any) -> None:
    scores = torch.tensor([[1.0, 2.0, 9.0, 4.0], [1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]], requires_grad=True)
    targets = torch.tensor([[0.5, -1.0, NAN, 3.0], [NAN, NAN, NAN, NAN], [NAN, 2.0, NAN, NAN]])
    found = loss(scores, targets)
    found.sum().backward()
    kept = loss(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0.5, -1.0, 3.0]]))
    assert found.tolist() == pytest.approx([float(kept), 0, 0], abs=1e-6)
    assert scores.grad is not None
    moved = scores.grad[0].abs() > 1e-6
    assert moved.tolist() == [True, True, False, True]
    assert scores.grad[1:].abs().max() == 0
