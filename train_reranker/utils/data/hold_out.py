"""Which rows to hold out so that the two sides share nothing and training loses little."""

import heapq
import random
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

RETRIED = 10_000  # rows examined over all retries, where the first attempt falls short


class Links(NamedTuple):
    """What a row may share with others, as integer keys: equal keys for equal texts."""

    needed: frozenset[int]  # the row is lost without any of these: its query, its source
    positives: frozenset[int]  # the row is lost without all of these
    negatives: frozenset[int]  # none of the above

    @property
    def core(self) -> frozenset[int]:
        """What the row needs; its negatives can be removed from it."""
        return self.needed | self.positives


class HeldOut:
    """A growing set of held-out rows, and what it costs the others.

    A training row loses every passage that a held-out row needs, and is lost itself if it needed that or it was its
    last positive. A held-out pool loses the negatives that training rows need, and ranks nothing without any.
    All calls together visit each key of each row a few times only, however many rows share it.
    """

    def __init__(self, rows: Sequence[Links], keep_negatives: bool = False) -> None:
        """Start with no row; with ``keep_negatives`` a row is also lost with its last negative."""
        self.rows = rows
        self.order: list[int] = []
        self.lost: set[int] = set()
        self.pools: dict[int, int] = {}  # negatives left to each held-out row
        self.ranking = 0  # held-out rows that have any left
        self.taken: set[int] = set()  # what held-out rows need
        self.needing: dict[int, list[int]] = {}  # the rows that need a key
        self.having: dict[int, list[int]] = {}  # the rows that have a key as a negative
        for number, row in enumerate(rows):
            for found, keys in ((self.needing, row.core), (self.having, row.negatives)):
                for key in keys:
                    found.setdefault(key, []).append(number)
        self.owners = Counter({key: len(found) for key, found in self.needing.items()})  # training rows among them
        self.ranking_key: Counter[int] = Counter()  # held-out rows with a key among their negatives
        self._trained = [True] * len(rows)
        self._positives = [len(row.positives) for row in rows]
        self._negatives = [len(row.negatives) if keep_negatives else -1 for row in rows]
        self._shown: list[int] = []  # keys that have just become part of held-out rows
        self._pruned: set[int] = set()

    @property
    def wasted(self) -> int:
        """How many rows are neither trained on nor able to rank anything."""
        return len(self.lost) + len(self.order) - self.ranking

    def cost(self, number: int) -> tuple[int, int]:
        """Return how many other rows need what this one needs, then how many negatives pools would lose.

        A row that is already lost costs least.
        """
        row = self.rows[number]
        cut = sum(self.owners[key] > 0 for key in row.negatives) - sum(self.ranking_key[key] for key in row.core)
        return -1 if number in self.lost else sum(self.owners[key] - 1 for key in row.core - self.taken), cut

    def take(self, number: int) -> set[int]:
        """Hold one more row out; return the rows that cost less now."""
        row, cheaper = self.rows[number], set()
        self.order.append(number)
        self.ranking_key.update(row.negatives)
        if number in self.lost:
            self.lost.remove(number)
        else:
            self._leave(number)
        self.pools[number] = sum(not self.owners[key] for key in row.negatives)
        self.ranking += self.pools[number] > 0
        for key in row.core - self.taken:
            self.taken.add(key)
            for other in self.needing[key]:
                self._positives[other] -= key in self.rows[other].positives
                if self._trained[other] and (key in self.rows[other].needed or not self._positives[other]):
                    self._lose(other)
                    cheaper.add(other)
            self._disown(key, self.owners[key])
            self._shown.append(key)
            cheaper.update(self.having.get(key, ()))
        for key in row.negatives:
            if self.ranking_key[key] == 1:
                cheaper.update(self.needing.get(key, ()))
                if not self.owners[key]:
                    self._shown.append(key)
        self._prune()
        return {other for other in cheaper if other not in self.pools}

    def _prune(self) -> None:
        """Remove what held-out rows have from the other rows' negatives; a row lost by that may free more."""
        while self._shown:
            key = self._shown.pop()
            if key in self._pruned:
                continue
            self._pruned.add(key)
            for other in self.having.get(key, ()):
                self._negatives[other] -= 1
                if self._trained[other] and not self._negatives[other]:
                    self._lose(other)

    def _lose(self, number: int) -> None:
        self.lost.add(number)
        self._leave(number)

    def _leave(self, number: int) -> None:
        """Stop training on a row: pools may keep what no other training row needs."""
        self._trained[number] = False
        for key in self.rows[number].core - self.taken:
            self._disown(key, 1)

    def _disown(self, key: int, rows: int) -> None:
        self.owners[key] -= rows
        if rows and not self.owners[key] and self.ranking_key[key]:
            self._shown.append(key)
            for other in self.having[key]:
                if other in self.pools:
                    self.pools[other] += 1
                    self.ranking += self.pools[other] == 1


