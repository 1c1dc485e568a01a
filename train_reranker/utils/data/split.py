"""Splitting labelled examples so that the two sides share nothing and training loses little."""

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import NamedTuple

from utils.data.near import text_groups
from utils.data.rows import without
from utils.files import dumps, hash64
from utils.schema import ContrastiveExample

MOST_LOST = 0.1  # largest share of rows that may be lost to both sides
SPLIT_FILES = ("train_data.jsonl", "test_data.jsonl", "test_data_sample.jsonl")
FEW = 50  # test queries, below which only large gains are seen (Buckley and Voorhees, SIGIR 2000, ask for as many)
RETRIED = 10_000  # rows examined over all retries, where the first attempt falls short


class Labelled(NamedTuple):
    """An example with its source document's text and its bridge entity's name."""

    source: str
    entity: str
    example: ContrastiveExample


class Split(NamedTuple):
    """Training and test examples that share nothing, and what that cost."""

    train: list[ContrastiveExample]
    test: list[ContrastiveExample]
    dropped: int  # examples on neither side, because they are linked to both
    pruned: int  # passages removed from training examples because the test set has them
    thinned: int  # negatives removed from test pools because training examples need them
    wanted: int  # test examples requested

    @property
    def counts(self) -> dict[str, int]:
        """What it came to, for the summary of a run."""
        return {
            "train": len(self.train), "test": len(self.test),
            "dropped for the split": self.dropped, "passages pruned": self.pruned + self.thinned,
        }  # fmt: skip

    @property
    def shortfall(self) -> str | None:
        """Why far fewer examples are held out than were wanted; None if they are not."""
        if len(self.test) >= 0.9 * self.wanted:
            return None
        if (ranking := sum(bool(row.neg) for row in (*self.train, *self.test))) < self.wanted:
            return f"only {ranking} rows have a negative to rank against"
        return f"holding out {self.wanted} would lose too many others, which share queries, positives or negatives"


def too_few(queries: int) -> str | None:
    """Say that a test on so few queries shows little, and what to do; None where they are enough."""
    return f"a test on {queries} queries can show only large gains: hold out {FEW} or more" if queries < FEW else None


def labelled_by_query(rows: Iterable[ContrastiveExample]) -> list[Labelled]:
    """Return rows whose source documents nobody knows, so that their queries stand for them."""
    return [Labelled(row.query, row.query, row) for row in rows]


def split_examples(labelled: Sequence[Labelled], test_fraction: float, seed: int) -> Split:
    """Split examples so that no query, entity or document, as source or passage, nor a near-duplicate is on both sides.

    Held out is ``test_fraction`` of them, each with a negative, preferring those with few links to others. A passage
    on both sides is removed from the training examples, or from the test pool where it is a training example's source
    or positive. At most ``MOST_LOST`` of all examples (of fewer than 20: two) are lost to both sides, and no more than
    are held out; where that is impossible, fewer are held out, or none. Texts are the same as
    :func:`utils.data.near.text_groups` has them. Which of equally linked ones are held out depends on the seed and on
    each one's source and entity alone, so that a few other examples make a few other choices.
    """
    needs = [(one.source, one.example.query, f"\0 {one.entity}") for one in labelled]
    texts = (text for need, one in zip(needs, labelled, strict=True) for text in (*need, *one.example.passages))
    key = text_groups(texts).__getitem__

    def links(need: Iterable[str], example: ContrastiveExample) -> Links:
        needed, positives, negatives = (frozenset(map(key, texts)) for texts in (need, example.pos, example.neg))
        return Links(needed, positives, negatives - needed - positives)

    rows = [links(need, one.example) for need, one in zip(needs, labelled, strict=True)]
    wanted, most_lost = math.ceil(test_fraction * len(rows)), max(2, int(MOST_LOST * len(rows)))
    turns = [hash64(f"{seed}\0{one.source}\0{one.entity}") for one in labelled]
    found = hold_out(rows, wanted, most_lost, turns)
    tested = [number for number in sorted(found.pools) if found.pools[number]]
    trained = [number for number in range(len(rows)) if number not in found.pools and number not in found.lost]
    # A training row takes precedence over a pool's negative, a held-out row over another's passage.
    stood_on = {key for number in trained for key in rows[number].core} - found.taken
    test = [without(labelled[number].example, lambda text: key(text) in stood_on) for number in tested]
    shown = found.taken | {key(text) for example in test for text in example.neg}
    train = [without(labelled[number].example, lambda text: key(text) in shown) for number in trained]
    pruned, thinned = (
        sum(len(labelled[number].example.passages) for number in numbers) - sum(len(one.passages) for one in kept)
        for numbers, kept in ((trained, train), (tested, test))
    )
    return Split(train, test, len(rows) - len(train) - len(test), pruned, thinned, wanted)


