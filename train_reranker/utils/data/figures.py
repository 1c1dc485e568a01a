"""What data sets are like, in numbers: rows, lengths, scripts, and what a model would cut."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.data.audit import NEGATIVE, POSITIVE, QUERY, Gathered
from utils.models.lengths import Lengths, length_limit, trained_lengths, training_lengths
from utils.models.loading import load_tokenizer
from utils.schema import ContrastiveExample

PERCENTILES = (5, 25, 50, 75, 95, 100)
STEPS = "/".join(map(str, PERCENTILES)) + "%"


def figures(gathered: Gathered) -> dict[str, Any]:
    """Return counts, characters, scripts and the longest rows of gathered rows, as a JSON value."""
    import numpy as np

    role, length = np.array(gathered.role), np.array(gathered.length)
    texts = np.frombuffer(gathered.text, np.uint64)
    rows = len(gathered.set)
    characters = {"query": length[role == QUERY], "passage": length[role != QUERY]}
    passages = gathered.scripts[POSITIVE] + gathered.scripts[NEGATIVE]
    return {
        "rows": rows,
        "different queries": len(np.unique(texts[role == QUERY])),
        "different passages": len(np.unique(texts[role != QUERY])),
        "positives per row": round(float(np.sum(role == POSITIVE)) / max(1, rows), 2),
        "negatives per row": round(float(np.sum(role == NEGATIVE)) / max(1, rows), 2),
        f"characters, {STEPS}": {name: percentiles(values) for name, values in characters.items() if len(values)},
        "scripts": {"query": shares(gathered.scripts[QUERY]), "passage": shares(passages)},
        "longest rows": [
            {"place": str(gathered.place(row)), "characters": size} for size, row in sorted(gathered.longest)[::-1]
        ],
    }


def percentiles(values: Any) -> dict[str, int]:
    """Return ``PERCENTILES`` of numbers, by name."""
    import numpy as np

    found = np.percentile(values, PERCENTILES).astype(int).tolist()
    return dict(zip(map(str, PERCENTILES), found, strict=True))


def shares(counts: dict[str, int]) -> dict[str, float]:
    """Return the share of each, the largest first."""
    total = sum(counts.values())
    return {name: round(count / total, 4) for name, count in sorted(counts.items(), key=lambda item: -item[1])}


def token_figures(
    rows: Sequence[ContrastiveExample], model: Path, query: int | None, passage: int | None
) -> dict[str, Any]:
    """Return how many tokens rows have, and the share that is cut when the model is trained at these lengths."""
    import numpy as np

    tokenizer, config = load_tokenizer(model)
    lengths = training_lengths(query, passage, trained_lengths(tokenizer), length_limit(config, tokenizer), 8)
    queries, passages = [row.query for row in rows], [text for row in rows for text in row.passages]
    of_query, of_passage = (np.array([len(ids) for ids in _ids(tokenizer, texts)]) for texts in (queries, passages))
    special = tokenizer.num_special_tokens_to_add(pair=True)
    kept = np.repeat(np.minimum(of_query, lengths.query), [len(row.passages) for row in rows])
    cut = {"queries cut": of_query > lengths.query, "pairs cut": kept + of_passage + special > lengths.pair}
    tokens = {"query": percentiles(of_query), "passage": percentiles(of_passage)}
    shown = {name: round(float(np.mean(one)), 4) for name, one in cut.items()}
    return {
        "rows counted": len(rows),
        f"tokens, {STEPS}": tokens,
        **shown,
        "lengths": lengths_as_json(lengths),
    }


def lengths_as_json(lengths: Lengths) -> dict[str, int]:
    """Return the most tokens that a query and a pair may have."""
    return {"query": lengths.query, "pair": lengths.pair}


def _ids(tokenizer: Any, texts: Sequence[str]) -> Any:
    return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
