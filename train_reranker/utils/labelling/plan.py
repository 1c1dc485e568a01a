"""How many calls of a language model a generator run needs."""

from __future__ import annotations

from typing import NamedTuple

from utils.teachers.language_model import MAX_ATTEMPTS

# Share of sources that give an example, and candidates judged per source: the offline teacher's on the demo corpus.
ACCEPTED, JUDGED = 0.5, 3


class Plan(NamedTuple):
    """What a run is asked for, and what bounds it."""

    examples: int
    candidates: int
    sources: int
    max_attempts: int | None = None
    max_calls: int | None = None
    windows: int = 1  # in which the longest document is read

    @property
    def attempts(self) -> int:
        """The most sources that are tried."""
        return min(self.sources, self.max_attempts or self.sources)

    @property
    def expected(self) -> int:
        """The expected calls: one extraction per source, and some judgements until there is one of each kind."""
        tried = min(self.attempts, round(self.examples / ACCEPTED))
        return min(tried * (1 + min(self.candidates, JUDGED)), self.largest)

    @property
    def largest(self) -> int:
        """The most calls: every window of every source and candidate, with every question asked again to the limit."""
        most = self.attempts * (1 + self.candidates) * self.windows * MAX_ATTEMPTS
        return most if self.max_calls is None else min(most, self.max_calls)

    def __str__(self) -> str:
        """Return the plan in one line."""
        return (
            f"{self.examples} examples from up to {self.attempts} sources: "
            f"about {self.expected} calls expected, {self.largest} at most"
        )
