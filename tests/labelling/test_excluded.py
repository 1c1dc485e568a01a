"""Sources of training data are passed over, whichever way they are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from labelling_support import compare, run
from utils.files import write_jsonl
from utils.labelling.excluded import NOTHING, Excluded
from utils.labelling.generation import labelled_examples
from utils.retrieval.retriever import Retriever
from utils.schema import ContrastiveExample
from utils.teachers.offline import OfflineTeacher


def test_excluded_sources_are_passed_over(
    retriever: Retriever, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = OfflineTeacher(retriever.corpus)
    path, data = tmp_path / "p.jsonl", tmp_path / "train.jsonl"
    _, journal = run(retriever, teacher, path, num=4)
    examples = [one.example for one in labelled_examples(journal.rows, retriever.corpus)]
    used = [row.source for row in journal.rows if row.outcome == "example"]
    write_jsonl(data, [example.row() for example in examples])
    assert set(used) & {row.source for row in compare(retriever, teacher)}
    left = {row.source for row in compare(retriever, teacher, excluded=Excluded.read([str(path)]))}
    assert not left & {row.source for row in journal.rows}
    assert used[0] not in {row.source for row in compare(retriever, teacher, excluded=Excluded.read([str(data)]))}
    assert "no source has a query" not in caplog.text
    write_jsonl(data, [ContrastiveExample("another teacher's question", ["a"], ["b"]).row()])
    compare(retriever, teacher, excluded=Excluded.read([str(data)]))
    assert "no source has a query of the data to exclude" in caplog.text


def test_fingerprint_follows_what_is_excluded(tmp_path: Path) -> None:
    one, other = Excluded(frozenset("ab")), Excluded(frozenset("abc"))
    assert one.fingerprint == Excluded(frozenset("ba")).fingerprint != other.fingerprint
    assert NOTHING.fingerprint is None
