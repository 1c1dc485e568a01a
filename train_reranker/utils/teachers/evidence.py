"""Holds the evidence in a reply against the texts: what it quotes must stand in them, and the entity be named in them.

Quotes are compared letter by letter, without white space, punctuation, accents, case and other differences of form.
Names, which differ in form even where they are the same, are compared generously.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from utils.files import encodable
from utils.schema import BridgeEntity, Document, Verdict
from utils.teachers.reply_json import InvalidReply
from utils.teachers.words import STOPWORDS, UNSPACED, count_words

LEVELS = STRICT, QUOTES, NONE = "strict", "quotes", "none"

SIMILAR = 85  # of 100: two slips of the pen in a short sentence; sentences about the same thing seldom reach 70
QUOTED = 0.9  # least share of a quote's letters that must stand in the text
SHORTEST_FUZZY = 20  # letters: fewer are found anywhere with a slip or two
LONGEST_PIECE = 300  # letters, so that what is left out or changed in one place costs no more than its surroundings
FEWEST_WORDS = 3  # of a quote
SAME_WORD = 80  # of 100: "Warszawa" and "Warszawie"

_REMEDY = "the model makes things up: another may do better, and the key evidence says how much is checked"
_PIECE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\[?(?:\.{3,}|…)\]?")  # between sentences, and what is left out
_PARENTHESES = re.compile(r"\s*[(（][^()（）]*[)）]")
_OPENING, _NOT_CLOSING = "\"'“‘«„(（[", re.compile(r"[\w\s(（\[“‘«„]")


def unfounded(kind: str, complaint: str) -> InvalidReply:
    """Return the error of a reply without evidence, counted as ``kind``."""
    return InvalidReply(complaint, _REMEDY, kind)


def check_entity(entity: BridgeEntity, document: Document, level: str = STRICT) -> BridgeEntity:
    """Return an entity with its segment as the document has it; InvalidReply if it is not the document's."""
    if not names(document.text, entity.name, share=0.5):
        complaint = 'the document does not name the entity; "entity" must be spelled as in the text'
        raise unfounded("entity_not_in_source", complaint)
    if level == NONE:
        return entity
    segment = find_quote(entity.segment, document.text)
    if segment is None:
        raise unfounded(
            "segment_not_in_source", '"segment" is not in the document; copy it from the text word for word'
        )
    return entity._replace(segment=segment)


def check_verdict(verdict: Verdict, entity: BridgeEntity, candidate: Document, level: str = STRICT) -> Verdict:
    """Return a USABLE verdict with its segment as the candidate has it; InvalidReply if its evidence does not hold."""
    if level == NONE:
        return verdict
    first, second = verdict.sub_questions
    name, text = entity.name, candidate.text
    segment = find_quote(verdict.doc_b_segment, text)
    if level == STRICT and not names(text, name, share=0.5):
        complaint = 'B does not name the entity; if it says nothing about it, "valid" is false'
        raise unfounded("entity_not_in_candidate", complaint)
    if segment is None or count_words(segment) < FEWEST_WORDS:
        complaint = '"doc_b_segment" is not in B; copy the sentences of B that answer the second question word for word'
        raise unfounded("segment_not_in_candidate", complaint)
    if level == STRICT and not (names(first.answer, name) or names(name, first.answer)):
        raise unfounded("answer_not_entity", "the answer to the first question must be the entity")
    if level == STRICT and spells(first.question, name):
        raise unfounded("question_names_entity", "the first question must not name the entity, which is its answer")
    if level == STRICT and not names(second.question, name):
        raise unfounded("question_lacks_entity", "the second question must name the entity")
    return verdict._replace(doc_b_segment=segment)


class _Letters(NamedTuple):
    """A text's letters and digits in their plainest form, and where in the text each stands."""

    text: str
    plain: str
    places: list[int]

    def span(self, start: int, end: int) -> str:
        """Return what stands in the text from one letter to before another, in whole words with their punctuation."""
        text, first, last = self.text, self.places[start], self.places[end - 1]
        while first and _in_word(text, first - 1) and _in_word(text, first):
            first -= 1
        while last + 1 < len(text) and _in_word(text, last) and _in_word(text, last + 1):
            last += 1
        while first and text[first - 1] in _OPENING:
            first -= 1
        while last + 1 < len(text) and not _NOT_CLOSING.match(text[last + 1]):
            last += 1
        return text[first : last + 1]


def find_quote(quote: str, text: str) -> str | None:
    """Return what a text has of a quote, on one line, None if the quote is not the text's.

    Sentences may come from several places; " … " marks what lies between them. Each must stand in the text, but for a
    few letters.
    """
    if len(quote) > 2 * len(text):
        return None
    source, pieces, at = _letters(text), list(_pieces(quote)), 0
    spans: list[tuple[int, int]] = []
    for piece in pieces:
        if span := _find(piece, source.plain, at):
            spans.append(span)
            at = span[1]
    spans = _merged(spans)  # what is said twice counts once
    if not spans or sum(end - start for start, end in spans) < QUOTED * sum(map(len, pieces)):
        return None
    parts = (" ".join(source.span(*span).split()) for span in spans)
    found: str = encodable(" … ".join(parts))
    return found


