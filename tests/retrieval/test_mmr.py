"""Ties and weights of maximal marginal relevance; test_retriever.py has its definition."""

from __future__ import annotations

import numpy as np
import pytest

from utils.errors import InputError
from utils.retrieval.mmr import Lambdas, mmr


def test_ties_go_to_the_better_rank() -> None:
    query, source = np.full(2, 0.5**0.5), np.zeros(2)
    pool = np.array([[1.0, 0], [0, 1], [0, 1], [1, 0]])
    assert mmr(query, pool, source, 4, Lambdas(0.5, 0, 0.5)) == [0, 1, 2, 3]


@pytest.mark.parametrize("lambdas", [(-0.1, 0.5, 0.6), (0, 0, 0), (float("nan"), 1, 1), (float("inf"), 1, 1)])
def test_useless_lambdas_are_refused(lambdas: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match="lambda"):
        Lambdas.scaled(*lambdas)
