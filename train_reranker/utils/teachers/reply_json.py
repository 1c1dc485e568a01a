"""Finds JSON objects in a model's reply: in a fence, amid prose, nested, almost JSON, but never in its reasoning."""

import json
import re
from collections.abc import Iterator
from typing import Any

from utils.files import encodable
from utils.teachers.reply_cache import Reply

MAX_CHARS = 100_000  # of an object that needs repair; a longer one is no answer
MAX_REPAIRS = 100  # of a reply

_MORE_TOKENS = "raise generation_params.max_tokens, or turn the model's thinking off"


class InvalidReply(Exception):
    """A reply that cannot be used."""

    def __init__(self, complaint: str, remedy: str = "", kind: str = "invalid_reply") -> None:
        """Complain to the model; ``remedy`` is for the user, "" if only another model may help.

        ``kind`` is what the ledger counts it as.
        """
        super().__init__(complaint)
        self.remedy, self.kind = remedy, kind

    def explain(self, reply: Reply) -> str:
        """Return what is wrong with ``reply``, how it ended, and the remedy, or else the reply's beginning."""
        finish = f"finish_reason {reply.finish_reason}" if reply.finish_reason else ""
        remedy = self.remedy or f"it said {reply.content.strip()[:100]!r}: another model may do better"
        return "; ".join(part for part in (str(self), finish, remedy) if part)


class Ambiguous:
    """The value of a key that an object has twice, with different values."""


def reply_text(reply: Reply) -> str:
    """Return a reply's text; raise InvalidReply if it is withheld, empty or truncated."""
    if reply.finish_reason in ("content_filter", "refusal"):
        raise InvalidReply("it was withheld", "the endpoint's filter or the model refuses it: try another model")
    if not reply.content.strip():
        raise InvalidReply("it was empty", _MORE_TOKENS)
    if reply.finish_reason == "length":
        raise InvalidReply("it was too long and got cut off; be brief", _MORE_TOKENS)
    return reply.content


def find_objects(text: str, key: str) -> list[dict[str, Any]]:
    """Return the JSON objects with ``key``, however nested; InvalidReply if there is none, or the text is truncated."""
    values = [parse_json(text)]
    if values == [None]:
        text = _without_reasoning(text)
        whole = parse_json(text)
        values = list(_objects(text)) if whole is None else [whole]
    if found := [answer for value in values for answer in _with_key(value, key)]:
        return found
    if any(isinstance(value, dict) for value in values):
        raise InvalidReply(f'keys were missing: "{key}"')
    raise InvalidReply("there was no complete JSON object in it")


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's fields in snake case: ``sub_questions`` for "subQuestions"."""
    fields: dict[str, Any] = {}
    for key, value in pairs:
        key = re.sub(r"(?<=[a-z])(?=[A-Z])|[\s-]+", "_", key.strip(" \r\n\t\"'*`")).lower()
        fields[key] = Ambiguous() if key in fields and fields[key] != value else value
    return fields


_LANGUAGE = re.compile(r"\A\w+")  # of a fence
_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_fields)  # models break lines within strings


def parse_json(text: str) -> Any:
    """Return the value of a text that is JSON from end to end, also in a fence or encoded twice; None otherwise."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):
        text = _LANGUAGE.sub("", text[3:-3], 1)
    try:
        value = encodable(_DECODER.decode(text))
    except (ValueError, RecursionError):
        return None
    return parse_json(value) if isinstance(value, str) else value


def _objects(text: str) -> Iterator[Any]:
    """Yield the outermost objects in a text, repaired if they are not JSON; all of them must be closed."""
    start, repairs = text.find("{"), 0
    while start >= 0:
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            if (repairs := repairs + 1) > MAX_REPAIRS:
                raise InvalidReply("it held too many braces that are no JSON") from None
            end = _object_end(text, start)
            value = _repair(text[start:end])
        yield encodable(value)
        start = text.find("{", end)


# A string, in which a quote counts as a letter unless a comma, colon or bracket follows; a bracket; an unclosed quote.
_TOKEN = re.compile(
    r"""(?<=[{\[,:])\s*(["'])(?:\\.|(?!\1\s*[,:}\]])[^\\])*\1(?=\s*[,:}\]])|[{}]|(?<=[{\[,:])\s*["']""", re.DOTALL
)


def _object_end(text: str, start: int) -> int:
    """Return an object's end; InvalidReply if it is not closed, since the missing part may have said the opposite."""
    depth = 0
    for token in _TOKEN.finditer(text, start, start + MAX_CHARS):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return token.end()
        if token[1] is None and token[0][-1] in "\"'":
            break
    raise InvalidReply("there was no complete JSON object in it")


def _repair(text: str) -> Any:
    """Return a complete object with faulty syntax (extra commas, other quotes, Python's literals), or None."""
    import json_repair

    try:
        value = json_repair.loads(text, skip_json_loads=True)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    # The library silently takes the last of two values.
    decisions = set(re.findall(r"""\bvalid["']?\s*:\s*["']?(\w+)""", text.lower()))
    return _fields([*value.items(), *(("valid", word) for word in decisions if len(decisions) > 1)])


def _with_key(value: Any, key: str, depth: int = 4) -> Iterator[dict[str, Any]]:
    """Yield the objects in which ``key`` has something that may be its value, however they are wrapped."""
    if isinstance(value, str):
        value = parse_json(value) if "{" in value else None
    if isinstance(value, dict) and key in value and not isinstance(value[key], dict):
        yield value
    elif isinstance(value, dict | list) and depth:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _with_key(item, key, depth - 1)


# Tags around reasoning: <think>, </thinking>, [THINK], ◁/think▷, <seed:think>, <|END_THINKING|>, &lt;think&gt; etc.
_REASONING = re.compile(
    r"(?i)(?:[<\[◁]|&lt;)\s?[|｜]?(?P<end>/\s?|end_(?:of_)?)?(?:start_|begin_(?:of_)?)?(?:\w+[:_])?"
    r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad|monologue|cot)"
    r"(?:\s[^<>\[\]]{0,80})?[|｜]?(?:[>\]▷]|&gt;)"
)
# gpt-oss has one channel for its reasoning and another for its answer; some servers drop the marks around the names.
_CHANNELS = re.compile(r"<\|channel\|>|\A\s*analysis(?=[A-Z])")
_FINAL = re.compile(r"<\|channel\|>\s*final[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>|assistant\s*final(?=\W)")


def _without_reasoning(text: str) -> str:
    """Return a text without reasoning, opened by a tag or not; InvalidReply if it is not closed, as all may be one."""
    unfinished = InvalidReply("it ended within a thought; close the thought, then give the JSON object", _MORE_TOKENS)
    if _CHANNELS.search(text):
        *reasoning, text = _FINAL.split(text)
        if not reasoning:
            raise unfinished
    text = text.replace("<|channel>thought", "<think>").replace("<channel|>", "</think>")  # Gemma's marks
    kept, at, depth = "", 0, 0
    for tag in _REASONING.finditer(text):
        if depth == 0:
            kept += text[at : tag.start()]
        if not tag["end"]:
            depth += 1
        elif depth:
            depth -= 1
        else:
            kept = ""
        at = tag.end()
    if depth:
        raise unfinished
    return kept + text[at:]
