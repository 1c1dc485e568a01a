"""What is wrong with data sets: each kind of fault with all its places, told in one line with the remedy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from utils.data.audit import NEGATIVE, ORIGINS, POSITIVE, QUERY, Gathered
from utils.formats import Place

if TYPE_CHECKING:
    import numpy as np

MALFORMED, EMPTY = "malformed", "empty"  # what cannot be trained on
CONTRADICTION, NEAR_CONTRADICTION = "contradiction", "near-contradiction"
DUPLICATE, NEAR_DUPLICATE, REPEATED = "duplicate", "near-duplicate", "repeated passage"
LEAK, NEAR_LEAK, ORIGIN_LEAK = "leak", "near-leak", "same source or entity"
SHORT, UNRANKED, DAMAGE = "few negatives", "no negative", "damaged text"

FIX = "--fix writes a file without"
REMEDIES = {
    MALFORMED: f"correct them; {FIX} them",
    EMPTY: "give rows of query, pos and neg",
    CONTRADICTION: f"decide which they are; {FIX} these negatives, as training does",
    NEAR_CONTRADICTION: "read some; `tools.mine_negatives` asks the teacher about them",
    DUPLICATE: f"{FIX} the later ones",
    NEAR_DUPLICATE: f"{FIX} the later ones",
    REPEATED: f"{FIX} the later ones",
    LEAK: f"{FIX} these rows",
    NEAR_LEAK: f"{FIX} these rows",
    ORIGIN_LEAK: f"{FIX} these rows",
    SHORT: "`tools.mine_negatives` finds some; training fills up from other rows",
    UNRANKED: "`tools.mine_negatives` finds some; testing leaves these rows out",
    DAMAGE: "read the sources again in their own encoding",
}


class Finding(NamedTuple):
    """A kind of fault, and the places of all rows that have it."""

    kind: str
    what: str
    places: Sequence[Place]
    other: Place | None = None  # that the first place shares a text with

    @property
    def fatal(self) -> bool:
        """Whether nothing can be trained on such a file."""
        return self.kind in (MALFORMED, EMPTY)

    def __str__(self) -> str:
        """Return one line: how many rows, what is wrong, where first, and the remedy."""
        if not self.places:
            return f"{self.what}; {REMEDIES[self.kind]}"
        rows = f"{len(self.places):,} {'row' if len(self.places) == 1 else 'rows'}"
        first = f"{self.places[0]}{f', as {self.other}' if self.other else ''}"
        return f"{rows}: {self.what} (first: {first}); {REMEDIES[self.kind]}"

    def as_json(self) -> dict[str, Any]:
        """Return the finding for a file of results."""
        lines: dict[str, list[int]] = {}
        for place in self.places:
            lines.setdefault(str(place.file), []).append(place.number)
        other = {"first_as": str(self.other)} if self.other else {}
        return {"kind": self.kind, "fatal": self.fatal, "what": self.what, "rows": lines} | other


class Analysis:
    """The findings about gathered rows, and which of their rows and texts a cleaned file lacks."""

    def __init__(self, gathered: Gathered, wanted: int) -> None:
        """Number equal texts, and near-duplicates; ``wanted`` negatives are enough for a row."""
        import numpy as np

        self.gathered, self.wanted = gathered, wanted
        self.set, self.role, self.start = map(np.array, (gathered.set, gathered.role, gathered.start))
        self.sizes = np.diff(self.start, append=len(self.role)).astype(int)
        self.row = np.repeat(np.arange(len(self.set)), self.sizes)
        different, self.text = np.unique(np.frombuffer(gathered.text, np.uint64), return_inverse=True)
        self.near = self.text
        if gathered.near and len(different):
            from utils.data.near import near_groups

            sketches = np.frombuffer(gathered.sketches, np.uint8).reshape(len(different), -1)
            group = near_groups(sketches)[np.argsort(np.frombuffer(gathered.sketched, np.uint64))]
            self.near = group[self.text]
        self.unwanted_rows = np.zeros(len(self.set), bool)
        self.unwanted_texts = np.zeros(len(self.role), bool)

    def findings(self) -> Iterator[Finding]:
        """Yield what is wrong, the worst first."""
        for problem, places in sorted(self.gathered.faults.items()):
            yield Finding(MALFORMED, problem, places)
        if not len(self.set):
            yield Finding(EMPTY, "no row can be used", ())
            return
        for one in (*self._leaks(), *self._contradictions(), *self._duplicates(), *self._single_rows()):
            if one.places:
                yield one

    def _found(self, kind: str, what: str, rows: np.ndarray, other: int | None = None, drop: bool = False) -> Finding:
        """Return a finding about the rows where ``rows``, (rows,), is true; ``drop`` leaves them out when cleaning."""
        import numpy as np

        if drop:
            self.unwanted_rows |= rows
        place = self.gathered.place
        places = [place(row) for row in np.flatnonzero(rows).tolist()]
        return Finding(kind, what, places, None if other is None else place(other))

    def _any(self, texts: np.ndarray) -> np.ndarray:
        """Return which rows have a text where ``texts``, (texts,), is true."""
        import numpy as np

        return np.logical_or.reduceat(texts, self.start.astype(int))

    def _leaks(self) -> Iterator[Finding]:
        """Yield what rows share with later sets: a query or positive of the one that is a text of the other."""
        last = int(self.set.max())
        for first, second in ((i, j) for i in range(last) for j in range(i + 1, last + 1)):
            exact, near = (self._shared(keys, first, second) for keys in (self.text, self.near))
            found = self._any(exact)
            what = "share a query or positive with another file"
            yield self._found(LEAK, what, found, self._partner(self.text, exact, second), drop=True)
            near &= ~found[self.row]
            other = self._partner(self.near, near, second)
            yield self._found(NEAR_LEAK, f"nearly {what}", self._any(near), other, drop=True)
            for kind in ORIGINS:
                yield self._of_origin(kind, first, second)

    def _shared(self, keys: np.ndarray, first: int, second: int) -> np.ndarray:
        """Return which texts of a set are shared with another, (texts,): where at least one of both is no negative."""
        import numpy as np

        ours, theirs = (self.set[self.row] == number for number in (first, second))
        core = self.role != NEGATIVE
        return ours & (np.isin(keys, keys[theirs & core]) | (core & np.isin(keys, keys[theirs])))

    def _partner(self, keys: np.ndarray, shared: np.ndarray, second: int) -> int | None:
        """Return the other set's row that the first shared text is in."""
        import numpy as np

        theirs = self.set[self.row] == second
        return int(self.row[np.argmax(theirs & (keys == keys[np.argmax(shared)]))]) if shared.any() else None

    def _of_origin(self, kind: str, first: int, second: int) -> Finding:
        import numpy as np

        keys = np.frombuffer(self.gathered.origins[kind], np.uint64)
        theirs = keys[(self.set == second) & (keys > 0)]
        rows = (self.set == first) & np.isin(keys, theirs)
        other = int(np.argmax((self.set == second) & (keys == keys[np.argmax(rows)]))) if rows.any() else None
        return self._found(ORIGIN_LEAK, f"have the {kind} of a row in another file", rows, other, drop=True)

    def _contradictions(self) -> Iterator[Finding]:
        exact = self._contradicted(self.text)
        near = self._contradicted(self.near) & ~exact
        self.unwanted_texts |= exact
        what = "a negative is a positive of the same query"
        yield self._found(CONTRADICTION, what, self._any(exact))
        yield self._found(NEAR_CONTRADICTION, "a negative is nearly a positive of the same query", self._any(near))

    def _contradicted(self, keys: np.ndarray) -> np.ndarray:
        """Return which texts are negatives, and positives of their query in any row of the set."""
        import numpy as np

        query = keys[self.start.astype(int)][self.row]
        pairs = mixed(self.set[self.row], query, keys)
        return (self.role == NEGATIVE) & np.isin(pairs, pairs[self.role == POSITIVE])

    def _duplicates(self) -> Iterator[Finding]:
        exact, near = self._repeats(self.text), self._repeats(self.near)
        yield self._found(DUPLICATE, "repeat an earlier row", exact, drop=True)
        yield self._found(NEAR_DUPLICATE, "nearly repeat an earlier row", near & ~exact, drop=True)
        again = ~first_of(mixed(self.row, self.role, self.text)) & (self.role != QUERY)
        self.unwanted_texts |= again
        yield self._found(REPEATED, "have a passage twice", self._any(again))

    def _repeats(self, keys: np.ndarray) -> np.ndarray:
        """Return which rows have query, positives and negatives of an earlier row of the set, in any order."""
        import numpy as np

        whole = np.add.reduceat(mixed(self.role, keys), self.start.astype(int))
        return ~first_of(mixed(self.set, whole))

    def _single_rows(self) -> Iterator[Finding]:
        import numpy as np

        negatives = np.add.reduceat((self.role == NEGATIVE).astype(int), self.start.astype(int))
        yield self._found(UNRANKED, "have no negative", negatives == 0)
        few = f"have fewer than {self.wanted} negatives"
        yield self._found(SHORT, few, (negatives > 0) & (negatives < self.wanted))
        damaged = np.frombuffer(self.gathered.damaged, np.uint8) > 0
        yield self._found(DAMAGE, "have a replacement character (U+FFFD)", damaged)


def mixed(*keys: np.ndarray) -> np.ndarray:
    """Return 64-bit hashes of tuples of whole numbers, (N,) each."""
    import numpy as np

    found = np.zeros(len(keys[0]), np.uint64)
    for key in keys:  # splitmix64's finalizer
        found = found * np.uint64(31) + key.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        found = (found ^ (found >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        found ^= found >> np.uint64(31)
    return found


def first_of(keys: np.ndarray) -> np.ndarray:
    """Return which keys, (N,), are the first that are equal to them, as booleans."""
    import numpy as np

    first = np.zeros(len(keys), bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return first
