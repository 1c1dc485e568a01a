"""How many tokens a model takes, and texts cut to so many."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


# Positions of these model types start behind the padding's, so that many of the table's rows are never used.
POSITIONS_AFTER_PADDING = (
    "camembert", "data2vec-text", "ibert", "lilt", "longformer", "luke", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip
# Tokens of a pair where neither the positions nor the tokenizer set a limit: those of the training's default lengths.
NO_LIMIT = 1024


def cut_text(tokenizer: Any, text: str, limit: int) -> str:
    """Return the beginning of a text that is at most ``limit`` tokens long."""
    if not tokenizer.is_fast:  # it cannot say where in the text its tokens stand

        def overlong(end: int) -> bool:
            return len(tokenizer(text[:end], add_special_tokens=False)["input_ids"]) > limit

        return text if not overlong(len(text)) else text[: bisect.bisect(range(1, len(text)), False, key=overlong)]
    encoded = tokenizer(text, add_special_tokens=False, truncation=True, max_length=limit, return_offsets_mapping=True)
    return text if len(encoded["input_ids"]) < limit else text[: encoded["offset_mapping"][-1][1]]


def length_limit(config: Any, tokenizer: Any) -> int | None:
    """Return how many tokens a model takes: what its positions and its tokenizer allow; None where neither says."""
    limit = min(position_limit(config.to_dict()) or math.inf, tokenizer.model_max_length)
    return int(limit) if limit < 10**9 else None  # tokenizers without a limit say 1e30


def position_limit(config: Mapping[str, Any]) -> int | None:
    """Return how many tokens a model can take by its ``config.json``; None where that does not say."""
    kind = str(config.get("model_type"))
    positions = config.get("max_position_embeddings", None if "t5" in kind else config.get("n_positions"))
    if not isinstance(positions, int) or positions <= 0:
        return None
    if kind not in POSITIONS_AFTER_PADDING:
        return positions
    padding = config.get("pad_token_id")
    return positions - 1 - (1 if padding is None else padding)
