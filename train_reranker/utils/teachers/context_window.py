"""What fits into a model's context window: long texts window by window, and how a prompt that was cut shows.

An endpoint that cuts a prompt says nothing of it: Ollama drops its beginning and answers what is left. The only trace
is the number of prompt tokens that it reports, so that number is held against what was sent.
"""

from __future__ import annotations

import math
import random
import re
from bisect import bisect_right
from itertools import accumulate

from utils.schema import BridgeEntity, Document
from utils.teachers import prompts
from utils.teachers.offline import content_words
from utils.teachers.reply_cache import Reply

CHARS_PER_TOKEN = 4  # of languages that put spaces between words; a letter of the others is about a token
OVERLAP = 0.1  # of a window, so that hardly a passage is only ever seen in two halves
# No model has a smaller window. An endpoint that reports fewer tokens for a longer prompt does not count the prompt:
# some report a constant, some only what their cache did not hold.
SMALLEST_WINDOW = 1024
TRIAL_FROM = 1600  # tokens of the longest prompt: with room for the reply, shorter ones fit into every window in use
ROOM = 1024  # tokens that a window must hold beside the longest prompt: the reply, and what the estimate lacks
REMEDY = "Ollama: OLLAMA_CONTEXT_LENGTH or num_ctx; vLLM: --max-model-len"
# To every tokenizer, each of these with its space is one token at least.
SHORT_WORDS = ("the", "and", "for", "but", "not", "you", "all", "any", "can", "her", "was", "one", "our", "out", "day")

_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text takes: a quarter of its characters, and one for each unspaced letter."""
    unspaced = len(_UNSPACED.findall(text))
    return unspaced + (len(text) - unspaced) // CHARS_PER_TOKEN


def split_windows(text: str, max_tokens: int) -> list[str]:
    """Return a text in windows of at most ``max_tokens`` estimated tokens, evenly spread, that overlap by a tenth.

    They begin and end between words. A text that fits is one window, unchanged.
    """
    if estimate_tokens(text) <= max_tokens:
        return [text]
    # In quarters of a token, up to and including each character.
    cost = list(accumulate(CHARS_PER_TOKEN if _UNSPACED.match(letter) else 1 for letter in text))
    size = max_tokens * CHARS_PER_TOKEN
    count = -(-(cost[-1] - int(size * OVERLAP)) // int(size * (1 - OVERLAP)))
    windows = []
    for number in range(count):
        begin = (cost[-1] - size) * number // max(1, count - 1)
        start, end = bisect_right(cost, begin), bisect_right(cost, begin + size)
        windows.append(_between_words(text, start, end))
    return windows


def _between_words(text: str, start: int, end: int) -> str:
    """Return ``text[start:end]`` without the halves of words at its ends."""
    piece = text[start:end]
    if start and not text[start - 1].isspace() and (space := re.search(r"\s", piece[:200])):
        piece = piece[space.end() :]
    if end < len(text) and not text[end].isspace() and (space := re.search(r"\s\S*$", piece[-200:])):
        piece = piece[: len(piece) - len(piece[-200:]) + space.start()]
    return piece.strip()


def count_windows(longest_document: int, max_tokens: int, most: int) -> int:
    """Return in how many windows a corpus's documents are read at most; the longest is so many bytes long."""
    tokens = longest_document // 3  # at most: an unspaced letter is three bytes
    return 1 if tokens <= max_tokens else min(most, 1 + math.ceil(tokens / (max_tokens * (1 - OVERLAP))))


def windows_about(document: Document, entity: BridgeEntity, max_tokens: int, most: int) -> list[Document]:
    """Return a document in at most ``most`` windows, those first that name the entity and share the query's words."""
    name, asked = entity.name.casefold(), content_words(entity.query)
    windows = split_windows(document.contents, max_tokens)
    if len(windows) > 1:
        windows.sort(key=lambda text: (name not in text.casefold(), -len(asked & content_words(text))))
    return [document._replace(contents=window) for window in windows[:most]]


def windows_anywhere(document: Document, seed: int, max_tokens: int, most: int) -> list[Document]:
    """Return a document in at most ``most`` windows from anywhere in it, as the seed and its id decide."""
    windows = split_windows(document.contents, max_tokens)
    random.Random(f"{seed} {document.id}").shuffle(windows)
    return [document._replace(contents=window) for window in windows[:most]]


def is_cut(question: prompts.Question, reply: Reply) -> bool:
    """Tell whether a reply reports fewer tokens than its prompt has words, of which each takes one at least."""
    told = reply.tokens_in
    estimated = sum(len(message["content"]) for message in question.messages) // CHARS_PER_TOKEN
    if told < SMALLEST_WINDOW or told == estimated:  # which is filed where an endpoint reports none
        return False
    text = " ".join(message["content"] for message in question.messages)
    unspaced = len(_UNSPACED.findall(text))
    # A common word of an unspaced script has two or three letters; four are taken for a token to be on the safe side.
    return told < len(_UNSPACED.sub(" ", text).split()) + unspaced // 4


def rules_tokens() -> int:
    """Return about how many tokens a prompt takes beside the document that it shows."""
    return estimate_tokens(prompts.extraction(Document("", "", "")).messages[0]["content"])


def longest_prompt(longest_document: int, max_tokens: int) -> int:
    """Return about how many tokens the longest prompt takes, for a corpus's longest document in bytes.

    Four bytes a token hold for Chinese, too, whose letters are three bytes.
    """
    return rules_tokens() + min(max_tokens, longest_document // CHARS_PER_TOKEN)


def trial_question(tokens: int) -> prompts.Question:
    """Return a question that takes at least ``tokens`` tokens in any tokenizer: its text is as many short words."""
    text = " ".join(random.Random(0).choices(SHORT_WORDS, k=tokens))
    return prompts.extraction(Document("", "Short words", text))