def split_files(split: Split, sample: int = 10) -> dict[str, str]:
    """Return names and texts of ``train_data.jsonl``, ``test_data.jsonl`` and a sample of the latter."""
    parts = (split.train, split.test, split.test[:sample])
    texts = ("".join(f"{dumps(example.row())}\n" for example in part) for part in parts)
    return dict(zip(SPLIT_FILES, texts, strict=True))


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

    def __init__(self, rows: Sequence[Links]) -> None:
        """Start with no row."""
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

    def cost(self, number: int) -> tuple[int, int]:
        """Return how many other rows need what this one needs (-1: it is lost), and how many negatives pools lose."""
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
            self._leave(number, lost=False)
        self.pools[number] = sum(not self.owners[key] for key in row.negatives)
        self.ranking += self.pools[number] > 0
        for key in row.core - self.taken:
            self.taken.add(key)
            for other in self.needing[key]:
                self._positives[other] -= key in self.rows[other].positives
                if self._trained[other] and (key in self.rows[other].needed or not self._positives[other]):
                    self._leave(other, lost=True)
                    cheaper.add(other)
            self._disown(key, self.owners[key])
            cheaper.update(self.having.get(key, ()))
        for key in row.negatives:
            if self.ranking_key[key] == 1:
                cheaper.update(self.needing.get(key, ()))
        return {other for other in cheaper if other not in self.pools}

    def _leave(self, number: int, lost: bool) -> None:
        """Stop training on a row, as it is held out or lost: pools may keep what no other training row needs."""
        self._trained[number] = False
        if lost:
            self.lost.add(number)
        for key in self.rows[number].core - self.taken:
            self._disown(key, 1)

    def _disown(self, key: int, rows: int) -> None:
        self.owners[key] -= rows
        if rows and not self.owners[key] and self.ranking_key[key]:
            for other in self.having[key]:
                if other in self.pools:
                    self.pools[other] += 1
                    self.ranking += self.pools[other] == 1


def hold_out(rows: Sequence[Links], wanted: int, most_lost: int, turns: Sequence[int]) -> HeldOut:
    """Hold out about ``wanted`` rows with negatives, losing at most ``most_lost`` others and no more than are held out.

    First come whole connected components of rows that share anything, if they are no larger than ``wanted``; then
    single rows of larger ones, the least linked first, given what is held out so far. ``turns`` break ties. Where that
    falls short and the rows are few, it is retried from other first rows.
    """
    held_out = HeldOut(rows)
    if not wanted:
        return held_out
    place = _places(rows, wanted, turns)
    best = _grow(rows, place, wanted, most_lost, turns)
    if best[0][1] < wanted:
        for first in sorted(range(len(rows)), key=turns.__getitem__)[: RETRIED // len(rows)]:
            place[first] -= len(rows) + 1  # before all others
            best = max(best, _grow(rows, place, wanted, most_lost, turns), key=itemgetter(0))
            place[first] += len(rows) + 1
    for row in best[1]:
        held_out.take(row)
    return held_out


def _grow(
    rows: Sequence[Links], place: Sequence[int], wanted: int, most_lost: int, turns: Sequence[int]
) -> tuple[tuple[int, int], list[int]]:
    """Hold rows out one by one; of the states that leave a row to train on, return the best one's value and its rows.

    The value is (ranking rows - lost rows, ranking rows); the rows are in the order in which they were held out.
    """
    found = HeldOut(rows)
    heap = [(place[i], *found.cost(i), turns[i], i) for i in range(len(rows)) if rows[i].negatives]
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
                heapq.heappush(heap, (at, *found.cost(other), turns[other], other))
        wasted = len(found.lost) + len(found.order) - found.ranking  # rows that neither train nor rank anything
        value = (found.ranking - wasted, found.ranking)
        if wasted <= most_lost and value > best and len(found.order) + len(found.lost) < len(rows):
            best, length = value, len(found.order)
    return best, found.order[:length]


def _places(rows: Sequence[Links], wanted: int, turns: Sequence[int]) -> list[int]:
    """Return each row's rank by component: those of up to ``wanted`` rows by turn, then larger ones by size."""
    import numpy as np
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    pairs = [(number, len(rows) + key) for number, row in enumerate(rows) for key in row.core | row.negatives]
    size = 1 + max(key for _, key in pairs)
    numbers, keys = np.array(pairs).T
    _, component = connected_components(coo_matrix((np.ones(len(pairs)), (numbers, keys)), (size, size)), False)
    of_row = component[: len(rows)].tolist()
    sizes, first = Counter(of_row), dict.fromkeys(of_row, 2**64)
    for one, its_turn in zip(of_row, turns, strict=True):
        first[one] = min(first[one], its_turn)
    order = sorted(sizes, key=lambda one: (max(sizes[one], wanted), first[one]))
    place = {one: number for number, one in enumerate(order)}
    return [place[one] for one in of_row]
