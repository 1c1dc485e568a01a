"""A teacher needs to answer two questions and say what its answers depend on; the rest has defaults."""

import asyncio
from contextlib import aclosing
from typing import Any

from utils.schema import BridgeEntity, Document, Outcome, Verdict
from utils.teachers.base import Teacher

TOWN = BridgeEntity("Arden", "town", "a road to Arden", "Who founded Arden?")


class Agreeable(Teacher):
    """Finds the same entity everywhere, and everything usable."""

    @property
    def settings(self) -> dict[str, Any]:
        return {"teacher": "agreeable"}

    async def extract(self, document: Document, turn: int = 0) -> BridgeEntity | None:
        return TOWN

    async def judge(self, entity: BridgeEntity, candidate: Document) -> Verdict:
        return Verdict(Outcome.USABLE, f"tells of {entity.name}")


def test_two_questions_and_settings_make_a_teacher() -> None:
    async def work() -> Verdict:
        async with aclosing(Agreeable()) as teacher:
            teacher.forget_failures()
            assert teacher.doing == {}
            entity = await teacher.extract(Document("1", "", "A road to Arden."))
            assert entity is not None
            (unknown,) = await teacher.relevant("who?", "a", ["b"])
            assert unknown.outcome is Outcome.ERROR  # unless it judges that, too
            return await teacher.judge(entity, Document("2", "Arden", "Miners founded it."))

    assert asyncio.run(work()) == Verdict(Outcome.USABLE, "tells of Arden")
