"""Which rows to hold out so that nothing stands on both sides and little is lost to the side that is trained on."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

RETRIED = 10_000  # rows to look at again, over all attempts, where the first one falls short


class Links(NamedTuple):
    """What a row shares with others, as keys: whole numbers from 0, equal for what is the same in any two rows."""

    needed: frozenset[int]  # a row is nothing without each of these: its query, its source
    positives: frozenset[int]  # nor without one of these at least
    negatives: frozenset[int]  # none of the above

    @property
    def core(self) -> frozenset[int]:
        """What the row stands on; its negatives can be taken out of it."""
        return self.needed | self.positives


class HeldOut:
    """A growing set of held-out rows, and what it costs the others.

    A row to train on gives up whatever a held-out row stands on, and is lost if that was needed or its last positive.
    A held-out pool gives up the negatives that rows to train on stand on, and ranks nothing once it has none.
    All calls together look at each key of each row a few times only, however many rows share it.
    """

    def __init__(self, rows: Sequence[Links], keep_negatives: bool = False) -> None:
        """Hold nothing out yet; with ``keep_negatives`` a row is also lost with its last negative."""
        self.rows = rows
        self.order: list[int] = []
        self.lost: set[int] = set()
        self.pools: dict[int, int] = {}  # negatives left to each held-out row
        self.ranking = 0  # held-out rows that have any left
        self.taken: set[int] = set()  # what held-out rows stand on
        self.standing: dict[int, list[int]] = {}  # the rows that stand on a key
        self.having: dict[int, list[int]] = {}  # the rows that have a key as a negative
        for number, row in enumerate(rows):
            for found, keys in ((self.standing, row.core), (self.having, row.negatives)):
                for key in keys:
                    found.setdefault(key, []).append(number)
        self.owners = Counter({key: len(found) for key, found in self.standing.items()})  # of them, rows to train on
        self.asking: Counter[int] = Counter()  # held-out rows that have a key as a negative
        self._trained = [True] * len(rows)
        self._positives = [len(row.positives) for row in rows]
        self._negatives = [len(row.negatives) if keep_negatives else -1 for row in rows]
        self._shown: list[int] = []  # keys that held-out rows have from now on
        self._pruned: set[int] = set()

    @property
    def wasted(self) -> int:
        """How many rows are neither trained on nor worth ranking."""
        return len(self.lost) + len(self.order) - self.ranking

    def cost(self, number: int) -> tuple[int, int]:
        """Return how many other rows stand on what this one does, then by how many negatives pools would shrink.

        A row that is lost already costs least.
        """
        row = self.rows[number]
        cut = sum(self.owners[key] > 0 for key in row.negatives) - sum(self.asking[key] for key in row.core)
        return -1 if number in self.lost else sum(self.owners[key] - 1 for key in row.core - self.taken), cut

    def take(self, number: int) -> set[int]:
        """Hold one more row out; returns the rows that cost less now."""
        row, cheaper = self.rows[number], set()
        self.order.append(number)
        self.asking.update(row.negatives)
        if number in self.lost:
            self.lost.remove(number)
        else:
            self._leave(number)
        self.pools[number] = sum(not self.owners[key] for key in row.negatives)
        self.ranking += self.pools[number] > 0
        for key in row.core - self.taken:
            self.taken.add(key)
            for other in self.standing[key]:
                self._positives[other] -= key in self.rows[other].positives
                if self._trained[other] and (key in self.rows[other].needed or not self._positives[other]):
                    self._lose(other)
                    cheaper.add(other)
            self._disown(key, self.owners[key])
            self._shown.append(key)
            cheaper.update(self.having.get(key, ()))
        for key in row.negatives:
            if self.asking[key] == 1:
                cheaper.update(self.standing.get(key, ()))
                if not self.owners[key]:
                    self._shown.append(key)
        self._prune()
        return {other for other in cheaper if other not in self.pools}

    def _prune(self) -> None:
        """Take what held-out rows have out of the other rows' negatives; a row lost by that may free more."""
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
        """Train on a row no more: a pool may have what no other row stands on."""
        self._trained[number] = False
        for key in self.rows[number].core - self.taken:
            self._disown(key, 1)

    def _disown(self, key: int, rows: int) -> None:
        self.owners[key] -= rows
        if rows and not self.owners[key] and self.asking[key]:
            self._shown.append(key)
            for other in self.having[key]:
                if other in self.pools:
                    self.pools[other] += 1
                    self.ranking += self.pools[other] == 1


def hold_out(
    rows: Sequence[Links], wanted: int, most_lost: int, rng: random.Random, keep_negatives: bool = False
) -> HeldOut:
    """Hold out about ``wanted`` rows that rank, and lose at most ``most_lost`` others and no more than are held out.

    Whole components of rows that share anything go first, if they are no larger than what is wanted; then the rows of
    larger ones, those first that least is linked to, now that others are held out. Equals are drawn by ``rng``. Where
    that falls short and the rows are few, it is tried again from other rows on.
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
    """What was held out, in this order, and what that is worth: the rows that rank less those lost, then the former."""

    value: tuple[int, int]
    order: list[int]


def _grow(
    rows: Sequence[Links], place: Sequence[int], wanted: int, most_lost: int, rng: random.Random, keep_negatives: bool
) -> _Grown:
    """Hold rows out one after the other; returns the best that there was on the way and leaves a row to train on."""
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
                # What is lost goes first, wherever it stands.
                at = -1 if other in found.lost else place[other]
                heapq.heappush(heap, (at, *found.cost(other), rng.random(), other))
        value = (found.ranking - found.wasted, found.ranking)
        if found.wasted <= most_lost and value > best and len(found.order) + len(found.lost) < len(rows):
            best, length = value, len(found.order)
    return _Grown(best, found.order[:length])


def _places(rows: Sequence[Links], wanted: int, rng: random.Random) -> list[int]:
    """Return each row's place in the order of components: in a drawn order up to ``wanted`` rows, then by size."""
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
