"""From what a model wrote to a record: find the JSON in it, hold it to its schema and to the teacher's rules."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from utils.llm.prompts import EXTRACTION, JUDGEMENT, SCHEMAS
from utils.llm.replies import Reply
from utils.schema import BridgeEntity, Document, Outcome, SubQuestion, Verdict

QUERY_WORDS = range(5, 41)  # 10 to 20 are asked for; a good query a little off that is not worth another call


class BrokenReply(Exception):
    """A reply that cannot be used; the message tells the model what was wrong with it."""


def read_extraction(reply: Reply, document: Document, min_segment_words: int) -> BridgeEntity | None:
    """Return the bridge entity that a reply names, or None where it says that there is none.

    Raises:
        BrokenReply: the reply does not keep the schema, or one of the rules.
    """
    fields = _read(reply, EXTRACTION)
    entity = BridgeEntity(*(" ".join(fields[key].split()) for key in ("entity", "type", "segment", "query")))
    if not entity.name:
        return None
    if _plain(entity.name) == _plain(document.title):
        raise BrokenReply("the entity is the document's own title; it must be another one")
    if count_words(entity.segment) < min_segment_words:
        raise BrokenReply(f'"segment" has fewer than {min_segment_words} words')
    if count_words(entity.query) not in QUERY_WORDS:
        raise BrokenReply('"query" does not have 10 to 20 words')
    return entity


def read_verdict(reply: Reply) -> Verdict:
    """Return the verdict, USABLE or UNUSABLE, that a reply gives.

    Raises:
        BrokenReply: the reply does not keep the schema, or calls a candidate valid without the two questions.
    """
    fields = _read(reply, JUDGEMENT)
    reason = " ".join(fields["reason"].split())
    if not fields["valid"]:
        return Verdict(Outcome.UNUSABLE, reason)
    questions = tuple(
        SubQuestion(*(asked[key].strip() for key in ("question", "answer", "document")))
        for asked in fields["sub_questions"]
    )
    if [asked.document for asked in questions] != ["A", "B"]:
        raise BrokenReply('"sub_questions" must be one question to "A", then one to "B", when "valid" is true')
    if not all(asked.question and asked.answer for asked in questions):
        raise BrokenReply('"sub_questions" has an empty question or answer')
    return Verdict(Outcome.USABLE, reason, questions)


def count_words(text: str) -> int:
    """Return the number of words; where a script has no spaces (Chinese, Japanese, Thai), two letters count as one."""
    unspaced = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
    return len(unspaced.sub(" ", text).split()) + len(unspaced.findall(text)) // 2


def find_object(text: str, keys: list[str]) -> dict[str, Any]:
    """Return the last JSON object in ``text`` that has all ``keys``: after thoughts, in a fence, amid prose.

    Raises:
        BrokenReply: there is none.
    """
    text = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL).rpartition("</think>")[2]
    decoder = json.JSONDecoder(strict=False)  # models break lines within strings
    found: list[dict[str, Any]] = []
    start, attempts = text.find("{"), 0
    while start >= 0 and attempts < 200:  # each failed attempt may read to the end
        try:
            value, end = decoder.raw_decode(text, start)
            found.append(value)
        except (ValueError, RecursionError):
            end, attempts = start + 1, attempts + 1
        start = text.find("{", end)
    whole = [value for value in found if all(key in value for key in keys)]
    if whole:
        return whole[-1]
    if found:
        missing = ", ".join(f'"{key}"' for key in keys if key not in found[-1])
        raise BrokenReply(f"keys were missing: {missing}")
    raise BrokenReply("there was no complete JSON object in it")


def _read(reply: Reply, name: str) -> dict[str, Any]:
    """Return the fields of a reply that keeps the schema called ``name``."""
    if reply.finish_reason in ("content_filter", "refusal"):
        raise BrokenReply("it was withheld")
    if not reply.content.strip():
        raise BrokenReply("it was empty")
    if reply.finish_reason == "length":
        raise BrokenReply("it was too long and got cut off; be brief")
    schema = SCHEMAS[name]
    fields = find_object(reply.content, schema["required"])
    check(fields, schema)
    return fields


_TYPES: Mapping[str, tuple[type[Any], str]] = {
    "object": (dict, "an object"),
    "array": (list, "a list"),
    "string": (str, "a string"),
    "boolean": (bool, "true or false"),
}


def check(value: Any, schema: Mapping[str, Any], where: str = "the answer") -> None:
    """Hold a value to as much of JSON schema as our schemas use; keys that were not asked for do no harm.

    Raises:
        BrokenReply: says what was wrong where.
    """
    kind, called = _TYPES[schema["type"]]
    if not isinstance(value, kind):
        raise BrokenReply(f"{where} must be {called}")
    if "enum" in schema and value not in schema["enum"]:
        raise BrokenReply(f"{where} must be one of {', '.join(schema['enum'])}")
    if isinstance(value, dict):
        for key in schema["required"]:
            if key not in value:
                raise BrokenReply(f'{where} lacks "{key}"')
            check(value[key], schema["properties"][key], f'"{key}"')
    if isinstance(value, list):
        for item in value:
            check(item, schema["items"], f"each of {where}")


def _plain(name: str) -> str:
    """Return a name without case, accents of width, punctuation and needless spaces, to be compared."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", name).casefold())
    return " ".join(words) or name.strip()
