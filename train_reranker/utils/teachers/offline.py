"""The offline teacher: rules, no model, no network."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from utils.progress import log
from utils.schema import BridgeEntity, Document, Outcome, SubQuestion, Verdict
from utils.teachers.base import Teacher
from utils.teachers.questions import ask, ask_keywords
from utils.teachers.terms import TermFinder
from utils.teachers.titles import NameFinder, TitleFinder, name_of
from utils.teachers.words import content_words, sentences, words

QUESTIONS, KEYWORDS = QUERIES = "questions", "keywords"
TRIED = 500  # documents that decide whether titles are mentioned
MENTIONED = 0.2  # least share of them that mention another's title
MIN_MENTIONS = 2  # of an entity, the title included, in a text that is about it


class OfflineTeacher(Teacher):
    """Rules only, a crude stand-in for a language model: trained on it, a reranker prefers passages with the entity.

    A bridge entity is a mention of another document's title, or of a recurring term in a corpus whose documents hardly
    mention each other's titles. A candidate is usable if it mentions the entity more than once, not in passing, and one
    of the sentences that do adds enough to the source segment.
    """

    error_rate = 0.01  # its rules are what it means by relevant, and asked again it says the same

    def __init__(
        self,
        documents: Iterable[Document],
        min_segment_words: int = 20,
        min_new_words: int = 5,
        queries: str = QUESTIONS,
    ) -> None:
        """Index the titles of a corpus, or else its terms.

        ``min_new_words`` is what a sentence must add to a segment's content words; ``queries`` is one of ``QUERIES``.
        """
        self.min_segment_words, self.min_new_words, self.queries = min_segment_words, min_new_words, queries
        self._turns: dict[str, int] = {}
        self.complaint = ""  # why there is nothing to ask about
        self._finder: NameFinder = TitleFinder(documents)
        tried = list(islice(documents, TRIED))
        mentioning = sum(self.turns(document) > 0 for document in tried)
        if mentioning >= max(1, MENTIONED * len(tried)):
            return
        mentions = f"{mentioning} of the corpus's first {len(tried)} documents mention another's title"
        if (terms := TermFinder(documents)).names:
            self._finder = terms
            self._turns.clear()
            log.info("%s: the offline teacher asks about %d recurring terms instead", mentions, len(terms.names))
        elif not mentioning:
            self.complaint = f"{mentions}, and no terms of 2 to 4 words recur"

    @property
    def settings(self) -> dict[str, Any]:
        """The version of the rules, the two thresholds, and what queries are."""
        thresholds = {"min_segment_words": self.min_segment_words, "min_new_words": self.min_new_words}
        return {"teacher": "offline 3", **thresholds, "queries": self.queries}

    def turns(self, document: Document) -> int:
        """Return how many entities a document has."""
        if document.id not in self._turns:  # asked in every turn
            self._turns[document.id] = len(list(self._mentions(document)))
        return self._turns[document.id]

    async def extract(self, document: Document, turn: int = 0) -> BridgeEntity | None:
        """Return the first mention that comes with a long enough segment, or the one ``turn`` later, or None."""
        found = next(islice(self._mentions(document), turn, None), None)
        if found is None:
            return None
        name, sentence, segment = found
        if self.queries == KEYWORDS:
            query = ask_keywords(name, sentence)
        else:
            topic, profile = self._finder.topic(document), self._finder.profile(name, sentence)
            query = ask(name, profile, topic, (sentence, segment, document.contents), f"{document.contents}\0{name}")
        return BridgeEntity(name, self._finder.type, segment, query)

    async def judge(self, entity: BridgeEntity, candidate: Document) -> Verdict:
        """USABLE if it mentions the entity ``MIN_MENTIONS`` times, in a sentence with ``min_new_words`` new words."""
        known = content_words(entity.segment) | content_words(entity.name)
        found = [(one, Counter(self._finder.find(one))[entity.name]) for one in sentences(candidate.text)]
        mentions = sum(count for _, count in found)
        if mentions < MIN_MENTIONS:
            reason = f"mentions {entity.name} in passing" if mentions else "does not mention the entity"
            return Verdict(Outcome.UNUSABLE, reason)
        for sentence, count in found:
            if count and len(content_words(sentence) - known) >= self.min_new_words:
                gap = f"What belongs in the gap? {entity.segment.replace(entity.name, '___')}"
                first = SubQuestion(gap, entity.name, "A")
                second = SubQuestion(f"What else is said of {entity.name}?", sentence, "B")
                return Verdict(Outcome.USABLE, f"says of {entity.name}: {sentence}", (first, second), sentence)
        return Verdict(Outcome.UNUSABLE, "adds nothing to the source's segment")

    async def relevant(self, query: str, positive: str, passages: Sequence[str], variant: int = 0) -> list[Verdict]:
        """USABLE if the passage is about a name that query and positive have in common; ERROR if they have none."""
        names = set(self._finder.find(query)) & set(self._finder.find(positive))
        if not names:
            return [Verdict(Outcome.ERROR, "the query names nothing that the positive mentions")] * len(passages)
        return [self._about(names, passage) for passage in passages]

    def _about(self, names: set[str], passage: str) -> Verdict:
        mentioned = Counter(self._finder.find(passage))
        if found := sorted(name for name in names if mentioned[name] >= MIN_MENTIONS):
            return Verdict(Outcome.USABLE, f"is about {', '.join(found)}, which query and positive name")
        return Verdict(Outcome.UNUSABLE, "is about none of the names that query and positive have in common")

    def _mentions(self, document: Document) -> Iterator[tuple[str, str, str]]:
        """Yield each name once with the sentence that mentions it first, and that as a segment."""
        own, known = name_of(document.title), set[str]()
        parts = sentences(document.contents)
        for position, sentence in enumerate(parts):
            for name in self._finder.find(sentence):
                # A term may be spelled in another way.
                is_own = name in own or (own and own in name)
                if name in known or is_own or name not in sentence:
                    continue
                if segment := self._segment(parts, position):
                    known.add(name)
                    yield name, sentence, segment

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
