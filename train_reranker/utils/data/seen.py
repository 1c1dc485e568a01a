"""What a model was trained on, noted in its folder, so that a test on the same queries does not go unnoticed."""

from collections.abc import Iterable
from heapq import nsmallest

from utils.data.rows import canonical
from utils.files import hash64

KEPT = 1000  # hashes


def note_queries(queries: Iterable[str]) -> str:
    """Return the ``KEPT`` lowest hashes of the queries, as text: a sample that tells which others are the same."""
    return " ".join(f"{one:016x}" for one in nsmallest(KEPT, _hashes(queries)))


def share_seen(noted: str, queries: Iterable[str]) -> float:
    """Return the share of the queries, 0 to 1, that are among those noted; estimated where more were than are kept.

    This is the bottom-k sketch of Broder (1997): below the highest hash that was kept, membership is known.
    """
    known, asked = {int(one, 16) for one in noted.split()}, _hashes(queries)
    if len(known) >= KEPT:
        highest = max(known)
        asked = {one for one in asked if one <= highest}
    return len(known & asked) / max(1, len(asked))


def _hashes(queries: Iterable[str]) -> set[int]:
    return {hash64(canonical(query)) for query in queries}
