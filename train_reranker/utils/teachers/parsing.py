"""From what a model wrote to a record: strict about what makes an answer, lenient about everything else in it."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from utils.files import encodable
from utils.schema import BridgeEntity, Document, Outcome, SubQuestion, Verdict
from utils.teachers.reply_cache import Reply

QUERY_WORDS = range(5, 41)  # 10 to 20 are asked for; a good query a little off that is not worth another call
REPAIRED_AT_MOST = 100_000  # characters; what is longer is no answer to either question

_MORE_TOKENS = "raise generation_params.max_tokens, or turn the model's thinking off"


class BrokenReply(Exception):
    """A reply that cannot be used; the message tells the model what was wrong with it, ``remedy`` the user what helps.

    ``remedy`` is empty where nothing but another model would.
    """

    def __init__(self, complaint: str, remedy: str = "") -> None:
        """Keep both."""
        super().__init__(complaint)
        self.remedy = remedy

    def told(self, reply: Reply) -> str:
        """Say all that is known: what was wrong with ``reply``, how it ended, and what helps or else what it said."""
        finish = f"finish_reason {reply.finish_reason}" if reply.finish_reason else ""
        said = self.remedy or f"it said {reply.content.strip()[:100]!r}: another model may do better"
        return "; ".join(part for part in (str(self), finish, said) if part)


def read_extraction(reply: Reply, document: Document, min_segment_words: int) -> BridgeEntity | None:
    """Return the bridge entity that a reply names, or None where it says that there is none.

    Raises:
        BrokenReply: the reply names an entity without a segment and a query, or it breaks one of the rules.
    """
    found = find_answers(_content(reply), "entity")
    fields = next((answer for answer in reversed(found) if answer.get("query")), found[-1])
    name = "" if fields["entity"] in ([], False) else _line(fields, "entity").strip("*` ")
    if _NO_ENTITY.fullmatch(_plain(name)):
        return None
    if missing := ", ".join(f'"{key}"' for key in ("segment", "query") if key not in fields):
        raise BrokenReply(f"keys were missing: {missing}")
    entity = BridgeEntity(name, _line(fields, "type"), _line(fields, "segment"), _line(fields, "query"))
    if _plain(name) == _plain(document.title):
        raise BrokenReply("the entity is the document's own title; it must be another one")
    if not _names(document.text, name, share=0.5):
        raise BrokenReply('the document does not name the entity; "entity" must be spelled as in the text')
    if count_words(entity.segment) < min_segment_words:
        raise BrokenReply(f'"segment" has fewer than {min_segment_words} words')
    if count_words(entity.query) not in QUERY_WORDS:
        raise BrokenReply('"query" does not have 10 to 20 words')
    if not _names(entity.query, name):
        raise BrokenReply('"query" does not name the entity')
    return entity


def read_verdict(reply: Reply) -> Verdict:
    """Return the verdict, USABLE or UNUSABLE, that a reply gives.

    Raises:
        BrokenReply: it says neither clearly, or calls a candidate valid without the two questions.
    """
    found = find_answers(_content(reply), "valid")
    decisions = {_decision(answer["valid"]) for answer in found}
    if len(decisions) > 1:
        raise BrokenReply("it held verdicts that contradict each other")
    (valid,) = decisions
    if any(isinstance(answer["valid"], _Twice) for answer in found):
        raise BrokenReply('"valid" was given twice, with different values')
    if valid is None:
        raise BrokenReply('"valid" must be true or false')
    fields = found[-1]
    reason = _line(fields, "reason", needed=False)
    if not valid:
        return Verdict(Outcome.UNUSABLE, reason)
    asked = fields.get("sub_questions")
    asked = _whole(asked) if isinstance(asked, str) else asked
    if not isinstance(asked, list) or not all(isinstance(one, dict) for one in asked):
        raise BrokenReply('"sub_questions" must be a list')
    questions = tuple(
        SubQuestion(_line(one, "question"), _line(one, "answer"), _letter(_line(one, "document"))) for one in asked
    )
    if [one.document for one in questions] != ["A", "B"]:
        raise BrokenReply('"sub_questions" must be one question to "A", then one to "B", when "valid" is true')
    if not all(one.question and one.answer for one in questions):
        raise BrokenReply('"sub_questions" has an empty question or answer')
    return Verdict(Outcome.USABLE, reason, questions)


def count_words(text: str) -> int:
    """Return the number of words; where a script has no spaces (Chinese, Japanese, Thai), two letters count as one."""
    unspaced = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
    return len(unspaced.sub(" ", text).split()) + len(unspaced.findall(text)) // 2


# --- the JSON in a reply


def find_answers(text: str, key: str) -> list[dict[str, Any]]:
    """Return the JSON objects in ``text`` that have ``key``: in a fence, amid prose, within others, but in no thought.

    Raises:
        BrokenReply: there is none, or an object or a thought is cut off.
    """
    values = [_whole(text)]
    if values == [None]:
        text = _without_thoughts(text)
        whole = _whole(text)
        values = list(_objects(text)) if whole is None else [whole]
    found = [answer for value in values for answer in _holding(value, key)]
    if found:
        return found
    if any(isinstance(value, dict) for value in values):
        raise BrokenReply(f'keys were missing: "{key}"')
    raise BrokenReply("there was no complete JSON object in it")


class _Twice:
    """The value of a key that an object has twice, with different values: what it says is not clear."""


def _without_doubt(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's pairs, with keys as models should have written them: ``sub_questions`` for "subQuestions"."""
    fields: dict[str, Any] = {}
    for key, value in pairs:
        key = re.sub(r"(?<=[a-z])(?=[A-Z])|[\s-]+", "_", key.strip(" \r\n\t\"'*`")).lower()
        fields[key] = _Twice() if key in fields and fields[key] != value else value
    return fields