def _pieces(quote: str) -> Iterator[str]:
    """Yield the sentences of a quote in plain letters, long ones in pieces."""
    for piece in map(_plain, _PIECE.split(quote)):
        for start in range(0, len(piece), LONGEST_PIECE):
            yield piece[start : start + LONGEST_PIECE]


def _find(piece: str, text: str, at: int) -> tuple[int, int] | None:
    """Return where a piece stands in a text, from ``at`` on if it does there, else where most of it does, or None."""
    from rapidfuzz import fuzz

    start = text.find(piece, at)
    start = text.find(piece) if start < 0 else start
    if start >= 0:
        return start, start + len(piece)
    if not SHORTEST_FUZZY <= len(piece) <= len(text):
        return None
    found = fuzz.partial_ratio_alignment(piece, text, score_cutoff=SIMILAR)
    return (found.dest_start, found.dest_end) if found else None


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans in order, those that touch or overlap as one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


@lru_cache(maxsize=1 << 14)
def _letter(character: str) -> str:
    """Return the letters and digits in a character: without accent, case and variants of form."""
    return "".join(one for one in unicodedata.normalize("NFKD", character).casefold() if one.isalnum())


def _plain(text: str) -> str:
    return "".join(map(_letter, text))


def _letters(text: str) -> _Letters:
    plain = [(letter, place) for place, character in enumerate(text) for letter in _letter(character)]
    return _Letters(text, "".join(letter for letter, _ in plain), [place for _, place in plain])


def _in_word(text: str, place: int) -> bool:
    return text[place].isalnum() and not UNSPACED.match(text[place])


def names(text: str, name: str, share: float = 0.0) -> bool:
    """Return whether a text names something: in full, by initials, or by some of its words, inflected or not.

    Args:
        text: from a question to a document.
        name: what it is called elsewhere, perhaps with more in parentheses.
        share: of the letters of the name's words, how many the words in the text must have. Of words of more than
            three letters, there must be one.
    """
    name = _PARENTHESES.sub("", name) or name
    plain, whole = _plain(text), _plain(name)
    if not whole:
        return bool(name) and name in text
    if whole in plain and (len(whole) > 3 or UNSPACED.match(whole)):  # "Art" is in "start"
        return True
    if _initials(name, text):
        return True
    words = [word for word in _words(name) if word not in STOPWORDS] or _words(name)
    tokens = set(_words(text))
    present = [word for word in words if _has_word(word, tokens, plain)]
    distinctive = [word for word in words if len(word) > 3] or words
    enough = sum(map(len, present)) >= share * sum(map(len, words))
    return enough and any(word in present for word in distinctive)


def spells(text: str, name: str) -> bool:
    """Return whether a text has a name in full, and not as part of a longer one, as Nile is in "the Blue Nile"."""
    text, name = (unicodedata.normalize("NFKC", one) for one in (text, _PARENTHESES.sub("", name).strip() or name))
    pattern = r"[\W_]+".join(map(re.escape, re.findall(r"\w+", name))) or re.escape(name)
    edge = "" if UNSPACED.search(name) else r"\b"
    for found in re.finditer(edge + pattern + edge, text, re.IGNORECASE):
        before = re.search(r"\s(\w+) $", text[: found.start()])  # the first word of all is always capitalised
        after = re.match(r" (\w+)", text[found.end() :])
        if not any(word and word[1][0].isupper() and word[1].lower() not in STOPWORDS for word in (before, after)):
            return True
    return False


def _words(text: str) -> list[str]:
    """Return a text's words in plain letters."""
    return [plain for word in re.findall(r"\w+", unicodedata.normalize("NFKC", text)) if (plain := _plain(word))]


def _has_word(word: str, tokens: set[str], plain: str) -> bool:
    """Return whether a text, given as words and as plain letters, has a word, or one that is hardly another."""
    from rapidfuzz import fuzz, process

    if word in tokens or ((len(word) > 3 or UNSPACED.match(word)) and word in plain):
        return True
    return len(word) > 3 and process.extractOne(word, tokens, scorer=fuzz.ratio, score_cutoff=SAME_WORD) is not None


def _initials(name: str, text: str) -> bool:
    """Return whether a text has a name's initials, or the words that a name is the initials of."""
    initials = [word[0] for word in re.findall(r"\w+", name) if word[0].isupper()]
    dotted = r"\.?".join(initials)
    if len(initials) > 1 and re.search(rf"\b{dotted}\b", text):
        return True
    letters = re.sub(r"\W", "", name)
    if not (2 <= len(letters) <= 8 and letters.isalpha() and letters.isupper()):
        return False
    return re.search(r"[\W_]+(?:[a-z]{1,3}\s+)*".join(rf"\b{letter}\w+" for letter in letters), text) is not None
