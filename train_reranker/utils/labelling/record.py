"""The record of a judged source: its entity, what each arm retrieved, and the verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.schema import BridgeEntity, ContrastiveExample, Document, Outcome, Verdict
from utils.typed import record

ARM = "diverse"  # the generator's only arm


class Trial(NamedTuple):
    """One arm on one source: the ids that it retrieved, best first, and the verdicts on the first of them."""

    retrieved: list[str]
    verdicts: list[Verdict]

    @property
    def failed(self) -> bool:
        """Whether an ERROR leaves the result open: such a trial is no evidence for or against the arm."""
        return any(verdict.outcome is Outcome.ERROR for verdict in self.verdicts)

    @property
    def success(self) -> bool:
        """Whether judging ended with a usable candidate."""
        return bool(self.verdicts) and self.verdicts[-1].outcome is Outcome.USABLE

    @property
    def attempts(self) -> int:
        """How many candidates were judged."""
        return len(self.verdicts)

    @property
    def judged(self) -> Iterator[tuple[str, Verdict]]:
        """The judged candidates' ids and verdicts, in order; there may be more retrieved than judged."""
        return zip(self.retrieved, self.verdicts, strict=False)

    def within(self, budget: int) -> Trial:
        """Return the trial as it would have been with at most ``budget`` candidates."""
        return Trial(self.retrieved[:budget], self.verdicts[:budget])

    def to_json(self) -> dict[str, Any]:
        """Return the trial as files hold it; what an error left open is None."""
        verdicts = self.verdicts
        return {
            "retrieved": self.retrieved,
            "verdicts": [v._asdict() | {"sub_questions": [q._asdict() for q in v.sub_questions]} for v in verdicts],
            "success": None if self.failed else self.success,
            "attempts": None if self.failed else self.attempts,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Trial:
        """Return the trial of a file; ValueError if it holds none.

        Earlier result files have no sub-questions, earlier journals no segments, and neither has hashes.
        """
        trial = record(cls, dict(row), "trial")
        if len(trial.verdicts) > len(trial.retrieved):
            raise ValueError("a trial has more verdicts than candidates")
        return trial


class JudgedSource(NamedTuple):
    """One source document with its entity and each arm's trial on it; no trials without an entity to try them on."""

    source: str
    entity: BridgeEntity | None
    trials: dict[str, Trial]
    error: str | None = None  # why the extraction failed
    text_hash: str = ""  # of the source's text; "" where it is not known, as in earlier files

    @property
    def query(self) -> str | None:
        """The entity's query, None without an entity."""
        return self.entity and self.entity.query

    @property
    def all_verdicts(self) -> list[Verdict]:
        """The verdicts of all arms; a candidate of several arms counts for each."""
        return [verdict for trial in self.trials.values() for verdict in trial.verdicts]

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """The verdict on each judged candidate, by document id."""
        return {document_id: verdict for trial in self.trials.values() for document_id, verdict in trial.judged}

    @property
    def outcome(self) -> str:
        """What the source is worth as training data: an example, or why not."""
        outcomes = {verdict.outcome for verdict in self.all_verdicts}
        if {Outcome.USABLE, Outcome.UNUSABLE} <= outcomes:
            return "example"
        if self.error or Outcome.ERROR in outcomes:
            return "error"
        if self.entity is None:
            return "no entity"
        return "no negative" if Outcome.USABLE in outcomes else "no positive"

    @property
    def passed_over(self) -> bool:
        """Whether the run excludes the source for its entity's query."""
        return self.entity is not None and not self.trials

    @property
    def unanswered(self) -> bool:
        """Whether the teacher answered no question about this source."""
        return self.error is not None or {verdict.outcome for verdict in self.all_verdicts} == {Outcome.ERROR}

    @property
    def complaint(self) -> str | None:
        """The teacher's last error, None if it had none."""
        errors = [verdict.reason for verdict in self.all_verdicts if verdict.outcome is Outcome.ERROR]
        return self.error or (errors[-1] if errors else None)

    def ids(self, outcome: Outcome) -> list[str]:
        """Return the ids of the candidates with this outcome, in order."""
        return [document_id for document_id, verdict in self.verdicts.items() if verdict.outcome is outcome]

    @property
    def text_hashes(self) -> dict[str, str]:
        """What the texts of the source and of the judged candidates hashed to, by document id."""
        hashes = {self.source: self.text_hash} | {i: verdict.text_hash for i, verdict in self.verdicts.items()}
        return {document_id: text_hash for document_id, text_hash in hashes.items() if text_hash}

    def text(self, document_id: str, corpus: Corpus) -> str:
        """Return the text of the source or of a candidate; InputError if it is not the one that was judged."""
        document = corpus.get(document_id)
        if self.text_hashes.get(document_id, document.text_hash) == document.text_hash:
            return document.text
        raise InputError(
            f'{corpus.path}: document "{document_id}" is not what was judged, the file has changed during the run: '
            "restore it and run the same command, or start again on the new texts with --overwrite (cached replies "
            "about those that have not changed are used)"
        )

    def is_about(self, source: Document, corpus: Corpus) -> bool:
        """Whether this is the row of a source, and the corpus still has all texts that were judged."""
        hashes = self.text_hashes.items()
        return self.source == source.id and all(corpus.get(one).text_hash == text_hash for one, text_hash in hashes)

    def decided(self, arm: str) -> Trial | None:
        """Return an arm's trial, None if there is none or an error left it open."""
        trial = self.trials.get(arm)
        return None if trial is None or trial.failed else trial

    def example(self, corpus: Corpus) -> ContrastiveExample | None:
        """Return the source's example, None without a positive or a negative; InputError as :meth:`text`."""
        if self.entity is None or self.outcome != "example":
            return None
        # A corpus may hold a text twice: if one copy answers the query, the other is no negative.
        pos = list(dict.fromkeys(self.text(i, corpus) for i in self.ids(Outcome.USABLE)))
        neg = list(dict.fromkeys(self.text(i, corpus) for i in self.ids(Outcome.UNUSABLE)))
        neg = [text for text in neg if text not in pos]
        return ContrastiveExample(self.entity.query, pos, neg) if neg else None

    def to_json(self) -> dict[str, Any]:
        """Return the row of a journal or result file."""
        return {
            "source": self.source,
            "text_hash": self.text_hash,
            "query": self.query,
            "entity": self.entity and self.entity._asdict(),
            "arms": {arm: trial.to_json() for arm, trial in self.trials.items()},
            "error": self.error,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> JudgedSource:
        """Return the source of a row, also of version 1; ValueError if it is no such row.

        A generator's row of version 1 has the only arm's candidates and verdicts at the top, a result file's has the
        entity's fields there.
        """
        entity = row.get("entity")
        if not isinstance(entity, Mapping) and row.get("query") is not None:
            fields = {key: row.get(key) or "" for key in ("type", "segment")}
            entity = {"name": entity, "query": row["query"], **fields}
        arms = row.get("arms", {ARM: row} if entity else {})
        source = row.get("source")
        source = str(source) if type(source) is int else source  # as earlier versions wrote it
        more = {key: row[key] for key in ("error", "text_hash") if row.get(key)}
        return record(cls, {"source": source, "entity": entity, "trials": arms, **more}, "source")
