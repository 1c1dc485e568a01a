"""Recurring terms of a corpus whose documents do not mention each other."""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import islice

from utils.schema import Document
from utils.teachers.questions import TERM, THING, Profile, noun_phrases
from utils.teachers.titles import NameFinder
from utils.teachers.words import STOPWORDS, WORD

LENGTHS = (2, 3, 4)  # words of a term
READ = 10_000  # documents, from the corpus's first on
FEWEST = 4  # documents with a term
MOST = 0.05  # share of documents with a term
TELLING = 0.3  # smallest share of a term's documents that have it twice, or as a name
NESTED = 0.6  # largest share of a term's documents that have it within a longer one
LONGEST_TOPIC = 8  # words of a title

_APART = STOPWORDS - {"two", "three", "world"} | {
    "behind",
    "further",
    "having",
}  # not "dimensional flow", without its "two"
_NO_NOUN = re.compile(r"(?:ed|ly|al|ic|ous|ive|facing)$")

Key = tuple[str, ...]


class TermFinder(NameFinder):
    """Finds terms in any case, number and hyphenation.

    A term is a run of 2 to 4 words in a few documents that comes again where it came once, which tells what documents
    are about from turns of phrase (Church, "Empirical estimates of adaptation", 2000), or that is capitalised. A run
    that is mostly part of longer ones is none (as in C-value: Frantzi and Ananiadou, 1996).
    """

    type = "term"

    def __init__(self, documents: Iterable[Document]) -> None:
        """Find the terms of a corpus."""
        texts = [document.contents for document in islice(documents, READ)]
        found = Counter(word for text in texts for word in set(WORD.findall(self.folded(text))))
        among = {word for word, count in found.items() if count >= FEWEST and word.isalpha() and len(word) > 1} - _APART
        having, telling = Counter[Key](), Counter[Key]()
        for text in texts:
            runs = self._runs(text, among)
            having.update(runs.keys())
            telling.update(key for key, every in runs.items() if len(every) > 1 or _is_name(every[0]))
        nested = Counter[Key]()  # in any longer one that goes on, or in the same one that starts before
        for longer, count in having.items():
            nested[self.key(list(longer[:-1]))] += count
        for longer, count in having.items():
            nested[longer[1:]] = max(nested[longer[1:]], count)
        most = max(2 * FEWEST, int(MOST * len(texts)))
        spellings: dict[Key, Counter[str]] = {
            key: Counter() for key, count in having.items()
            if FEWEST <= count <= most and telling[key] >= TELLING * count and nested[key] <= NESTED * count
            and not _NO_NOUN.search(key[-1])
        }  # fmt: skip
        for text in texts if spellings else []:
            for key, every in self._runs(text, among).items():
                if key in spellings:
                    spellings[key].update(every)
        super().__init__({key: min(every, key=lambda one: (-every[one], one)) for key, every in spellings.items()})

    def _runs(self, text: str, among: set[str]) -> dict[Key, list[str]]:
        """Return all runs of 2 to 4 words ``among`` those given, with nothing but spaces between them, as spelled."""
        runs: dict[Key, list[str]] = {}
        run: list[re.Match[str]] = []
        folded = self.folded(text)
        for match in WORD.finditer(folded):
            if match[0] not in among or (run and folded[run[-1].end() : match.start()] != " "):
                run = []
            if match[0] in among:
                run = [*run[1 - LENGTHS[-1] :], match]
                for length in LENGTHS[: len(run) - 1]:
                    key = self.key([one[0] for one in run[-length:]])
                    runs.setdefault(key, []).append(text[run[-length].start() : match.end()])
        return runs

    def folded(self, text: str) -> str:
        """Return a text of the same length in lower case, without hyphens."""
        lower = text.lower()
        return (lower if len(lower) == len(text) else text).replace("-", " ")  # some letters become two

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
        return Profile(THING if _is_name(name) else TERM, "the" if definite else "")


def _is_name(text: str) -> bool:
    return all(word[0].isupper() for word in text.split())
