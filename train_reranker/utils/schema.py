"""The records that travel from the corpus to the report."""

import hashlib
from enum import StrEnum
from typing import Any, NamedTuple

from utils.errors import InputError

LONGEST_TITLE = 120  # characters of a first line that may be a title


class Document(NamedTuple):
    """One retrievable text. Where the corpus is chunked, ``doc_id`` names the article."""

    id: str
    title: str
    contents: str
    doc_id: str | None = None

    @property
    def text(self) -> str:
        """The passage that encoders, rerankers, teachers and examples see: a line with the title, then the contents.

        Contents that already start with the title, as in FlashRAG's corpora, are used as they are.
        """
        first_line = self.contents.partition("\n")[0].strip().strip('"')
        return self.contents if self.title in ("", first_line) else f"{self.title}\n{self.contents}"

    @property
    def text_hash(self) -> str:
        """A short hash of the text: a verdict carries that of the text that it was given on."""
        return hashlib.blake2b(self.text.encode(), digest_size=8).hexdigest()

    @property
    def article(self) -> str:
        """The article: ``doc_id`` if there is one, else ``id``; a source's own is never among its candidates."""
        return self.id if self.doc_id is None else self.doc_id


def parse_document(row: dict[str, Any], where: str) -> Document:
    """Return the document of one corpus row: ``id`` and ``contents``, optionally ``title`` and ``doc_id``.

    BEIR's and FlashRAG's names ``_id`` and ``text`` are understood, too.

    Whole numbers become text; null, NaN and blank values count as missing. Without a ``title``, a first line that
    reads like one is used, as in FlashRAG's corpora. InputError, beginning with ``where``, if ``id`` or ``contents`` is
    missing or empty, or a value is not text.
    """
    if "id" not in row and "_id" in row:
        row = row | {"id": row["_id"]}
    if "contents" not in row and "text" in row:
        text = row["text"]
        # Some of BEIR's documents are a title alone.
        row = row | {"contents": row.get("title") if isinstance(text, str) and not text.strip() else text}
    document_id, title, doc_id = (_label(row, key, where) for key in ("id", "title", "doc_id"))
    contents = _given(row.get("contents"))
    if not isinstance(contents, str | None):
        raise InputError(f'{where}: "contents" must be a string, not {type(contents).__name__}')
    if document_id is None or contents is None or not contents.strip():
        key = "id" if document_id is None else "contents"
        raise InputError(
            f'{where}: "{key}" is missing or empty; each line needs an "id" and "contents", or "_id" and "text"'
        )
    if len(document_id.splitlines()) > 1:
        raise InputError(
            f'{where}: "id" {document_id!r} has a line break; remove it, because files of ids have one per line'
        )
    return Document(document_id, _first_line_title(contents) if title is None else title, contents, doc_id)


def _given(value: Any) -> Any:
    """Return a value, or None where it is NaN, which pandas writes for missing values."""
    return None if value != value else value


def _label(row: dict[str, Any], key: str, where: str) -> str | None:
    """Return an id or a title as text, None where it is missing."""
    value = _given(row.get(key))
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)  # pandas turns whole numbers into floats where one is missing
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        kind = type(value).__name__
        raise InputError(f'{where}: "{key}" must be a string or a whole number, not {kind}')
    return None if value is None else str(value).strip() or None


def _first_line_title(contents: str) -> str:
    """Return the first line if it reads like a title: in quotes, as in FlashRAG's corpora, or short and no sentence."""
    first_line, newline, _ = contents.partition("\n")
    line = first_line.strip()
    quoted = len(line) > 1 and line[0] == line[-1] == '"'
    is_title = quoted or (len(line) <= LONGEST_TITLE and not line.endswith((".", ",", ";", ":")))
    return line.strip('"') if newline and is_title else ""


class BridgeEntity(NamedTuple):
    """An entity of a source document that leads to other documents.

    ``segment`` is what the source says about it; ``query`` asks for what the source does not say.
    """

    name: str
    type: str
    segment: str
    query: str


class Candidate(NamedTuple):
    """A retrieved document with its score from the last stage that ranked it."""

    document: Document
    score: float


class Outcome(StrEnum):
    """The outcome of a verdict. Only UNUSABLE makes a negative: an ERROR is never evidence."""

    USABLE = "usable"
    UNUSABLE = "unusable"
    ERROR = "error"


class SubQuestion(NamedTuple):
    """One hop of a two-hop question; ``document`` is "A" for the source segment, "B" for the candidate."""

    question: str
    answer: str
    document: str


class Verdict(NamedTuple):
    """A teacher's judgement of one candidate for one bridge entity; ``doc_b_segment`` is what the candidate says.

    ``text_hash`` is that of the candidate's text; "" where it is not known, as in earlier files.
    """

    outcome: Outcome
    reason: str
    sub_questions: tuple[SubQuestion, ...] = ()
    doc_b_segment: str = ""
    text_hash: str = ""


class ContrastiveExample(NamedTuple):
    """One row in FlagEmbedding's training format; ``neg`` may be empty, the scores are for distillation.

    Grades tell how relevant the positives are, for tests alone; training takes them as equals.
    """

    query: str
    pos: list[str]
    neg: list[str]
    pos_scores: list[float] | None = None
    neg_scores: list[float] | None = None
    pos_grades: list[int] | None = None  # whole numbers above 0; None is 1 for all

    @property
    def passages(self) -> list[str]:
        """All passages, positives first."""
        return [*self.pos, *self.neg]

    def row(self) -> dict[str, Any]:
        """Return the row of a data file: ``query``, ``pos``, ``neg``, and scores and grades if there are any."""
        return {key: value for key, value in self._asdict().items() if value is not None}
