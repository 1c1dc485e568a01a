"""The offline teacher: rules, no model, no network."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from utils.schema import BridgeEntity, Document, Outcome, SubQuestion, Verdict
from utils.teachers.base import Teacher
from utils.teachers.questions import Profile, ask, ask_keywords, profile_of
from utils.teachers.words import STOPWORDS, WORD, content_words, sentences, words

QUESTIONS, KEYWORDS = QUERIES = "questions", "keywords"
DISAMBIGUATION = re.compile(r"\s+\([^()]*\)$|,\s.*$")


def name_of(title: str) -> str:
    """Return the name that running text uses for a title: "Mercury (planet)" is Mercury, "Paris, Texas" is Paris."""
    return DISAMBIGUATION.sub("", title)


class TitleFinder:
    """Finds mentions of titles in a text: the longest run of words that spells a title's name exactly."""

    def __init__(self, documents: Iterable[Document]) -> None:
        """Index the names of all titles, without words like "Republic" that are as often written in lower case."""
        self._names: dict[tuple[str, ...], str] = {}
        self.profiles: dict[str, Profile] = {}
        spellings: Counter[str] = Counter()
        for document in documents:
            spellings.update(words(document.contents))
            name = name_of(document.title)
            if len(name) > 2 and not name.isdigit():
                self._names.setdefault(tuple(words(name)), name)
                if name not in self.profiles:
                    self.profiles[name] = profile_of(name, document.contents)
        for key in [key for key in self._names if len(key) <= 1]:
            if not key or key[0].islower() or spellings[key[0].lower()] >= spellings[key[0]]:
                del self._names[key]
        self._spellings = spellings
        self._longest = max(map(len, self._names), default=0)

    def topic(self, document: Document) -> str:
        """Return what a document is about, as within a sentence: "Academic art" is academic art; "" without a title."""
        name = name_of(document.title)
        first, *rest = words(name) or [""]
        common = self._spellings[first.lower()] > self._spellings[first]
        if common and (" of " in name or not any(word[0].isupper() for word in rest)):
            name = name[0].lower() + name[1:]
        definite = profile_of(name, document.contents).article or (common and " of " in name)
        return f"the {name}" if definite else name

    def find(self, text: str) -> Iterator[str]:
        """Yield the names that a text mentions, from left to right, none inside another."""
        matches = list(WORD.finditer(text))
        tokens = [match[0] for match in matches]
        position = 0
        while position < len(tokens):
            for end in range(min(position + self._longest, len(tokens)), position, -1):
                name = self._names.get(tuple(tokens[position:end]))
                if name and not _inside_name(text, matches, position, end):
                    yield name
                    position = end
                    break
            else:
                position += 1


def _inside_name(text: str, matches: list[re.Match[str]], start: int, end: int) -> bool:
    """Return whether the words ``start:end`` are part of a longer name, as Daniel is in "Daniel Fahrenheit"."""
    following = [match[0] for match in matches[end : end + 2]]
    if end - start == 1 and len(following) == 2 and following[0] == "of" and following[1][0].isupper():
        return True  # as Prince is in "Prince of Wales"
    for left, right, neighbour in ((start - 1, start, start - 1), (end - 1, end, end)):
        if left < 0 or right >= len(matches) or text[matches[left].end() : matches[right].start()] != " ":
            continue
        word = matches[neighbour][0]
        if word[0].isupper() and word.lower() not in STOPWORDS:
            return True
    return False


class OfflineTeacher(Teacher):
    """Rules only, a crude stand-in for a language model: trained on it, a reranker prefers passages with the entity.

    A bridge entity is a mention of another document's title. A candidate is usable if one of its sentences mentions
    the entity and adds enough to the source segment.
    """

    def __init__(
        self,
        documents: Iterable[Document],
        min_segment_words: int = 20,
        min_new_words: int = 5,
        queries: str = QUESTIONS,
    ) -> None:
        """Index the titles of a corpus. ``min_new_words`` is what a sentence must add to a segment's content words."""
        self.queries = queries
        self._finder = TitleFinder(documents)
        self.min_segment_words, self.min_new_words = min_segment_words, min_new_words

    @property
    def settings(self) -> dict[str, Any]:
        """The two thresholds, and what queries are."""
        thresholds = {"min_segment_words": self.min_segment_words, "min_new_words": self.min_new_words}
        return {"teacher": "offline", **thresholds, "queries": self.queries}

    async def extract(self, document: Document) -> BridgeEntity | None:
        """Return the first mention of another title that comes with a long enough segment, or None."""
        own = name_of(document.title)
        parts = sentences(document.contents)
        for position, sentence in enumerate(parts):
            for name in self._finder.find(sentence):
                if name not in own and own not in name and (segment := self._segment(parts, position)):
                    return BridgeEntity(name, "title", segment, self._ask(document, name, sentence))
        return None

    async def judge(self, entity: BridgeEntity, candidate: Document) -> Verdict:
        """USABLE if a sentence mentions the entity and adds ``min_new_words`` content words to the segment."""
        known = content_words(entity.segment) | content_words(entity.name)
        mentioned = False
        for sentence in sentences(candidate.text):
            if entity.name in self._finder.find(sentence):
                mentioned = True
                if len(content_words(sentence) - known) >= self.min_new_words:
                    gap = f"What belongs in the gap? {entity.segment.replace(entity.name, '___')}"
                    first = SubQuestion(gap, entity.name, "A")
                    second = SubQuestion(f"What else is said of {entity.name}?", sentence, "B")
                    return Verdict(Outcome.USABLE, f"says of {entity.name}: {sentence}", (first, second))
        reason = "adds nothing to the source's segment" if mentioned else "does not mention the entity"
        return Verdict(Outcome.UNUSABLE, reason)

    def _ask(self, document: Document, name: str, sentence: str) -> str:
        if self.queries == KEYWORDS:
            return ask_keywords(name, sentence)
        topic = self._finder.topic(document)
        return ask(name, self._finder.profiles[name], topic, sentence, f"{document.id}\0{name}")

    def _segment(self, parts: list[str], position: int) -> str | None:
        """Return the sentence at ``position`` with as many neighbours as needed; None if the text is too short."""
        start = end = position
        while len(words(" ".join(parts[start : end + 1]))) < self.min_segment_words:
            if end + 1 < len(parts):
                end += 1
            elif start > 0:
                start -= 1
            else:
                return None
        return " ".join(parts[start : end + 1])
