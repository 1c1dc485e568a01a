"""Mentions of other documents by their titles, or of any other names that a corpus has."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from utils.schema import Document
from utils.teachers.questions import Profile, profile_of
from utils.teachers.words import STOPWORDS, WORD, words

DISAMBIGUATION = re.compile(r"\s+\([^()]*\)$|,\s.*$")


def name_of(title: str) -> str:
    """Return the name that running text uses for a title: "Mercury (planet)" is Mercury, "Paris, Texas" is Paris."""
    return DISAMBIGUATION.sub("", title)


class NameFinder:
    """Finds names in a text: the longest run of words that spells one."""

    type = "name"  # of an entity found by it

    def __init__(self, names: Mapping[tuple[str, ...], str]) -> None:
        """Find names by their words, as :meth:`key` returns them."""
        self.names = names
        self._longest: dict[str, int] = {}  # words of a name, by its first
        for first, *rest in names:
            self._longest[first] = max(self._longest.get(first, 0), 1 + len(rest))

    def find(self, text: str) -> Iterator[str]:
        """Yield the names that a text mentions, from left to right, none inside another."""
        text = self.folded(text)
        matches = list(WORD.finditer(text))
        tokens = [match[0] for match in matches]
        position = 0
        while position < len(tokens):
            longest = self._longest.get(tokens[position], 0)
            for end in range(min(position + longest, len(tokens)), position, -1):
                name = self.names.get(self.key(tokens[position:end]))
                if name and not self.is_part(text, matches, position, end):
                    yield name
                    position = end
                    break
            else:
                position += 1

    def folded(self, text: str) -> str:
        """Return a text as it is compared: as it is, unless overridden."""
        return text

    def key(self, tokens: list[str]) -> tuple[str, ...]:
        """Return what all spellings of a name have in common: all of it, unless overridden."""
        return tuple(tokens)

    def is_part(self, text: str, matches: list[re.Match[str]], start: int, end: int) -> bool:
        """Return whether the words ``start:end`` are part of another name: never, unless overridden."""
        return False

    def topic(self, document: Document) -> str:
        """Return what a document is about, as within a sentence; "" if it does not say."""
        return document.title

    def profile(self, name: str, sentence: str) -> Profile:
        """Return how a question speaks of a name that a sentence mentions."""
        return Profile()


class TitleFinder(NameFinder):
    """Finds mentions of titles, spelled exactly as in the title."""

    type = "title"

    def __init__(self, documents: Iterable[Document]) -> None:
        """Index the names of all titles, without words like "Republic" that are as often written in lower case."""
        names: dict[tuple[str, ...], str] = {}
        self._profiles: dict[str, Profile] = {}
        self._spellings: Counter[str] = Counter()
        for document in documents:
            self._spellings.update(words(document.contents))
            name = name_of(document.title)
            if len(name) > 2 and not name.isdigit() and name not in self._profiles:
                names.setdefault(tuple(words(name)), name)
                self._profiles[name] = profile_of(name, document.contents)
        for key in [key for key in names if len(key) <= 1]:
            if not key or key[0].islower() or self._spellings[key[0].lower()] >= self._spellings[key[0]]:
                del names[key]
        super().__init__(names)

    def is_part(self, text: str, matches: list[re.Match[str]], start: int, end: int) -> bool:
        """Return whether the words are part of a longer name, as Daniel is in "Daniel Fahrenheit"."""
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

    def topic(self, document: Document) -> str:
        """Return what a document is about, as within a sentence: "Academic art" is academic art; "" without a title."""
        name = name_of(document.title)
        if not words(name):
            return ""
        first, *rest = words(name)
        common = self._spellings[first.lower()] > self._spellings[first]
        if common and (" of " in name or not any(word[0].isupper() for word in rest)):
            name = name[0].lower() + name[1:]
        definite = profile_of(name, document.contents).article or (common and " of " in name)
        return f"the {name}" if definite else name

    def profile(self, name: str, sentence: str) -> Profile:
        """Return how a question speaks of a title, by that document's first sentence."""
        return self._profiles[name]
