"""Words and sentences of running text, found by punctuation."""

import re

WORD = re.compile(r"\w+(?:['’.-]\w+)*")
# Also a mark that stands apart, as in "it rained . she left ."
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"'(]?[A-Z0-9])|(?<=\s[.!?])\s+")
STOPWORDS = frozenset({
    "a", "about", "after", "all", "also", "although", "among", "an", "and", "any", "are", "as", "at", "be",
    "became", "because", "been", "before", "being", "between", "both", "but", "by", "called", "can", "could", "de",
    "did", "during", "each", "first", "for", "four", "from", "had", "has", "have", "he", "her", "his", "how", "if",
    "in", "including", "into", "is", "it", "its", "known", "la", "later", "made", "many", "may", "more", "most",
    "much", "not", "of", "often", "on", "one", "only", "or", "other", "over", "part", "several", "she", "since",
    "so", "some", "such", "than", "that", "the", "their", "them", "then", "there", "these", "they", "this",
    "those", "three", "through", "to", "two", "under", "until", "up", "used", "was", "were", "what", "when",
    "where", "which", "while", "who", "whose", "will", "with", "within", "world", "would", "year", "years",
})  # fmt: skip

# Letters of scripts without spaces between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese.
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


def words(text: str) -> list[str]:
    """Return the words of a text as written, without punctuation."""
    return WORD.findall(text)


def content_words(text: str) -> set[str]:
    """Return the lower-case words of a text, without stopwords and words of one or two letters."""
    return {word for word in map(str.lower, words(text)) if len(word) > 2 and word not in STOPWORDS}


def sentences(text: str) -> list[str]:
    """Split a text into sentences; a line break ends one."""
    return [sentence for line in text.splitlines() for sentence in SENTENCE_END.split(line.strip()) if sentence]


def count_words(text: str) -> int:
    """Return the number of words; in scripts without spaces between words, two letters count as one."""
    return len(UNSPACED.sub(" ", text).split()) + len(UNSPACED.findall(text)) // 2
