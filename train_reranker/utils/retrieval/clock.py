"""How long each stage of retrieval took."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


class Clock:
    """Adds up how long each kind of work took, and for how many units of it."""

    def __init__(self) -> None:
        """Start from nothing."""
        self.seconds: defaultdict[Hashable, float] = defaultdict(float)
        self.units: Counter[Hashable] = Counter()

    @contextmanager
    def over(self, work: Hashable, units: int) -> Iterator[None]:
        """Time one piece of work."""
        started = time.perf_counter()
        yield
        self.seconds[work] += time.perf_counter() - started
        self.units[work] += units

    def mean(self, work: Hashable) -> float:
        """Return seconds a unit, 0 where nothing was done."""
        return self.seconds[work] / self.units[work] if self.units[work] else 0.0
