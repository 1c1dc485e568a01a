"""The interface of a teacher."""

from collections.abc import Sequence
from typing import Any, Protocol

from utils.schema import BridgeEntity, Document, Outcome, Verdict


class TeacherError(Exception):
    """A question has no answer (network, quota, no valid reply): outcome ERROR, never evidence."""


class Teacher(Protocol):
    """Finds a bridge entity and judges candidates; both may be called concurrently, from one event loop."""

    variants: int = 1  # forms of the question of :meth:`relevant`
    error_rate: float = 0.1  # of its answers about a passage, 0 to 0.5: with this one, one is worth odds of 9 to 1

    @property
    def settings(self) -> dict[str, Any]:
        """All that the answers depend on, without API keys."""

    @property
    def doing(self) -> dict[str, Any]:
        """Figures for a progress bar: calls, tokens, cost; none unless overridden."""
        return {}

    def forget_failures(self) -> None:
        """Drop cached failures, so that their questions are retried; nothing unless overridden."""
        return

    async def aclose(self) -> None:
        """Wait for requests in flight, then close everything; nothing unless overridden."""
        return

    def turns(self, document: Document) -> int:
        """Return for how many entities a document can be asked; one unless overridden."""
        return 1

    async def extract(self, document: Document, turn: int = 0) -> BridgeEntity | None:
        """Return a bridge entity, another in each ``turn``, or None.

        TeacherError if unanswered, RunError if no question will be answered.
        """

    async def judge(self, entity: BridgeEntity, candidate: Document) -> Verdict:
        """Return whether the candidate makes the second hop; ERROR if unanswered, RunError if none will be answered."""

    async def relevant(self, query: str, positive: str, passages: Sequence[str], variant: int = 0) -> list[Verdict]:
        """Return whether each passage answers a query as a positive does: USABLE if so; ERROR as above, or by default.

        ``variant`` chooses the form of the question, below ``variants``; an answer in one says little of the next one.
        """
        return [Verdict(Outcome.ERROR, "this teacher does not judge relevance")] * len(passages)
