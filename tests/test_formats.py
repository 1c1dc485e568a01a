"""Rows are the same whatever their format, come one at a time, and bad ones are told with their place."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from utils.errors import InputError
from utils.formats import CHARACTERS_AT_ONCE, is_plain, read_rows

ROWS = [{"query": f'q{i}, "quoted"\tand\nbroken', "text": f"t{i} é 漢"} for i in range(3)]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(delimiter: str) -> bytes:
    import csv
    import io

    out = io.StringIO()
    writer = csv.DictWriter(out, ["query", "text"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue().encode("utf-8-sig")


def zstd(data: bytes) -> bytes:
    return pyarrow.compress(data, codec="zstd", asbytes=True)


FORMATS: dict[str, Callable[[Path], object]] = {
    "rows.jsonl": lambda path: path.write_bytes(lines(ROWS)),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(lines(ROWS))),
    "rows.jsonl.zst": lambda path: path.write_bytes(zstd(lines(ROWS))),
    "rows.json": lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    "rows.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
    "rows.tsv": lambda path: path.write_bytes(table("\t")),
    "rows.csv.zst": lambda path: path.write_bytes(zstd(table(","))),
    "rows.parquet": lambda path: parquet.write_table(pyarrow.Table.from_pylist(ROWS), path),
    "rows.PARQUET": lambda path: parquet.write_table(pyarrow.Table.from_pylist(ROWS), path),
}


def read(path: Path, **options: Any) -> list[tuple[str, dict[str, Any]]]:
    told: list[str] = []
    found = [(str(place), row) for place, row in read_rows(path, told.append, **options)]
    assert told == []
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_rows_are_the_same_in_each_format(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    FORMATS[name](path)
    found = read(path)
    assert [row for _, row in found] == ROWS
    assert found[0][0].startswith(f"{path}, ")
    assert is_plain(path) == (name == "rows.jsonl")


def test_a_folder_is_read_in_order_of_its_files(tmp_path: Path) -> None:
    for number, write in enumerate(FORMATS.values()):
        (tmp_path / f"{number}").mkdir()
        write(tmp_path / f"{number}" / [*FORMATS][number])
    assert [row for _, row in read(tmp_path)] == ROWS * len(FORMATS)
    assert not is_plain(tmp_path)


def test_a_saved_dataset_is_read_and_several_splits_are_told(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    dataset = Dataset.from_list([*ROWS, ROWS[0]]).select([2, 0])
    dataset.save_to_disk(str(tmp_path / "one"))
    DatasetDict(train=dataset, test=dataset).save_to_disk(str(tmp_path / "splits"))
    assert read(tmp_path / "one") == [
        (f"{tmp_path / 'one'}, row 1", ROWS[2]), (f"{tmp_path / 'one'}, row 2", ROWS[0]),
    ]  # fmt: skip
    assert len(read(tmp_path / "splits" / "test")) == 2
    with pytest.raises(InputError, match=r"holds several splits: name one of them: .*splits/test, .*splits/train"):
        read(tmp_path / "splits")


def test_places_are_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('query\tpos\nq\t"two\nlines"\nr\tp\n')
    assert [place for place, _ in read(tmp_path / "a.tsv")] == [
        f"{tmp_path}/a.tsv, line 3",
        f"{tmp_path}/a.tsv, line 4",
    ]
    (tmp_path / "a.json").write_text('[\n{"a": 1},\n\n{"b": 2}]')
    assert [place for place, _ in read(tmp_path / "a.json")] == [f"{tmp_path}/a.json, row {i}" for i in (1, 2)]


def test_values_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    rows = [{"text": letter * size} for letter, size in (("a", 9), ("b", 2 * CHARACTERS_AT_ONCE), ("[", 5))]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert [row for _, row in read(tmp_path / "a.json")] == rows


def test_an_empty_cell_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("query,pos,neg\nq,p,\n")
    assert read(tmp_path / "a.csv")[0][1] == {"query": "q", "pos": "p"}


WRONG = {
    "a.csv": (b"query,pos\nq,p,n\n", "line 2: more cells than the header"),
    "b.tsv": ("query\tpos\ncafé\tp\n".encode("latin-1"), "cannot be read"),
    "a.json": (b'[{"a": 1}, {"a": }]', "row 2: not JSON"),
    "b.json": (b"[1]", "row 1: expected a JSON object, not int"),
    "a.parquet": (b"PAR1 and so on", "cannot be read"),
    "a.jsonl.zst": (zstd(lines(ROWS))[:-4], "cannot be read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read_is_told(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    content, expected = WRONG[name]
    path.write_bytes(content)
    with pytest.raises(InputError) as told:
        read(path)
    assert str(path) in str(told.value)
    assert expected in str(told.value)


def test_broken_lines_are_told_and_left_out(tmp_path: Path) -> None:
    path, told = tmp_path / "a.jsonl", []
    path.write_bytes(b'{"a": 1}\n{"a"\n[2]\n{"a": 4}\n')
    assert [place for place, _ in read(path, broken=told.append)] == [f"{path}, line 1", f"{path}, line 4"]
    assert [str(error).partition(": ")[0] for error in told] == [f"{path}, line 2", f"{path}, line 3"]
