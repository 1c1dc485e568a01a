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
from utils.errors import InputError
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
        journal.add(JudgedSource("1", None, {}, "timeout"))
        assert (len(journal.rows), len(journal.sources)) == (0, 1)
        assert len(path.read_text().splitlines()) == 1
        journal.add(JudgedSource("2", None, {}))
    assert [json.loads(line).get("source") for line in path.read_text().splitlines()] == [None, "1", "2"]


def test_rows_before_a_note_are_complete(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    rows = [JudgedSource(str(number), None, {}) for number in range(BLOCK + 3)]
    for noted, kept in ((False, BLOCK), (True, BLOCK + 3)):
        with open_journal(path, {}, overwrite=True) as journal:
            for row in rows:
                journal.add(row)
            if noted:
                journal.note("n", {"asked": 1, "trials": {"1": (1, 2)}})
        with open_journal(path, {}) as journal:
            assert journal.rows == rows[:kept]
            assert journal.notes == ({"n": {"asked": 1, "trials": {"1": [1, 2]}}} if noted else {})


def test_a_journal_of_version_1_is_resumed(retriever: Retriever, tmp_path: Path) -> None:
    path = Path(shutil.copy(VERSION_1, tmp_path))
    earlier = [json.loads(line) for line in path.read_text().splitlines()]
    settings = {**earlier[0]["settings"], "a key of this version": 1}
    teacher = SlowTeacher(retriever.corpus)
    with open_journal(path, settings) as journal:
        assert journal.rows == [JudgedSource.from_json(row) for row in earlier[1 : BLOCK + 1]]
        pipeline = pipeline_of(retriever, teacher)._replace(sources=lambda: retriever.corpus.sample(random.Random(7)))
        asyncio.run(generate(pipeline, Target(99), journal))
    assert not {row["entity"]["query"] for row in earlier[1 : BLOCK + 1]} & {query for query, _ in teacher.judged}
    now = [json.loads(line) for line in path.read_text().splitlines()]
    assert now[0] == {"version": 2, "settings": settings}
    assert len(now) > len(earlier)


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
    assert rows_with(now) == len(rows) // BLOCK * BLOCK
    for params in ({"temperature": 1}, {}):
        earlier(**params)
        with pytest.raises(InputError, match="other settings"):
            rows_with(now)
    earlier(temperature=0)
    with pytest.raises(InputError, match="'revision': '2'"):
        rows_with(now | {"extractor": {**now["extractor"], "revision": "2"}})  # type: ignore[dict-item]


@pytest.mark.parametrize("header", ['{"version": 3, "settings": {}}', '{"query": "q"}', "[]", "no"])
def test_what_is_no_journal_is_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(header + "\n")
    with pytest.raises(InputError, match=r"p\.jsonl"), open_journal(path, {}):
        pass
    assert path.read_text() == header + "\n"


def test_a_journal_is_its_owner_s_alone(tmp_path: Path) -> None:
    with open_journal(tmp_path / "j.jsonl", {}):
        assert (tmp_path / "j.jsonl").stat().st_mode & 0o777 == 0o600
