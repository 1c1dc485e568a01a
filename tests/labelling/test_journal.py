"""The journal: resumed after a kill at any byte, refused with other settings, read in its earlier form."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from labelling_support import SlowTeacher, pipeline_of, run
from utils.errors import InputError, RunError
from utils.files import dumps
from utils.labelling.example_generation import Target, generate
from utils.labelling.journal import open_journal, read_journal
from utils.labelling.record import JudgedSource
from utils.labelling.scheduler import BLOCK
from utils.retrieval.retriever import Retriever
from utils.teachers.offline import OfflineTeacher

VERSION_1 = Path(__file__).parents[1] / "fixtures" / "provenance_v1.jsonl"


@pytest.mark.parametrize("cut", [0, 1, 100, 5000, 9000])
def test_run_killed_at_any_byte_resumes_byte_for_byte(retriever: Retriever, tmp_path: Path, cut: int) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    run(retriever, OfflineTeacher(retriever.corpus), whole)
    killed.write_bytes(whole.read_bytes()[:-cut] if cut else b"")
    run(retriever, OfflineTeacher(retriever.corpus), killed)
    assert killed.read_bytes() == whole.read_bytes()


def test_whole_blocks_are_not_judged_again(retriever: Retriever, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    run(retriever, OfflineTeacher(retriever.corpus), path, max_attempts=BLOCK + 1)
    teacher = SlowTeacher(retriever.corpus)
    _, journal = run(retriever, teacher, path)
    queries = {row.query for row in journal.rows[:BLOCK]}
    assert not queries & {query for query, _ in teacher.judged}


def test_other_settings_are_refused_with_the_difference(retriever: Retriever, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    run(retriever, OfflineTeacher(retriever.corpus), path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="seed: 1 then, 2 now"), open_journal(path, {"seed": 2}):
        pass
    assert path.read_bytes() == before
    assert read_journal(path)[0] == {"seed": 1}
    with open_journal(path, {"seed": 2}, overwrite=True) as journal:
        assert journal.rows == []


def test_a_journal_of_before_fusion_is_of_weight_1(retriever: Retriever, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    run(retriever, OfflineTeacher(retriever.corpus), path)
    told = "rerank_weight: 1.0 then, 0.5 now"
    with pytest.raises(InputError, match=told), open_journal(path, {"seed": 1, "rerank_weight": 0.5}):
        pass
    with open_journal(path, {"seed": 1, "rerank_weight": 1.0}) as journal:
        assert journal.rows
    with pytest.raises(InputError, match=told), open_journal(path, {"seed": 1, "rerank_weight": 0.5}):
        pass


def test_a_journal_of_before_the_checks_has_unchecked_evidence(retriever: Retriever, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    run(retriever, OfflineTeacher(retriever.corpus), path)
    told = "evidence: 'none' then, 'strict' now"
    with pytest.raises(InputError, match=told), open_journal(path, {"seed": 1, "evidence": "strict"}):
        pass
    with open_journal(path, {"seed": 1, "evidence": "none"}) as journal:
        assert journal.rows


def test_a_journal_is_held_by_one_run(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    told = pytest.raises(InputError, match=r"another run \(process \d+\) is writing")
    with open_journal(path, {}), told, open_journal(path, {}):
        pass
    with open_journal(path, {}):
        pass


def test_rows_without_an_answer_are_held_until_one_comes(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    with open_journal(path, {}) as journal:
        journal.add(0, JudgedSource("1", None, {}, "timeout"))
        assert (len(journal.rows), len(journal.sources)) == (0, 1)
        assert len(path.read_text().splitlines()) == 1
        journal.add(1, JudgedSource("2", None, {}))
    assert [json.loads(line).get("source") for line in path.read_text().splitlines()] == [None, "1", "2"]


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(True)


@pytest.fixture
def noted(tmp_path: Path) -> Path:
    """A journal of 20 rows and a note."""
    path = tmp_path / "p.jsonl"
    with open_journal(path, {"seed": 1}) as journal:
        for place in range(20):
            journal.add(place, JudgedSource(str(place), None, {}))
        journal.note("n", {"asked": 1, "trials": {"1": (1, 2)}})
    return path


def test_rows_and_notes_are_read_again(noted: Path) -> None:
    content = noted.read_bytes()
    assert noted.stat().st_mode & 0o777 == 0o600
    with open_journal(noted, {"seed": 1}) as journal:
        assert [row.source for row in journal.rows] == [str(place) for place in range(20)]
        assert journal.notes == {"n": {"asked": 1, "trials": {"1": [1, 2]}}}
    assert noted.read_bytes() == content


def swap(lines: list[bytes], one: int, other: int) -> None:
    lines[one], lines[other] = lines[other], lines[one]


@pytest.mark.parametrize(
    ("spoil", "told", "missing"),
    [
        (lambda lines: lines.__setitem__(5, lines[5].replace(b'"4"', b'"7"')), "line 6 is damaged", [5]),
        (lambda lines: lines.__setitem__(5, b"\0" * 40 + b"\n"), "line 6 is damaged", [5]),
        (lambda lines: lines.__setitem__(5, lines[5][:30] + lines[6]), "line 6 is damaged", [5]),
        (lambda lines: lines.__delitem__(slice(5, 8)), "missing: row 5, 6, 7", [5, 6, 7]),
        (lambda lines: lines.__delitem__(slice(19, 21)), "missing: row 19, 20", [19, 20]),
        (lambda lines: lines.insert(9, lines[3]), "line 10 holds row 3, out of order", []),
        (lambda lines: lines.insert(4, lines[3]), "line 5 repeats row 3", []),
        (lambda lines: swap(lines, 7, 12), "line 9 holds row 8, out of order", []),
        (lambda lines: lines.__setitem__(0, lines[0].replace(b'"seed": 1', b'"seed": 2')), "line 1 is damaged", []),
        (lambda lines: lines.__setitem__(-1, lines[-1].replace(b"1", b"2", 1)), "line 22 is damaged", []),
    ],
)
def test_what_is_damaged_doubled_swapped_or_missing_is_told_with_its_line(
    noted: Path, caplog: pytest.LogCaptureFixture, spoil: Any, told: str, missing: list[int]
) -> None:
    lines = lines_of(noted)
    is_note = b'"note"' in lines[-1]
    spoil(lines)
    noted.write_bytes(b"".join(lines))
    with open_journal(noted, {"seed": 1}) as journal:
        assert told in caplog.text
        kept = [place for place in range(20) if place + 1 not in missing]
        assert sorted(journal.settled) == kept
        assert [row.source for row in journal.rows] == [str(place) for place in kept]
        assert bool(journal.notes) == (is_note and not missing and "line 22" not in told)
    caplog.clear()
    with open_journal(noted, {"seed": 1}):
        assert "line" not in caplog.text


def test_an_editor_that_changes_line_ends_changes_nothing(noted: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = noted.read_bytes()
    noted.write_bytes(content.replace(b"\n", b"\r\n"))
    with open_journal(noted, {"seed": 1}):
        assert not caplog.text
    assert noted.read_bytes() == content


def test_rows_of_another_run_are_no_rows_of_this_one(noted: Path, tmp_path: Path) -> None:
    with open_journal(tmp_path / "other.jsonl", {"seed": 2}) as journal:
        journal.add(0, JudgedSource("of another", None, {}))
    header, *rows = lines_of(noted)
    noted.write_bytes(header + lines_of(tmp_path / "other.jsonl")[1] + b"".join(rows[1:]))
    with open_journal(noted, {"seed": 1}) as journal:
        assert sorted(journal.settled) == list(range(1, 20))


@pytest.mark.parametrize("spoil", [
    lambda lines: lines.__setitem__(7, b"{" + lines[7]),
    lambda lines: lines.__delitem__(slice(7, 9)),
    lambda lines: swap(lines, 3, 8),
    lambda lines: lines.insert(6, lines[6]),
])  # fmt: skip
def test_only_what_is_missing_is_asked_again_and_the_bytes_are_the_same(
    retriever: Retriever, tmp_path: Path, spoil: Any
) -> None:
    path = tmp_path / "p.jsonl"
    _, whole = run(retriever, OfflineTeacher(retriever.corpus), path)
    content, lines = path.read_bytes(), lines_of(path)
    spoil(lines)
    path.write_bytes(b"".join(lines))
    kept = {line for line in lines if line in content.splitlines(True)}
    lost = [row for row, line in zip(whole.rows, content.splitlines(True)[1:], strict=True) if line not in kept]
    teacher = SlowTeacher(retriever.corpus)
    run(retriever, teacher, path, concurrency=4)
    assert path.read_bytes() == content
    asked = {query for query, _ in teacher.judged}
    assert asked == {row.query for row in lost if row.trials}


def test_an_error_is_asked_again_when_told_to_and_only_it(retriever: Retriever, tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.jsonl", tmp_path / "p.jsonl"
    run(retriever, OfflineTeacher(retriever.corpus), whole)
    teacher = SlowTeacher(retriever.corpus)
    teacher.broken = {"1", "9"}
    run(retriever, teacher, path)
    broken = path.read_bytes()
    run(retriever, SlowTeacher(retriever.corpus), path)
    assert path.read_bytes() == broken
    teacher = SlowTeacher(retriever.corpus)
    teacher.broken = {"9"}
    _, journal = run(retriever, teacher, path, retry=True)
    assert teacher.forgotten == 1
    assert {row.source for row in journal.rows if row.complaint} == {"9"}
    assert {query for query, _ in teacher.judged} <= {row.query for row in journal.rows if row.source == "1"}
    run(retriever, SlowTeacher(retriever.corpus), path, retry=True)
    assert path.read_bytes() == whole.read_bytes()


def test_a_retry_that_fails_keeps_what_there_was(
    retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.jsonl"
    teacher = SlowTeacher(retriever.corpus)
    teacher.broken = {"1", "9"}
    _, before = run(retriever, teacher, path)

    async def fatal(*_: object) -> None:
        raise RunError("the key is refused")

    teacher = SlowTeacher(retriever.corpus)
    monkeypatch.setattr(teacher, "extract", fatal)
    with pytest.raises(RunError):
        run(retriever, teacher, path, retry=True)
    with open_journal(path, {"seed": 1}) as journal:
        assert journal.rows == before.rows


def test_a_journal_of_version_1_is_resumed(retriever: Retriever, tmp_path: Path) -> None:
    path = Path(shutil.copy(VERSION_1, tmp_path))
    earlier = [json.loads(line) for line in path.read_text().splitlines()]
    settings = {**earlier[0]["settings"], "a key of this version": 1}
    teacher = SlowTeacher(retriever.corpus)
    with open_journal(path, settings) as journal:
        assert journal.rows == [JudgedSource.from_json(row) for row in earlier[1:]]
        pipeline = pipeline_of(retriever, teacher)._replace(sources=lambda: retriever.corpus.sample(random.Random(7)))
        asyncio.run(generate(pipeline, Target(99), journal))
    assert not {row["entity"]["query"] for row in earlier[1:]} & {query for query, _ in teacher.judged}
    now = [json.loads(line) for line in path.read_text().splitlines()]
    assert now[0] == {"version": 3, "settings": settings, "checksum": now[0]["checksum"]}
    assert len(now) > len(earlier)


def test_an_old_row_has_its_place_by_its_line_whatever_else_it_says(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    row = {"row": 2**40, "source": "1", "entity": None, "arms": {}, "error": None}
    note = {"note": "n", "value": 1, "rows": 2**40}
    path.write_text("".join(dumps(one) + "\n" for one in ({"version": 2, "settings": {}}, row, note)))
    with open_journal(path, {}) as journal:
        assert (list(journal.settled), journal.notes) == ([0], {"n": 1})


def test_models_addresses_and_limits_of_version_1_do_not_count(retriever: Retriever, tmp_path: Path) -> None:
    """It recorded a model's address and all parameters; what has been added since was as it is by default."""
    path = tmp_path / "p.jsonl"
    run(retriever, OfflineTeacher(retriever.corpus), path)
    rows = path.read_text().splitlines(True)[1:]

    def earlier(**params: Any) -> None:
        role = {"base_url": "http://old:8000/v1", "model": "m", "params": {"max_tokens": 512, **params}}
        path.write_text(dumps({"settings": {"seed": 1, "extractor": role}}) + "\n" + "".join(rows))

    def rows_with(settings: dict[str, Any]) -> int:
        with open_journal(path, settings) as journal:
            return len(journal.rows)

    now = {"seed": 1, "extractor": {"model": "m", "params": {"temperature": 0}}, "max_document_tokens": 6000}
    earlier(temperature=0)
    assert rows_with(now) == len(rows)
    for params in ({"temperature": 1}, {}):
        earlier(**params)
        with pytest.raises(InputError, match="other settings"):
            rows_with(now)
    earlier(temperature=0)
    with pytest.raises(InputError, match="'revision': '2'"):
        rows_with(now | {"extractor": {**now["extractor"], "revision": "2"}})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "header", ['{"version": 4, "settings": {}}', '{"version": 3, "settings": {}}', '{"query": "q"}', "[]", "no"]
)
def test_what_is_no_journal_is_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(header + "\n")
    with pytest.raises(InputError, match=r"p\.jsonl"), open_journal(path, {}):
        pass
    assert path.read_text() == header + "\n"


def test_a_journal_is_its_owner_s_alone(tmp_path: Path) -> None:
    with open_journal(tmp_path / "j.jsonl", {}):
        assert (tmp_path / "j.jsonl").stat().st_mode & 0o777 == 0o600
