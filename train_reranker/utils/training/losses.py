"""What a training minimises: one loss per group, of shape (groups,), from scores of shape (groups, size).

A teacher's scores have the same shape, and NaN where it gave none: such a passage takes no part in the loss, which is 0
for a group with fewer than two scores.
"""

import torch
from torch import Tensor

CENTRED_WEIGHT = 0.1  # of the squared error, which is much larger than the divergence at first


def listwise(scores: Tensor, grades: Tensor) -> Tensor:
    """Return ListNet's cross-entropy (Cao et al., 2007), the target being each grade's share of the group's sum.

    Unlike a softmax of the grades, the shares leave nothing to grade 0, as in Bruch (2021), but in proportion to the
    grades, as nDCG's gains are here. With a single graded passage this is FlagEmbedding's cross-entropy.
    """
    return -(scores.log_softmax(1) * grades).sum(1) / grades.sum(1)


def soft_cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of the softmax towards a teacher's: FlagEmbedding's distillation."""
    unknown, lowest = targets.isnan(), torch.finfo(scores.dtype).min  # minus infinity has no gradient
    wanted, ours = (values.masked_fill(unknown, lowest) for values in (targets, scores))
    return -(wanted.softmax(1) * ours.log_softmax(1)).masked_fill(unknown, 0).sum(1)


def distillation(scores: Tensor, targets: Tensor) -> Tensor:
    """Return how far the scores are from a teacher's.

    The Kullback-Leibler divergence of the softmaxes, as in ListNet (Cao et al., 2007), sees the order and the gaps at
    the top; a tenth of the squared error of the scores, centred within their group, keeps the scale as well.
    """
    divergence = soft_cross_entropy(scores, targets) - soft_cross_entropy(targets, targets)
    unknown = targets.isnan()
    count = (~unknown).sum(1, keepdim=True).clamp(min=1)
    error = (scores - targets).masked_fill(unknown, 0)
    centred = (error - error.sum(1, keepdim=True) / count).masked_fill(unknown, 0)
    return divergence + CENTRED_WEIGHT * (centred**2).sum(1) / count.view(-1)


def as_groups(values: list[float], scores: Tensor) -> Tensor:
    """Return one number per pair in the shape of ``scores``, (groups, size), on their device."""
    return torch.tensor(values, dtype=scores.dtype, device=scores.device).view_as(scores)
