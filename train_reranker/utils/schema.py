"""The records that travel from the corpus to the report."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

from utils.cli import InputError


class Document(NamedTuple):
    """One retrievable text. ``doc_id`` names the article that it is a chunk of, where the corpus has chunks."""

    id: str
    title: str
    contents: str
    doc_id: str | None = None

    @property
    def text(self) -> str:
        """The passage that encoders, rerankers, teachers and examples see: the title's line, then the contents.

        Contents that carry the title as their first line, as FlashRAG's corpora do, are taken as they are.
        """
        first_line = self.contents.partition("\n")[0].strip().strip('"')
        return self.contents if self.title in ("", first_line) else f"{self.title}\n{self.contents}"

    @property
    def article(self) -> str:
        """What a source document is left out of its own results by: ``doc_id`` where there is one, else ``id``."""
        return self.id if self.doc_id is None else self.doc_id


def parse_document(row: dict[str, Any], where: str) -> Document:
    """Return the document of one corpus row: ``id`` and ``contents``, optionally ``title`` and ``doc_id``.

    Numbers as ids are compared as texts. Without a ``title``, the first line of FlashRAG's contents is the title.

    Raises:
        InputError: ``id`` or ``contents`` is missing or empty; begins with ``where``.
    """
    for key in ("id", "contents"):
        if row.get(key) in (None, ""):
            raise InputError(f'{where}: "{key}" is missing; each line needs an "id" and "contents"')
    contents, title = str(row["contents"]), row.get("title")
    if title is None:
        first_line, newline, _ = contents.partition("\n")
        title = first_line.strip().strip('"') if newline else ""
    doc_id = row.get("doc_id")
    return Document(str(row["id"]), str(title), contents, None if doc_id is None else str(doc_id))


class BridgeEntity(NamedTuple):
    """An entity of a source document that leads to other documents.

    ``segment`` is what the source says of it; ``query`` asks for what the source does not say.
    """

    name: str
    type: str
    segment: str
    query: str


class Candidate(NamedTuple):
    """A retrieved document with the score of the last stage that ordered it."""

    document: Document
    score: float


class Outcome(StrEnum):
    """What a teacher found. Only UNUSABLE makes a negative: an ERROR is never evidence."""

    USABLE = "usable"
    UNUSABLE = "unusable"
    ERROR = "error"


class SubQuestion(NamedTuple):
    """One hop of a two-hop question; ``document`` is "A" for the source segment, "B" for the candidate."""

    question: str
    answer: str
    document: str


class Verdict(NamedTuple):
    """A teacher's judgement of one candidate for one bridge entity."""

    outcome: Outcome
    reason: str
    sub_questions: tuple[SubQuestion, ...] = ()


class ContrastiveExample(NamedTuple):
    """One row of FlagEmbedding's training format; ``neg`` may be empty, scores are for distillation."""

    query: str
    pos: list[str]
    neg: list[str]
    pos_scores: list[float] | None = None
    neg_scores: list[float] | None = None

    @property
    def passages(self) -> list[str]:
        """All texts that the query is paired with, positives first."""
        return [*self.pos, *self.neg]

    def row(self) -> dict[str, Any]:
        """Return the row of a data file: exactly ``query``, ``pos``, ``neg``, and the scores where there are any."""
        return {key: value for key, value in self._asdict().items() if value is not None}