_STRICT = json.JSONDecoder(strict=False, object_pairs_hook=_without_doubt)  # models break lines within strings


def _whole(text: str) -> Any:
    """Return the value of a text that is JSON from end to end, fence aside and encoded twice or not, or None."""
    text = re.sub(r"\A\s*```\w*\s*(.*?)\s*```\s*\Z", r"\1", text, flags=re.DOTALL).strip()
    try:
        value = encodable(_STRICT.decode(text))
    except (ValueError, RecursionError):
        return None
    return _whole(value) if isinstance(value, str) else value


def _objects(text: str) -> Iterator[Any]:
    """Yield the outermost objects in a text, repaired where they are no JSON.

    Raises:
        BrokenReply: one is not closed: what is cut off may have said the contrary.
    """
    start = text.find("{")
    while start >= 0:
        try:
            value, end = _STRICT.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = _closing(text, start)
            value = _repaired(text[start:end])
        yield encodable(value)
        start = text.find("{", end)


# Within an object: a string, in which a quote that no comma, colon or bracket follows is a letter; then brackets, and
# a quote that opens a string without an end.
_TOKEN = re.compile(
    r"""(?<=[{\[,:])\s*(["'])(?:\\.|(?!\1\s*[,:}\]])[^\\])*\1(?=\s*[,:}\]])|[{}]|(?<=[{\[,:])\s*["']""", re.DOTALL
)


def _closing(text: str, start: int) -> int:
    """Return where the object that begins at ``start`` ends.

    Raises:
        BrokenReply: it does not.
    """
    depth = 0
    for token in _TOKEN.finditer(text, start, start + REPAIRED_AT_MOST):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return token.end()
        if token[1] is None and token[0][-1] in "\"'":
            break
    raise BrokenReply("there was no complete JSON object in it")


def _repaired(text: str) -> Any:
    """Return what a closed object that is no JSON can only mean: commas too many, other quotes, Python's words."""
    import json_repair

    try:
        value = json_repair.loads(text, skip_json_loads=True)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    # The library takes the last of two values.
    said = set(re.findall(r"""\bvalid["']?\s*:\s*["']?(\w+)""", text.lower()))
    return _without_doubt([*value.items(), *(("valid", word) for word in said if len(said) > 1)])


def _holding(value: Any, key: str, depth: int = 4) -> Iterator[dict[str, Any]]:
    """Yield the objects that have ``key`` with something that may be its value, however they are wrapped."""
    if isinstance(value, str):
        value = _whole(value) if "{" in value else None
    if isinstance(value, dict) and key in value and not isinstance(value[key], dict):
        yield value
    elif isinstance(value, dict | list) and depth:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _holding(item, key, depth - 1)


