"""Sources that training data used, which an ablation must not compare on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from utils.data.rows import parse_example
from utils.files import dumps, find_input, read_jsonl
from utils.schema import BridgeEntity, Document


class Excluded(NamedTuple):
    """Used sources, known by id, by text, or, once the teacher has extracted an entity, by its query."""

    ids: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()
    queries: frozenset[str] = frozenset()
    files: tuple[str, ...] = ()  # that they were read from

    @classmethod
    def read(cls, files: Sequence[str]) -> Excluded:
        """Read data files (``query``, ``pos``, ``neg``) and provenance files (``source``) of the generator.

        A data file does not name its sources. They are known by their queries, which the same teacher asks again;
        documents among its passages are excluded, too.

        Raises:
            InputError: a file is not found, or a row is neither of the two.
        """
        ids, texts, queries = set[str](), set[str](), set[str]()
        for file in files:
            path = find_input(file, "data to exclude", "name a training or provenance file of the generator")
            for number, row in read_jsonl(path):
                if "settings" in row:  # a provenance file's header
                    continue
                if "source" in row:
                    ids.add(str(row["source"]))
                else:
                    example = parse_example(row, f"{path}, line {number}")
                    queries.add(example.query)
                    texts.update(example.pos, example.neg)
        return cls(frozenset(ids), frozenset(texts), frozenset(queries), tuple(files))

    @property
    def fingerprint(self) -> str | None:
        """The SHA-256 of what is excluded; None if nothing is."""
        sets = [sorted(self.ids), sorted(self.texts), sorted(self.queries)]
        return hashlib.sha256(dumps(sets).encode()).hexdigest() if any(sets) else None

    def filter(self, sources: Iterable[Document]) -> Iterator[Document]:
        """Yield the sources that are not known by id or text."""
        return (source for source in sources if source.id not in self.ids and source.text not in self.texts)

    def keeps(self, entity: BridgeEntity) -> bool:
        """Return whether an entity's query is not one of the data's."""
        return entity.query not in self.queries


NOTHING = Excluded()
