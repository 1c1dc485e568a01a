"""Reads a model's reply into a record: strict about what makes an answer, lenient about everything else."""

import re
import unicodedata
from typing import Any

from utils.schema import BridgeEntity, Document, Outcome, SubQuestion, Verdict
from utils.teachers import evidence
from utils.teachers.reply_cache import Reply
from utils.teachers.reply_json import Ambiguous, InvalidReply, find_objects, parse_json, reply_text
from utils.teachers.words import count_words

QUERY_WORDS = range(5, 41)  # 10 to 20 are asked for; a good query that is a little off is not worth another call

_NO_ENTITY = re.compile(
    r"\W*|null|nil|n a|nothing|(?:not|none) (?:applicable|found|available)|none(?: of .*)?"
    r"|(?:there is )?no (?:\w+ ){,3}entit(?:y|ies)\b.*|无|没有"
)
_DECISIONS = {
    True: ("true", "yes", "valid", "relevant", "1", "1.0"),
    False: ("false", "no", "invalid", "not valid", "not relevant", "irrelevant", "0", "0.0"),
}


def read_extraction(
    reply: Reply, document: Document, min_segment_words: int, level: str = evidence.STRICT
) -> BridgeEntity | None:
    """Return the bridge entity in a reply, None if it has none; InvalidReply if it breaks one of the prompt's rules.

    ``level`` is one of ``evidence.LEVELS``; the segment is kept as the document has it.
    """
    found = find_objects(reply_text(reply), "entity")
    fields = next((answer for answer in reversed(found) if answer.get("query")), found[-1])
    name = "" if fields["entity"] in ([], False) else _line(fields, "entity").strip("*` ")
    if _NO_ENTITY.fullmatch(_plain(name)):
        return None
    if missing := ", ".join(f'"{key}"' for key in ("segment", "query") if key not in fields):
        raise InvalidReply(f"keys were missing: {missing}")
    entity = BridgeEntity(name, _line(fields, "type"), _line(fields, "segment"), _line(fields, "query"))
    if _plain(name) == _plain(document.title):
        raise InvalidReply("the entity is the document's own title; it must be another one")
    if count_words(entity.segment) < min_segment_words:
        raise InvalidReply(f'"segment" has fewer than {min_segment_words} words')
    entity = evidence.check_entity(entity, document, level)
    if count_words(entity.query) not in QUERY_WORDS:
        raise InvalidReply('"query" does not have 10 to 20 words')
    if not evidence.names(entity.query, name):
        raise InvalidReply('"query" does not name the entity')
    return entity


def read_verdict(reply: Reply, entity: BridgeEntity, candidate: Document, level: str = evidence.STRICT) -> Verdict:
    """Return a reply's verdict, USABLE or UNUSABLE; InvalidReply if it is not clear, or USABLE without evidence.

    ``level`` is one of ``evidence.LEVELS``; what the reply quotes is kept as the candidate has it.
    """
    valid, answer = _decided(reply, "valid")
    reason = _line(answer, "reason", required=False)
    if not valid:
        return Verdict(Outcome.UNUSABLE, reason)
    quoted = _line(answer, "doc_b_segment", required=False)
    verdict = Verdict(Outcome.USABLE, reason, _sub_questions(answer.get("sub_questions")), quoted)
    return evidence.check_verdict(verdict, entity, candidate, level)


def read_relevance(reply: Reply, count: int) -> list[Verdict]:
    """Return USABLE for the passages whose numbers, 1 to ``count``, a reply lists as relevant, and UNUSABLE for others.

    InvalidReply if it is not clear which these are.
    """
    found = find_objects(reply_text(reply), "relevant")
    given = [answer["relevant"] for answer in found]
    if any(one != given[0] or isinstance(one, Ambiguous) for one in given):
        raise InvalidReply('"relevant" was given more than once, with different values')
    listed = parse_json(given[0]) if isinstance(given[0], str) else given[0]
    known = {str(number): number for number in range(1, count + 1)}
    if not isinstance(listed, list) or not all(str(one).strip() in known for one in listed):
        raise InvalidReply(f'"relevant" must be a list of numbers from 1 to {count}')
    relevant = {known[str(one).strip()] for one in listed}
    reason = _line(found[-1], "reason", required=False)
    return [Verdict(Outcome.USABLE if one in relevant else Outcome.UNUSABLE, reason) for one in known.values()]


def _decided(reply: Reply, key: str) -> tuple[bool, dict[str, Any]]:
    """Return the decision that a reply has under a key, and its last object; InvalidReply if it is not clear."""
    found = find_objects(reply_text(reply), key)
    decisions = {_decision(answer[key]) for answer in found}
    if len(decisions) > 1:
        raise InvalidReply("it held verdicts that contradict each other")
    (decision,) = decisions
    if any(isinstance(answer[key], Ambiguous) for answer in found):
        raise InvalidReply(f'"{key}" was given twice, with different values')
    if decision is None:
        raise InvalidReply(f'"{key}" must be true or false')
    return decision, found[-1]


def _sub_questions(value: Any) -> tuple[SubQuestion, ...]:
    """Return one question to document A, then one to B; raise InvalidReply for anything else."""
    value = parse_json(value) if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise InvalidReply('"sub_questions" must be a list')
    fields = [[_line(one, key) for key in ("question", "answer", "document")] for one in value]
    questions = tuple(SubQuestion(question, answer, _letter(label)) for question, answer, label in fields)
    if [one.document for one in questions] != ["A", "B"]:
        raise InvalidReply('"sub_questions" must be one question to "A", then one to "B", when "valid" is true')
    if not all(one.question and one.answer for one in questions):
        raise InvalidReply('"sub_questions" has an empty question or answer')
    return questions


def _decision(value: Any) -> bool | None:
    """Return the meaning of a value of "valid", None if it is not clear."""
    text = str(value).strip().strip(".").lower() if isinstance(value, bool | int | float | str) else ""
    return next((decision for decision, words in _DECISIONS.items() if text in words), None)


def _line(fields: dict[str, Any], key: str, *, required: bool = True) -> str:
    """Return a field as one line of text, "" if null or absent; InvalidReply for a ``required`` one of another type."""
    value = fields.get(key)
    if value is None or (not required and not isinstance(value, str)):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InvalidReply(f'"{key}" must be a string')
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\ufffd]", " ", str(value)).split())


def _letter(label: str) -> str:
    """Return "A" or "B" for any way to write one of the documents; else the label."""
    # The pattern takes quadratic time.
    letter = re.fullmatch(r"\W*(?:the )?(?:doc(?:ument)?)?[\W_]*([ab])\W*", label[:100], re.IGNORECASE)
    return letter[1].upper() if letter else label


def _plain(name: str) -> str:
    """Return a name for comparison: without case, full-width forms, punctuation and extra spaces."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", name).casefold())
    return " ".join(words) or name.strip()
