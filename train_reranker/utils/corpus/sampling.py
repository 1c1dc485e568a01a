"""A seeded order of a corpus's rows, without a list of them."""

import math
import random
from collections.abc import Iterator

import numpy as np

SAMPLED_AT_ONCE = 1024


def shuffled(count: int, rng: random.Random) -> Iterator[np.ndarray]:
    """Yield 0 to ``count`` - 1 in an order that ``rng`` decides, in arrays of at most ``SAMPLED_AT_ONCE``.

    A Feistel network over the numbers as two digits (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002),
    with tables of random numbers as its four round functions: memory, and time to the first number, grow with the
    square root of ``count``.
    """
    side = math.isqrt(count - 1) + 1
    tables = [np.array([rng.randrange(side) for _ in range(side)]) for _ in range(4)]
    for start in range(0, side * side, SAMPLED_AT_ONCE):
        left, right = np.divmod(np.arange(start, min(start + SAMPLED_AT_ONCE, side * side)), side)
        for table in tables:
            left, right = right, (left + table[right]) % side
        numbers = left * side + right
        yield numbers[numbers < count]
