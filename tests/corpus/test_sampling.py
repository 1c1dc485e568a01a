"""The seeded order of rows."""

from __future__ import annotations

import random

import numpy as np
import pytest

from utils.corpus.sampling import shuffled


@pytest.mark.parametrize("count", [1, 2, 5, 24, 5000])
def test_shuffle_yields_each_number_once(count: int) -> None:
    orders = [np.concatenate(list(shuffled(count, random.Random(seed)))).tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == sorted(orders[2]) == list(range(count))
    assert count < 24 or orders[0] != orders[2]


def test_first_of_a_shuffle_is_any_number_as_often() -> None:
    firsts = [int(next(shuffled(10, random.Random(seed)))[0]) for seed in range(2000)]
    assert all(140 < firsts.count(number) < 260 for number in range(10))  # 200 each, give or take 4 deviations