# Tags that models put around their thoughts, all of which name it: <think>, </thinking>, [THINK], ◁/think▷,
# <seed:think>, <|begin_of_thought|>, <|END_THINKING|>, &lt;think&gt; and the like.
_THOUGHT = re.compile(
    r"(?:[<\[◁]|&lt;)\s?[|｜]?(?P<end>/\s?|end_(?:of_)?)?(?:start_|begin_(?:of_)?)?(?:\w+[:_])?"
    r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad|monologue|cot)"
    r"(?:\s[^<>\[\]]{0,80})?[|｜]?(?:[>\]▷]|&gt;)",
    re.IGNORECASE,
)
# gpt-oss opens a channel for its thoughts and another for its answer; some servers swallow the marks around the names.
_CHANNELS = re.compile(r"<\|channel\|>|\A\s*analysis(?=[A-Z])")
_FINAL = re.compile(r"<\|channel\|>\s*final[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>|assistant\s*final(?=\W)")


def _without_thoughts(text: str) -> str:
    """Return a text without what a model thought, also where the tag that opened the thought is left out.

    Raises:
        BrokenReply: the last thought has no end, so that all may be a thought.
    """
    open_ended = BrokenReply("it ended within a thought; close the thought, then give the JSON object", _MORE_TOKENS)
    if _CHANNELS.search(text):
        *thoughts, text = _FINAL.split(text)
        if not thoughts:
            raise open_ended
    text = text.replace("<|channel>thought", "<think>").replace("<channel|>", "</think>")  # as Gemma marks it
    said, at, depth = "", 0, 0
    for tag in _THOUGHT.finditer(text):
        if depth == 0:
            said += text[at : tag.start()]
        if not tag["end"]:
            depth += 1
        elif depth:
            depth -= 1
        else:
            said = ""
        at = tag.end()
    if depth:
        raise open_ended
    return said + text[at:]


def _content(reply: Reply) -> str:
    """Return a reply's text.

    Raises:
        BrokenReply: it is withheld, empty or cut off.
    """
    if reply.finish_reason in ("content_filter", "refusal"):
        raise BrokenReply("it was withheld", "the endpoint's filter or the model refuses it: try another model")
    if not reply.content.strip():
        raise BrokenReply("it was empty", _MORE_TOKENS)
    if reply.finish_reason == "length":
        raise BrokenReply("it was too long and got cut off; be brief", _MORE_TOKENS)
    return reply.content


# --- the fields of an answer


_NO_ENTITY = re.compile(
    r"\W*|null|nil|n a|nothing|(?:not|none) (?:applicable|found|available)|none(?: of .*)?"
    r"|(?:there is )?no (?:\w+ ){,3}entit(?:y|ies)\b.*|无|没有"
)
_DECISIONS = {True: ("true", "yes", "valid", "1", "1.0"), False: ("false", "no", "invalid", "not valid", "0", "0.0")}


def _decision(value: Any) -> bool | None:
    """Return what a value of "valid" says, None where that is not clear."""
    said = str(value).strip().strip(".").lower() if isinstance(value, bool | int | float | str) else ""
    return next((decision for decision, words in _DECISIONS.items() if said in words), None)


def _line(fields: dict[str, Any], key: str, *, needed: bool = True) -> str:
    """Return a field as one line of text, without control characters; "" where it is null or absent.

    Raises:
        BrokenReply: it is a list, an object or unclear, and ``needed``.
    """
    value = fields.get(key)
    if value is None or (not needed and not isinstance(value, str)):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BrokenReply(f'"{key}" must be a string')
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\ufffd]", " ", str(value)).split())


def _letter(label: str) -> str:
    """Return "A" or "B" for what a model calls one of the documents; else the label."""
    letter = re.fullmatch(r"\W*(?:the )?(?:doc(?:ument)?)?[\W_]*([ab])\W*", label, re.IGNORECASE)
    return letter[1].upper() if letter else label


def _plain(name: str) -> str:
    """Return a name without case, accents of width, punctuation and needless spaces, to be compared."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", name).casefold())
    return " ".join(words) or name.strip()


def _names(text: str, name: str, share: float = 0.0) -> bool:
    """Return whether at least a ``share`` of a name's words, and one that is not short, stand in a text."""
    text, words = _plain(text), _plain(name).split()
    there = [word for word in words if word in text]
    telling = [word for word in words if len(word) > 3] or words
    return len(there) >= share * len(words) and any(word in there for word in telling)
