"""The record of a judged source: its entity, what each arm retrieved, and the verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from utils.schema import BridgeEntity, Outcome, Verdict


class Trial(NamedTuple):
    """One arm on one source: what it retrieved, and the verdicts in order up to the first that is usable."""

    retrieved: list[str]
    verdicts: list[Verdict]

    @property
    def failed(self) -> bool:
        """Whether an ERROR leaves open how the trial would have ended: it is no evidence for or against the arm."""
        return any(verdict.outcome is Outcome.ERROR for verdict in self.verdicts)

    @property
    def success(self) -> bool:
        """Whether some candidate is usable."""
        return bool(self.verdicts) and self.verdicts[-1].outcome is Outcome.USABLE

    @property
    def attempts(self) -> int:
        """How many candidates were judged: until the first usable one, or all of them."""
        return len(self.verdicts)

    def within(self, budget: int) -> Trial:
        """Return the trial as it would have been with ``budget`` candidates."""
        return Trial(self.retrieved[:budget], self.verdicts[:budget])

    def row(self) -> dict[str, Any]:
        """Return the trial as it stands in the file; what an error left open is None."""
        return {
            "retrieved": self.retrieved,
            "verdicts": [{"outcome": v.outcome, "reason": v.reason} for v in self.verdicts],
            "success": None if self.failed else self.success,
            "attempts": None if self.failed else self.attempts,
        }


class JudgedSource(NamedTuple):
    """One source with its entity, and each arm's trial on it."""

    source: str
    entity: BridgeEntity | None
    trials: dict[str, Trial]
    error: str | None = None

    @property
    def query(self) -> str | None:
        """What was asked for, or None where there is no entity."""
        return self.entity and self.entity.query

    @property
    def complaint(self) -> str | None:
        """Why the teacher did not answer, by its last error; None where there was none."""
        errors = [v.reason for trial in self.trials.values() for v in trial.verdicts if v.outcome is Outcome.ERROR]
        return self.error or (errors[-1] if errors else None)

    def decided(self, arm: str) -> Trial | None:
        """Return an arm's trial, or None where there is none or an error left it open."""
        trial = self.trials.get(arm)
        return None if trial is None or trial.failed else trial

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """All verdicts on the source's candidates, by document id."""
        return {
            document_id: verdict
            for trial in self.trials.values()
            for document_id, verdict in zip(trial.retrieved, trial.verdicts, strict=False)
        }

    def to_json(self) -> dict[str, Any]:
        """Return the source as it stands in the file."""
        entity = self.entity
        return {
            "source": self.source,
            "entity": entity and entity.name,
            "type": entity and entity.type,
            "segment": entity and entity.segment,
            "query": entity and entity.query,
            "error": self.error,
            "arms": {arm: trial.row() for arm, trial in self.trials.items()},
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> JudgedSource:
        """Return the source that a file's row holds.

        Raises:
            KeyError, TypeError, ValueError: the row is none.
        """
        entity = None
        if row["query"] is not None:
            entity = BridgeEntity(row["entity"], row.get("type") or "", row.get("segment") or "", row["query"])
        trials = {
            arm: Trial(
                list(trial["retrieved"]), [Verdict(Outcome(v["outcome"]), v["reason"]) for v in trial["verdicts"]]
            )
            for arm, trial in row["arms"].items()
        }
        return cls(str(row["source"]), entity, trials, row.get("error"))
