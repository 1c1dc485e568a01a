"""How many tokens a model takes, and how many it was trained at."""

import bisect
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

# Positions of these model types start behind the padding's, so that the first rows of the table are never used.
POSITIONS_AFTER_PADDING = (
    "camembert", "data2vec-text", "ibert", "lilt", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm",
    "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip
# Tokens of a query, and of a pair where nothing sets a limit: the training's defaults.
QUERY_LENGTH, NO_LIMIT = 512, 1024
# The key of tokenizer_config.json beside ``model_max_length``, which libraries keep and do not read.
QUERY_KEY = "query_max_length"


class Lengths(NamedTuple):
    """The tokens that a query may have, and those left for the passage and the special tokens."""

    query: int
    passage: int

    @property
    def pair(self) -> int:
        """Tokens of the longest pair that the model is given."""
        return self.query + self.passage

    def tokenizer_settings(self) -> dict[str, int]:
        """Return what a trained folder's tokenizer_config.json says, for :func:`trained_lengths` to read."""
        return {"model_max_length": self.pair, QUERY_KEY: self.query}


def trained_lengths(tokenizer: Any) -> Lengths | None:
    """Return the lengths that a folder was trained at; None where it has none: a base, or of an earlier version."""
    query, pair = tokenizer.init_kwargs.get(QUERY_KEY), tokenizer.model_max_length
    return Lengths(query, pair - query) if isinstance(query, int) and 0 < query < pair else None


def length_limit(config: Any, tokenizer: Any) -> int | None:
    """Return the tokens that a model takes at most: what positions and tokenizer allow; None where neither says.

    The lengths that a folder was trained at are a default, no limit: it can be trained again or scored at others.
    """
    allowed = math.inf if trained_lengths(tokenizer) else tokenizer.model_max_length
    limit = min(position_limit(config.to_dict()) or math.inf, allowed)
    return int(limit) if limit < 10**9 else None  # tokenizers without a limit say 1e30


def position_limit(config: Mapping[str, Any]) -> int | None:
    """Return the tokens that a model's ``config.json`` has positions for; None where that does not say."""
    kind = str(config.get("model_type"))
    positions = config.get("max_position_embeddings", None if "t5" in kind else config.get("n_positions"))
    if not isinstance(positions, int) or positions <= 0:
        return None
    padding = config.get("pad_token_id")
    return positions - 1 - (1 if padding is None else padding) if kind in POSITIONS_AFTER_PADDING else positions


def training_lengths(
    query: int | None, passage: int | None, trained: Lengths | None, limit: int | None, multiple: int = 1
) -> Lengths:
    """Cut lengths, in tokens, to a model's limit: the query keeps at most half of it, the passage gets the rest.

    A length of None is the one that the base was ``trained`` at, so that the two can be compared; where it was at none,
    the query's is ``QUERY_LENGTH``, and the passage takes all that the query leaves, or 512. ``limit`` is a pair's,
    None where there is none; it is lowered to a multiple of ``multiple``, to which batches are padded.
    """
    query, passage = query or (trained.query if trained else QUERY_LENGTH), passage or (trained and trained.passage)
    if limit is None:
        return Lengths(query, 512 if passage is None else passage)
    limit -= limit % max(1, multiple)
    if passage is not None and query + passage <= limit:
        return Lengths(query, passage)
    query = min(query, limit // 2)
    return Lengths(query, limit - query if passage is None else min(passage, limit - query))


def scoring_lengths(query: int | None, pair: int | None, trained: Lengths | None, limit: int | None) -> Lengths:
    """Return the lengths to score at: those asked for, else those trained at, else what the model takes.

    As in FlagEmbedding, a query leaves a quarter of the pair to the passage; at the lengths that the model was trained
    at, it has the room that it had there.
    """
    default = trained.pair if trained else limit or NO_LIMIT
    longest = int(min(pair or default, limit or math.inf))
    if trained and longest == trained.pair and query in (None, trained.query):
        return trained
    query = min(query or (trained.query if trained else QUERY_LENGTH), longest * 3 // 4)
    return Lengths(query, longest - query)


def cut_text(tokenizer: Any, text: str, limit: int) -> str:
    """Return the beginning of a text that is at most ``limit`` tokens long."""
    if not tokenizer.is_fast:  # it does not report where in the text its tokens are

        def too_long(end: int) -> bool:
            return len(tokenizer(text[:end], add_special_tokens=False)["input_ids"]) > limit

        return text if not too_long(len(text)) else text[: bisect.bisect(range(1, len(text)), False, key=too_long)]
    encoded = tokenizer(text, add_special_tokens=False, truncation=True, max_length=limit, return_offsets_mapping=True)
    return text if len(encoded["input_ids"]) < limit else text[: encoded["offset_mapping"][-1][1]]
