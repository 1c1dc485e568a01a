"""What is known of the rows of several data sets, gathered in one pass without keeping their texts."""

from __future__ import annotations

import heapq
import random
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from utils.data.near import sketch
from utils.data.rows import DAMAGED, canonical, parse_example
from utils.data.shapes import read_shaped
from utils.errors import InputError
from utils.files import hash64, read_jsonl
from utils.formats import Place, Warn
from utils.progress import progress_bar
from utils.schema import ContrastiveExample

QUERY, POSITIVE, NEGATIVE = ROLES = range(3)
ORIGINS = ("source", "entity")  # what a provenance file knows of a row
SAMPLE, LONGEST = 1000, 5  # rows whose tokens are counted; rows that are named as the longest
SCRIPT_LETTERS = 100  # by which a text's script is told


class Gathered:
    """The rows of data sets, as numbers: a few bytes for each row and text, and a sketch for each different text."""

    def __init__(self, warn: Warn, near: bool = True) -> None:
        """Start without rows; without ``near``, no texts are sketched. ``warn`` receives lines about unread files."""
        self.warn, self.near = warn, near
        self.files: list[tuple[Path, str]] = []  # with the unit that their rows are counted in
        self.set, self.file, self.number = array("H"), array("I"), array("I")  # of each row
        self.damaged = array("B")
        self.origins = {kind: array("Q") for kind in ORIGINS}  # hashes; 0 where unknown
        self.start, self.text, self.role, self.length = array("Q"), array("Q"), array("B"), array("I")  # of each text
        self.sketched, self.sketches = array("Q"), bytearray()
        self.faults: dict[str, list[Place]] = {}  # of rows that cannot be used
        self.scripts: dict[int, Counter[str]] = {role: Counter() for role in ROLES}
        self.longest: list[tuple[int, int]] = []  # characters and row
        self.sample: list[ContrastiveExample] = []
        self._known, self._rng = set[int](), random.Random(0)

    def read(self, path: Path, shape: str | None = None) -> None:
        """Read a data set; ``InputError`` if a file cannot be read."""
        number = self.set[-1] + 1 if self.set else 0
        origins: Mapping[int, tuple[int, int]] = {}
        folder = None
        rows = read_shaped(path, self.warn, self._no_json, shape)
        for place, row in progress_bar(rows, desc=f"reading {path.name}", unit=" rows"):
            if place.file.parent != folder:
                folder = place.file.parent
                origins = read_origins(folder)
            try:
                example = parse_example(row, place)
            except InputError as error:
                self._fault(place, str(error).removeprefix(f"{place}: "))
            else:
                self._add(place, example, number, origins)

    def place(self, row: int) -> Place:
        """Return where a row stands."""
        file, unit = self.files[self.file[row]]
        return Place(file, self.number[row], unit)

    def _no_json(self, error: InputError) -> None:
        """Note a line that is not JSON; the error begins with its place."""
        place, _, problem = str(error).partition(": ")
        file, _, number = place.rpartition(", line ")
        self._fault(Place(Path(file), int(number)), "not JSON" if problem.startswith("not JSON") else problem)

    def _fault(self, place: Place, problem: str) -> None:
        self.faults.setdefault(problem, []).append(place)

    def _add(
        self, place: Place, example: ContrastiveExample, number: int, origins: Mapping[int, tuple[int, int]]
    ) -> None:
        if (known := (place.file, place.unit)) not in self.files[-1:]:
            self.files.append(known)
        row = len(self.set)
        self.set.append(number)
        self.file.append(len(self.files) - 1)
        self.number.append(place.number)
        self.start.append(len(self.text))
        texts = [(QUERY, example.query), *((POSITIVE, one) for one in example.pos)]
        texts += ((NEGATIVE, one) for one in example.neg)
        for role, text in texts:
            self._add_text(role, text)
        for kind, value in zip(ORIGINS, origins.get(self.text[self.start[row]], (0, 0)), strict=True):
            self.origins[kind].append(value)
        self.damaged.append(any(DAMAGED in text for _, text in texts))
        heapq.heappush(self.longest, (sum(len(text) for _, text in texts), row))
        if len(self.longest) > LONGEST:
            heapq.heappop(self.longest)
        if len(self.sample) < SAMPLE:
            self.sample.append(example)
        elif (at := self._rng.randrange(row + 1)) < SAMPLE:  # each row with the same probability
            self.sample[at] = example

    def _add_text(self, role: int, text: str) -> None:
        form = canonical(text)
        key = hash64(form)
        self.text.append(key)
        self.role.append(role)
        self.length.append(len(text))
        self.scripts[role][script(form)] += 1
        if self.near and key not in self._known:
            self._known.add(key)
            self.sketched.append(key)
            self.sketches += sketch(form).tobytes()


def read_origins(folder: Path) -> dict[int, tuple[int, int]]:
    """Return hashes of source and entity by that of the query, from the provenance files of a folder."""
    found: dict[int, tuple[int, int]] = {}
    for path in sorted(folder.glob("*.provenance.jsonl")):
        for _, line in read_jsonl(path, lambda _: None):
            entity = line.get("entity")
            if isinstance(entity, dict) and all(isinstance(one, str) for one in _named(line, entity)):
                query, source, name = map(canonical, _named(line, entity))
                found[hash64(query)] = (hash64(source), hash64(name))
    return found


def _named(line: dict[str, Any], entity: dict[str, Any]) -> Iterator[Any]:
    yield from (entity.get("query"), line.get("source"), entity.get("name"))


def script(text: str) -> str:
    """Return the script of most of a text's first letters, by Unicode's names of them: LATIN, CYRILLIC, CJK, …"""
    if text[:SCRIPT_LETTERS].isascii():
        return "LATIN"
    counts = Counter(_script(letter) for letter in text[:SCRIPT_LETTERS] if letter.isalpha())
    return counts.most_common(1)[0][0] if counts else "no letters"


@cache
def _script(letter: str) -> str:
    return unicodedata.name(letter, "unknown").partition(" ")[0]
