"""The teacher's interface."""

from __future__ import annotations

from typing import Any, Protocol

from utils.schema import BridgeEntity, Document, Verdict


class TeacherError(Exception):
    """A teacher could not answer (network, quota, a reply that stays broken): outcome ERROR, never evidence."""


class Teacher(Protocol):
    """What the generator and the ablation ask; both questions may be asked many at a time."""

    @property
    def settings(self) -> dict[str, Any]:
        """All that the answers depend on, without a key."""
        ...

    @property
    def doing(self) -> dict[str, Any]:
        """What to show in a progress bar: calls, tokens and the like."""
        ...

    def forget_failures(self) -> None:
        """Let what failed be asked anew, once whatever made it fail may be mended."""
        ...

    async def aclose(self) -> None:
        """Put away what is on its way, and close all."""
        ...

    async def extract(self, document: Document) -> BridgeEntity | None:
        """Return one bridge entity of the document, or None where it has none.

        Raises:
            TeacherError: no usable answer could be had.
            utils.errors.RunError: no answer will ever be had (a wrong key, an unknown model).
        """
        ...

    async def judge(self, entity: BridgeEntity, candidate: Document) -> Verdict:
        """Say whether the candidate makes the second hop from the entity; ERROR where no answer could be had.

        Raises:
            utils.errors.RunError: no answer will ever be had.
        """
        ...
