"""What a training minimises beside FlagEmbedding's losses."""

import torch
from torch import Tensor
from torch.nn.functional import kl_div, mse_loss

CENTRED_WEIGHT = 0.1  # of the squared error, which is much larger than the divergence at first


def distillation(scores: Tensor, targets: Tensor) -> Tensor:
    """Return how far the scores of groups are from a teacher's, both of shape (groups, size).

    The Kullback-Leibler divergence of the softmaxes, as in ListNet (Cao et al., 2007), sees the order and the gaps at
    the top; a tenth of the squared error of the scores, centred within their group, keeps the scale as well.
    """
    divergence = kl_div(scores.log_softmax(1), targets.softmax(1), reduction="batchmean")
    centred, wanted = (values - values.mean(1, keepdim=True) for values in (scores, targets))
    return divergence + CENTRED_WEIGHT * mse_loss(centred, wanted)


def as_groups(values: list[float], scores: Tensor) -> Tensor:
    """Return one number per pair in the shape of ``scores``, (groups, size), on their device."""
    return torch.tensor(values, dtype=scores.dtype, device=scores.device).view_as(scores)
