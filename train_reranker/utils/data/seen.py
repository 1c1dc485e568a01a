"""What a model was trained on, noted in its folder, so that a test on the same queries does not go unnoticed."""

from collections.abc import Iterable, Sequence
from heapq import nsmallest

from utils.data.rows import canonical
from utils.files import hash64

KEPT = 1000  # hashes


def note_queries(queries: Iterable[str]) -> list[int]:
    """Return the ``KEPT`` lowest hashes of the queries: a sample of them, of which other queries can be members."""
    return nsmallest(KEPT, {hash64(canonical(query)) for query in queries})


def share_seen(noted: Sequence[int], queries: Iterable[str]) -> float:
    """Return the share of the queries, 0 to 1, that are among those noted; estimated where more were than are kept.

    This is the bottom-k sketch of Broder (1997): below the highest hash that was kept, membership is known.
    """
    known, hashes = set(noted), [hash64(canonical(query)) for query in queries]
    if len(known) >= KEPT:
        highest = max(known)
        hashes = [one for one in hashes if one <= highest]
    return sum(one in known for one in hashes) / max(1, len(hashes))
