"""Faults of each kind are found at their lines, none in clean files, and a fixed file lacks those that can be fixed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auditing import clean_rows, passage, plant, write
from tools import check_data
from utils.data.findings import first_of, mixed
from utils.files import read_jsonl


def check(*argv: str | Path, output: Path) -> tuple[int, dict[str, dict[str, list[int]]]]:
    """Return the exit code, and the lines of each kind in each file."""
    output.unlink(missing_ok=True)
    code = check_data.main([*map(str, argv), "--output_file", str(output)])
    found: dict[str, dict[str, list[int]]] = {}
    for one in json.loads(output.read_text())["findings"]:
        for file, lines in one["rows"].items():
            found.setdefault(one["kind"], {}).setdefault(Path(file).name, []).extend(lines)
    return code, found


@pytest.mark.parametrize("seed", range(3))
def test_planted_faults_are_all_found_and_nothing_else(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(seed)
    train, test = clean_rows(rng, 40), clean_rows(rng, 12)
    output = tmp_path / "found.json"
    files = [write(tmp_path / "train.jsonl", train), write(tmp_path / "test.jsonl", test)]
    assert check(*files, output=output) == (0, {})
    assert "nothing is wrong" in capsys.readouterr().out
    rows, lines = plant(rng, train, test)
    write(files[0], rows)
    code, found = check(*files, output=output)
    assert code == 2
    assert {kind: sorted(one["train.jsonl"]) for kind, one in found.items()} == lines
    assert all(set(one) == {"train.jsonl"} for one in found.values())
    said = capsys.readouterr().out
    assert "UNUSABLE: 1 row: not JSON (first: " in said
    assert f"3 rows: share a query or positive with another file (first: {files[0]}, line {lines['leak'][0]}, as {files[1]}, line 3)" in said  # fmt: skip # noqa: E501


def test_fixed_file_has_the_rest_and_says_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(7)
    train, test = clean_rows(rng, 40), clean_rows(rng, 12)
    rows, lines = plant(rng, train, test)
    files = [write(tmp_path / "train.jsonl", rows), write(tmp_path / "test.jsonl", test)]
    check(*files, "--fix", tmp_path / "clean.jsonl", output=tmp_path / "found.json")
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.endswith(
        "is " + f"{files[0]} without 5 rows that cannot be used, 6 rows that repeat others or leak, 3 passages"
    )
    kept = [row for _, row in read_jsonl(tmp_path / "clean.jsonl")]
    assert kept[:40] == train
    assert len(kept) == len(rows) - 5 - 6
    code, found = check(tmp_path / "clean.jsonl", files[1], output=tmp_path / "found.json")
    assert (code, sorted(found)) == (0, ["damaged text", "few negatives", "near-contradiction", "no negative"])
    with pytest.raises(Exception, match="already exists: choose another --fix"):
        check(files[0], "--fix", tmp_path / "clean.jsonl", output=tmp_path / "found.json")
    assert len(lines) == 11


def test_same_source_or_entity_is_a_leak_where_provenance_says_so(tmp_path: Path) -> None:
    rng = random.Random(3)
    train, test = clean_rows(rng, 6), clean_rows(rng, 4)
    files = [write(tmp_path / "train.jsonl", train), write(tmp_path / "test.jsonl", test)]
    origins = {0: ("s0", "Arden"), 1: ("s1", "Belmont"), 2: ("s2", "Elgin")}, {0: ("s9", "arden"), 3: ("s2", "Girvan")}
    journal: list[Any] = ["{}", "damaged"]
    for rows, of in zip((train, test), origins, strict=True):
        for i, (source, name) in of.items():
            journal.append({"source": source, "entity": {"name": name, "query": rows[i]["query"]}})
    journal.append({"source": "s3", "entity": None})
    write(tmp_path / "all.provenance.jsonl", journal)
    _, found = check(*files, output=tmp_path / "found.json")
    assert found == {"same source or entity": {"train.jsonl": [3, 1]}}  # the source, then the entity


def test_near_duplicates_cost_nothing_where_they_are_not_asked_for(tmp_path: Path) -> None:
    rng = random.Random(7)
    train, test = clean_rows(rng, 10), clean_rows(rng, 12)
    rows, _ = plant(rng, train, test)
    files = [write(tmp_path / "train.jsonl", rows), write(tmp_path / "test.jsonl", test)]
    _, found = check(*files, "--exact", output=tmp_path / "found.json")
    assert {"duplicate", "leak", "contradiction"} <= set(found)
    assert not [kind for kind in found if kind.startswith("near-")]


def test_a_file_of_nothing_usable_is_unusable(tmp_path: Path) -> None:
    assert check(write(tmp_path / "a.jsonl", ["{}", "[]"]), output=tmp_path / "found.json") == (
        2, {"malformed": {"a.jsonl": [1, 2]}},
    )  # fmt: skip
    assert check(write(tmp_path / "a.jsonl", []), output=tmp_path / "found.json") == (2, {})


def test_triplets_are_checked_and_written_as_rows(tmp_path: Path) -> None:
    rng = random.Random(99)
    triplets = [{"a": f"q{i // 3}", "b": passage(random.Random(i // 3)), "c": passage(rng)} for i in range(9)]
    path = write(tmp_path / "triplets.jsonl", triplets)
    code, found = check(path, "--from", "triplets", "--fix", tmp_path / "rows.jsonl", output=tmp_path / "found.json")
    assert (code, found) == (0, {})
    rows = [row for _, row in read_jsonl(tmp_path / "rows.jsonl")]
    assert [(row["query"], len(row["pos"]), len(row["neg"])) for row in rows] == [(f"q{i}", 1, 3) for i in range(3)]


def test_hashes_tell_tuples_apart_by_order_and_value() -> None:
    first, second = np.divmod(np.arange(10_000), 100)
    assert len(np.unique(mixed(first, second))) == 10_000
    assert first_of(np.array([3, 1, 3, 1, 2])).tolist() == [True, True, False, False, True]