def hold_out(
    rows: Sequence[Links], wanted: int, most_lost: int, rng: random.Random, keep_negatives: bool = False
) -> HeldOut:
    """Hold out about ``wanted`` rows with negatives, losing at most ``most_lost`` others and no more than are held out.

    First come whole connected components of rows that share anything, if they are no larger than ``wanted``; then
    single rows of larger ones, the least linked first, given what is held out so far. ``rng`` breaks ties. Where that
    falls short and the rows are few, it is retried from other first rows.
    """
    held_out = HeldOut(rows, keep_negatives)
    if not wanted:
        return held_out
    place = _places(rows, wanted, rng)
    best = _grow(rows, place, wanted, most_lost, rng, keep_negatives)
    if best.value[1] < wanted:
        for first in rng.sample(range(len(rows)), min(len(rows), RETRIED // len(rows))):
            place[first] -= len(rows) + 1  # before all others
            best = max(best, _grow(rows, place, wanted, most_lost, rng, keep_negatives), key=lambda grown: grown.value)
            place[first] += len(rows) + 1
    for row in best.order:
        held_out.take(row)
    return held_out


class _Grown(NamedTuple):
    """Rows in the order in which they were held out, and their value: (ranking rows - lost rows, ranking rows)."""

    value: tuple[int, int]
    order: list[int]


def _grow(
    rows: Sequence[Links], place: Sequence[int], wanted: int, most_lost: int, rng: random.Random, keep_negatives: bool
) -> _Grown:
    """Hold rows out one by one; return the best state on the way that leaves a row to train on."""
    found = HeldOut(rows, keep_negatives)
    heap = [(place[i], *found.cost(i), rng.random(), i) for i in range(len(rows)) if rows[i].negatives]
    heapq.heapify(heap)
    best, length = (0, 0), 0
    while heap and found.ranking < wanted and len(found.order) < wanted + most_lost:
        *_, row = heapq.heappop(heap)
        if row in found.pools:
            continue
        for other in sorted(found.take(row)):
            if rows[other].negatives:
                # A lost row goes first, whatever its component.
                at = -1 if other in found.lost else place[other]
                heapq.heappush(heap, (at, *found.cost(other), rng.random(), other))
        value = (found.ranking - found.wasted, found.ranking)
        if found.wasted <= most_lost and value > best and len(found.order) + len(found.lost) < len(rows):
            best, length = value, len(found.order)
    return _Grown(best, found.order[:length])


def _places(rows: Sequence[Links], wanted: int, rng: random.Random) -> list[int]:
    """Return each row's rank by component: those of up to ``wanted`` rows shuffled, then larger ones by size."""
    import numpy as np
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    pairs = [(number, len(rows) + key) for number, row in enumerate(rows) for key in row.core | row.negatives]
    size = 1 + max(key for _, key in pairs)
    numbers, keys = np.array(pairs).T
    _, component = connected_components(coo_matrix((np.ones(len(pairs)), (numbers, keys)), (size, size)), False)
    of_row = component[: len(rows)].tolist()
    sizes = Counter(of_row)
    order = sorted(sizes, key=lambda one: (max(sizes[one], wanted), rng.random()))
    place = {one: number for number, one in enumerate(order)}
    return [place[one] for one in of_row]
