"""Recurring terms of a corpus whose documents do not mention each other."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from utils.schema import Document
from utils.teachers.questions import TERM, Profile, noun_phrases
from utils.teachers.titles import NameFinder
from utils.teachers.words import STOPWORDS, WORD

LENGTHS = (2, 3, 4)  # words of a term
READ = 10_000  # documents, from the corpus's first on
FEWEST = 4  # documents with a term
MOST = 0.05  # share of documents with a term
ADAPTATION = 0.3  # smallest share of a term's documents that have it twice
NESTED = 0.6  # largest share of a term's documents that have it within a longer one
LONGEST_TOPIC = 8  # words of a title

_APART = STOPWORDS - {"two", "three"} | {"behind", "further", "having"}  # not "dimensional flow", without its "two"
_NO_NOUN = re.compile(r"(?:ed|ly|al|ic|ous|ive|facing)$")


class TermFinder(NameFinder):
    """Finds terms in any case, number and hyphenation.

    A term is a run of 2 to 4 words in a few documents that comes again where it came once: that tells what a document
    is about from turns of phrase, which are spread evenly (Church, "Empirical estimates of adaptation", 2000). A run
    that is mostly part of longer ones is none (as in C-value: Frantzi and Ananiadou, 1996).
    """

    type = "term"
    dwelt_upon = 2

    def __init__(self, documents: Iterable[Document]) -> None:
        """Find the terms of a corpus."""
        texts = [self.folded(document.contents) for document in islice(documents, READ)]
        found = Counter(word for text in texts for word in set(WORD.findall(text)))
        common = {word for word, count in found.items() if count >= FEWEST and word.isalpha() and len(word) > 2}
        having, twice = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
        spelled: dict[tuple[str, ...], Counter[str]] = {}
        for text in texts:
            spellings: dict[tuple[str, ...], list[str]] = {}
            for run in _runs(text, common - _APART):
                spellings.setdefault(self.key(run), []).append(" ".join(run))
            having.update(spellings.keys())
            twice.update(key for key, every in spellings.items() if len(every) > 1)
            for key, every in spellings.items():
                spelled.setdefault(key, Counter()).update(every)
        nested = Counter[tuple[str, ...]]()  # in any longer one that goes on, or in the same one that starts before
        for longer, count in having.items():
            nested[self.key(list(longer[:-1]))] += count
        for longer, count in having.items():
            nested[longer[1:]] = max(nested[longer[1:]], count)
        most = max(2 * FEWEST, int(MOST * len(texts)))
        terms = (
            key for key, count in having.items()
            if FEWEST <= count <= most and twice[key] >= ADAPTATION * count and nested[key] <= NESTED * count
            and not _NO_NOUN.search(key[-1])
        )  # fmt: skip
        super().__init__({key: min(spelled[key], key=lambda one: (-spelled[key][one], one)) for key in terms})

    def folded(self, text: str) -> str:
        """Return a text in lower case, without hyphens."""
        return text.lower().replace("-", " ")

    def key(self, tokens: list[str]) -> tuple[str, ...]:
        """Return the words of a term, the last in the singular."""
        *first, last = tokens
        return (*first, last[:-1] if len(last) > 3 and last.endswith("s") and not last.endswith("ss") else last)

    def topic(self, document: Document) -> str:
        """Return the title, of a long one a phrase, without its full stop; "" if it has none."""
        title = document.title.rstrip(" .")
        return title if len(title.split()) <= LONGEST_TOPIC else next(iter(noun_phrases(title)), "")

    def profile(self, name: str, sentence: str) -> Profile:
        """Return a term with an article if the sentence has one before it."""
        definite = re.search(rf"\b(?:an?|the) {re.escape(name)}\b", sentence)
        return Profile(TERM, "the" if definite else "")


def _runs(text: str, among: frozenset[str] | set[str]) -> Iterator[list[str]]:
    """Yield all runs of 2 to 4 words ``among`` those given, with nothing but spaces between them."""
    run: list[str] = []
    end = -1
    for match in WORD.finditer(text):
        if match[0] not in among or text[end : match.start()] != " ":
            run = []
        if match[0] in among:
            run.append(match[0])
            yield from (run[-length:] for length in LENGTHS if len(run) >= length)
        end = match.end()
