"""Corpora in other formats are converted once, beside the file or in the cache, and again when they change."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from utils.corpus import conversion
from utils.corpus.conversion import as_jsonl
from utils.corpus.documents import Corpus
from utils.errors import InputError

ROWS = [{"_id": f"d{i}", "title": f"Town {i}", "text": f"It has {i} gates."} for i in range(4)]


def test_each_format_is_the_same_corpus(tmp_path: Path) -> None:
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "a.jsonl").write_text(text)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "c.tsv").write_text("id\ttitle\ttext\n" + "".join("\t".join(row.values()) + "\n" for row in ROWS))
    (tmp_path / "d").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "d" / "part.parquet")
    expected = list(Corpus(tmp_path / "a.jsonl"))
    assert [(one.id, one.text) for one in expected][1] == ("d1", "Town 1\nIt has 1 gates.")
    for name in ("b.jsonl.gz", "c.tsv", "d"):
        assert list(Corpus(tmp_path / name)) == expected
    assert as_jsonl(tmp_path / "a.jsonl") == tmp_path / "a.jsonl"
    assert as_jsonl(tmp_path / "d") == tmp_path / "d.converted.jsonl"


def test_a_conversion_is_made_once_and_again_when_the_source_changes(tmp_path: Path) -> None:
    source = tmp_path / "a.tsv"
    source.write_text("id\ttext\nd1\tone\n")
    made = as_jsonl(source)
    made.write_text("kept")
    os.utime(made, ns=(0, source.stat().st_mtime_ns))
    assert as_jsonl(source).read_text() == "kept"
    source.write_text("id\ttext\nd1\ttwo\n")
    os.utime(source, ns=(0, source.stat().st_mtime_ns + 1))
    assert "two" in as_jsonl(source).read_text()


def test_a_conversion_goes_into_the_cache_where_the_folder_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, cache = tmp_path / "a.tsv", tmp_path / "cache"
    source.write_text("id\ttext\nd1\tone\n")
    replacing = conversion.replacing

    def refuse(path: Path) -> object:
        if path.parent == tmp_path:
            raise OSError(30, "Read-only file system", str(path))
        return replacing(path)

    monkeypatch.setattr(conversion, "replacing", refuse)
    monkeypatch.setattr(conversion, "CACHE", cache)
    assert as_jsonl(source).parent == cache
    monkeypatch.setattr(conversion, "CACHE", tmp_path)
    source.touch()
    with pytest.raises(InputError, match="must be converted to JSON Lines"):
        as_jsonl(source)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("id\ttext\nd1\t\n", 'line 2: "contents" is missing or empty'), ("id\ttext\n", "holds no document")],
)
def test_what_is_no_corpus_is_told_and_nothing_is_left(text: str, expected: str, tmp_path: Path) -> None:
    source = tmp_path / "a.tsv"
    source.write_text(text)
    with pytest.raises(InputError, match=expected):
        Corpus(source)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tsv"]
