"""What fits into a model's context window: long documents window by window, and how to detect a truncated prompt."""

import math
import random
import re
from bisect import bisect_right
from itertools import accumulate

from utils.schema import BridgeEntity, Document
from utils.teachers import prompts
from utils.teachers.reply_cache import Reply
from utils.teachers.words import UNSPACED, content_words

CHARS_PER_TOKEN = 4  # in scripts with spaces between words; in others a letter is about one token
OVERLAP = 0.1  # share of a window, so that few passages are only seen in two halves
SMALLEST_WINDOW = 1024  # of any model: fewer tokens, reported for a longer prompt, do not count all of it
ROOM = 1024  # tokens needed beside the longest prompt: the reply, and the error of the estimate
PROBE_FROM = 1600 + ROOM  # tokens of the longest prompt and its reply: fewer fit into every window in use
REMEDY = "Ollama: OLLAMA_CONTEXT_LENGTH or num_ctx; vLLM: --max-model-len"
# In every tokenizer, each of these with its space is at least one token.
SHORT_WORDS = ("the", "and", "for", "but", "not", "you", "all", "any", "can", "her", "was", "one", "our", "out", "day")


def estimate_tokens(text: str) -> int:
    """Return an estimate of a text's tokens: a quarter of its characters, and one for each unspaced letter."""
    unspaced = len(UNSPACED.findall(text))
    return unspaced + (len(text) - unspaced) // CHARS_PER_TOKEN


def split_windows(text: str, max_tokens: int) -> list[str]:
    """Split a text between words into windows of at most ``max_tokens`` estimated tokens, overlapping by a tenth."""
    if estimate_tokens(text) <= max_tokens:
        return [text]
    # In quarters of a token, up to and including each character.
    cost = list(accumulate(CHARS_PER_TOKEN if UNSPACED.match(letter) else 1 for letter in text))
    size = max_tokens * CHARS_PER_TOKEN
    count = -(-(cost[-1] - int(size * OVERLAP)) // int(size * (1 - OVERLAP)))
    begins = [(cost[-1] - size) * number // max(1, count - 1) for number in range(count)]
    return [_between_words(text, bisect_right(cost, begin), bisect_right(cost, begin + size)) for begin in begins]


def _between_words(text: str, start: int, end: int) -> str:
    """Return ``text[start:end]`` without split words at its ends."""
    piece = text[start:end]
    if start and not text[start - 1].isspace() and (space := re.search(r"\s", piece[:200])):
        piece = piece[space.end() :]
    if end < len(text) and not text[end].isspace() and (space := re.search(r"\s\S*$", piece[-200:])):
        piece = piece[: len(piece) - len(piece[-200:]) + space.start()]
    return piece.strip()


def count_windows(longest_document: int, max_tokens: int, most: int) -> int:
    """Return the largest number of windows of a corpus's documents; ``longest_document`` is in bytes."""
    tokens = longest_document // 3  # at most: an unspaced letter has three bytes
    return 1 if tokens <= max_tokens else min(most, 1 + math.ceil(tokens / (max_tokens * (1 - OVERLAP))))


def windows_about(document: Document, entity: BridgeEntity, max_tokens: int, most: int) -> list[Document]:
    """Return at most ``most`` windows of a document: first those that name the entity, then by words of the query."""
    name, query = entity.name.casefold(), content_words(entity.query)
    windows = split_windows(document.contents, max_tokens)
    if len(windows) > 1:
        windows.sort(key=lambda text: (name not in text.casefold(), -len(query & content_words(text))))
    return [document._replace(contents=window) for window in windows[:most]]


def windows_anywhere(document: Document, seed: int, max_tokens: int, most: int) -> list[Document]:
    """Return at most ``most`` windows of a document, in an order drawn from the seed and the document's id."""
    windows = split_windows(document.contents, max_tokens)
    random.Random(f"{seed} {document.id}").shuffle(windows)
    return [document._replace(contents=window) for window in windows[:most]]


def is_truncated(question: prompts.Question, reply: Reply) -> bool:
    """Return whether a reply reports fewer prompt tokens than the prompt has words: some truncate it silently."""
    texts = [message["content"] for message in question.messages]
    text, estimated = " ".join(texts), sum(map(len, texts)) // CHARS_PER_TOKEN
    if reply.tokens_in < SMALLEST_WINDOW or reply.tokens_in == estimated:  # the endpoint reported none
        return False
    # A common word of an unspaced script has two or three letters; four per token is on the safe side.
    return reply.tokens_in < len(UNSPACED.sub(" ", text).split()) + len(UNSPACED.findall(text)) // 4


def rules_tokens() -> int:
    """Return an estimate of a prompt's tokens without the document."""
    return estimate_tokens(prompts.extraction(Document("", "", "")).messages[0]["content"])


def probe_question(tokens: int) -> prompts.Question:
    """Return a question of at least ``tokens`` tokens in any tokenizer: a text of that many short words."""
    text = " ".join(random.Random(0).choices(SHORT_WORDS, k=tokens))
    return prompts.extraction(Document("", "Short words", text))
