"""How long each stage of retrieval took."""

import time
from collections import defaultdict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager


class Clock:
    """Adds up seconds and units of work (queries, documents, pairs) per stage."""

    def __init__(self) -> None:
        """Start at zero."""
        self.seconds: defaultdict[Hashable, float] = defaultdict(float)
        self.units: defaultdict[Hashable, int] = defaultdict(int)

    @contextmanager
    def over(self, stage: Hashable, units: int) -> Iterator[None]:
        """Time one piece of work."""
        started = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - started
        self.units[stage] += units

    def mean(self, stage: Hashable) -> float:
        """Return seconds per unit, 0 where nothing was done."""
        return self.seconds[stage] / self.units[stage] if self.units[stage] else 0.0
