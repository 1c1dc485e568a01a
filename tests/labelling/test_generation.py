"""The generator's loop: order, stopping, the journal, going on after a kill; the ablation over the same pipeline."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from utils.config import load_config
from utils.corpus.documents import Corpus
from utils.errors import InputError, RunError
from utils.evaluation.arm_results import arm_figures
from utils.files import dumps, write_jsonl
from utils.labelling.ablation import Excluded, compare_arms
from utils.labelling.generation import Journal, Target, generate
from utils.labelling.record import JudgedSource, Trial
from utils.labelling.scheduler import BLOCK
from utils.retrieval.arms import ARMS, BASE, FINE_TUNED
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import Retriever, open_retrieval
from utils.schema import BridgeEntity, ContrastiveExample, Document, Outcome, Verdict
from utils.scoring import Reranker
from utils.teachers.base import TeacherError
from utils.teachers.offline import OfflineTeacher

USABLE, UNUSABLE, ERROR = (Verdict(outcome, "") for outcome in Outcome)


class SlowTeacher:
    """The offline teacher behind delays that differ from call to call, counting the calls and the sources in flight."""

    def __init__(self, corpus: Any, seed: int) -> None:
        self.inner, self.rng = OfflineTeacher(corpus), random.Random(seed)
        self.judged: list[tuple[str, str]] = []
        self.in_flight = self.most_in_flight = 0
        self.broken: set[str] = set()  # ids of documents whose extraction fails

    settings, doing = {"teacher": "slow"}, dict[str, Any]()
    forgotten = 0

    def forget_failures(self) -> None:
        self.forgotten += 1

    async def aclose(self) -> None:
        """Nothing to close."""

    async def pause(self) -> None:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(self.rng.random() / 200)
        self.in_flight -= 1

    async def extract(self, document: Document) -> BridgeEntity | None:
        await self.pause()
        if document.id in self.broken:
            raise TeacherError("no answer")
        return await self.inner.extract(document)

    async def judge(self, entity: BridgeEntity, candidate: Document) -> Verdict:
        await self.pause()
        self.judged.append((entity.query, candidate.id))
        return await self.inner.judge(entity, candidate)


@pytest.fixture
def retriever(config_file: Path, tiny_reranker: Path) -> Retriever:
    reranker = Reranker(tiny_reranker)
    config = load_config(config_file)
    return open_retrieval(
        config, Corpus(config.corpus), Lambdas(0.85, 0.05, 0.1), {BASE: reranker, FINE_TUNED: reranker}
    )


def run(retriever: Retriever, teacher: Any, path: Path, num: int = 99, **limits: Any) -> tuple[str, Journal]:
    journal = Journal(path, {"seed": 1})

    def sources() -> Iterator[Document]:
        return retriever.corpus.sample(random.Random(1))

    stop = asyncio.run(generate(sources, teacher, retriever, Target(num, 5), journal, **limits))
    return stop.reason, journal


def test_rows_are_the_same_at_any_concurrency(retriever: Retriever, tmp_path: Path) -> None:
    written = set()
    for concurrency in (1, 3, 40):
        teacher = SlowTeacher(retriever.corpus, seed=concurrency)
        path = tmp_path / f"{concurrency}.jsonl"
        run(retriever, teacher, path, concurrency=concurrency)
        written.add(path.read_bytes())
        assert teacher.most_in_flight <= concurrency
        assert concurrency == 1 or teacher.most_in_flight > 1
    assert len(written) == 1


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"num": 3}, "all examples are there"),
        ({"num": 99}, "all sources are used up"),
        ({"num": 99, "max_attempts": 7}, "7 sources were tried"),
    ],
)
def test_loop_is_bounded_and_says_why_it_stopped(
    retriever: Retriever, tmp_path: Path, limits: dict[str, int], reason: str
) -> None:
    stopped, journal = run(retriever, OfflineTeacher(retriever.corpus), tmp_path / "p.jsonl", **limits)
    assert stopped == reason
    examples = sum(row.outcome == "example" for row in journal.rows)
    assert examples == 3 if limits["num"] == 3 else examples > 3 or len(journal.rows) == 7


def test_judging_stops_with_one_of_each_and_makes_the_example(retriever: Retriever, tmp_path: Path) -> None:
    _, journal = run(retriever, OfflineTeacher(retriever.corpus), tmp_path / "p.jsonl")
    for row in journal.rows:
        outcomes = [verdict.outcome for verdict in row.verdicts]
        example = row.example(retriever.corpus)
        if example:
            assert outcomes.count(outcomes[-1]) == 1  # the last was the first of its kind
            assert example.pos == [retriever.corpus.get(i).text for i in row.ids(Outcome.USABLE)]
            assert example.neg == [retriever.corpus.get(i).text for i in row.ids(Outcome.UNUSABLE)]
        assert row.source not in row.retrieved


def test_error_is_never_evidence(retriever: Retriever, tmp_path: Path) -> None:
    class Failing(SlowTeacher):
        async def judge(self, entity: BridgeEntity, candidate: Document) -> Verdict:
            verdict = await self.inner.judge(entity, candidate)
            return verdict if verdict.outcome is Outcome.USABLE else ERROR

    teacher = Failing(retriever.corpus, 0)
    teacher.broken = {"1", "2"}
    stopped, journal = run(retriever, teacher, tmp_path / "p.jsonl")
    outcomes = {row.source: row.outcome for row in journal.rows}
    assert stopped == "all sources are used up"
    assert outcomes["1"] == outcomes["2"] == "error"
    assert "example" not in outcomes.values()


@pytest.mark.parametrize("cut", [0, 1, 100, 5000, 9000])
def test_run_killed_at_any_byte_goes_on_to_the_same_rows(retriever: Retriever, tmp_path: Path, cut: int) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    run(retriever, OfflineTeacher(retriever.corpus), whole)
    killed.write_bytes(whole.read_bytes()[:-cut] if cut else b"")
    run(retriever, OfflineTeacher(retriever.corpus), killed)
    assert killed.read_bytes() == whole.read_bytes()


def test_whole_blocks_are_not_judged_again(retriever: Retriever, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    run(retriever, OfflineTeacher(retriever.corpus), path, max_attempts=BLOCK + 1)
    teacher = SlowTeacher(retriever.corpus, 0)
    _, journal = run(retriever, teacher, path)
    queries = {row.entity.query for row in journal.rows[:BLOCK] if row.entity}
    assert not queries & {query for query, _ in teacher.judged}


def test_other_settings_are_refused_with_the_difference(retriever: Retriever, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    run(retriever, OfflineTeacher(retriever.corpus), path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="seed: 1 then, 2 now"):
        Journal(path, {"seed": 2})
    assert path.read_bytes() == before


def test_a_journal_of_an_earlier_version_goes_on(retriever: Retriever, tmp_path: Path) -> None:
    """It kept a model's address and all parameters; what has been added since was as it is by default."""
    path = tmp_path / "p.jsonl"
    run(retriever, OfflineTeacher(retriever.corpus), path)
    rows = path.read_text().splitlines(True)[1:]

    def earlier(**params: Any) -> None:
        role = {"base_url": "http://old:8000/v1", "model": "m", "params": {"max_tokens": 512, **params}}
        path.write_text(dumps({"settings": {"seed": 1, "extractor": role}}) + "\n" + "".join(rows))

    now = {"seed": 1, "extractor": {"model": "m", "params": {"temperature": 0}}, "max_document_tokens": 6000}
    earlier(temperature=0)
    assert len(Journal(path, now).rows) == len(rows) // BLOCK * BLOCK
    for params in ({"temperature": 1}, {}):
        earlier(**params)
        with pytest.raises(InputError, match="other settings"):
            Journal(path, now)
    earlier(temperature=0)
    with pytest.raises(InputError, match="'revision': '2'"):
        Journal(path, now | {"extractor": {**now["extractor"], "revision": "2"}})  # type: ignore[dict-item]


def test_fatal_error_ends_the_run(retriever: Retriever, tmp_path: Path) -> None:
    class Refused(SlowTeacher):
        async def judge(self, entity: BridgeEntity, candidate: Document) -> Verdict:
            raise RunError("wrong key")

    with pytest.raises(RunError, match="wrong key"):
        run(retriever, Refused(retriever.corpus, 0), tmp_path / "p.jsonl", concurrency=8)


def test_fault_that_lasts_pauses_then_ends_without_a_row(
    retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.labelling.generation.PAUSES", (0.01, 0.01))
    monkeypatch.setattr("utils.labelling.generation.MAX_UNANSWERED", 4)
    teacher, path = SlowTeacher(retriever.corpus, 0), tmp_path / "p.jsonl"
    order = [document.id for document in retriever.corpus.sample(random.Random(1))]
    teacher.broken = set(order[6:])
    with pytest.raises(RunError, match="no usable reply for 4 sources in a row"):
        run(retriever, teacher, path, concurrency=4)
    assert teacher.forgotten == 3  # at the end, too, so that the next run asks anew
    teacher.broken = set()  # mended
    run(retriever, teacher, path, concurrency=4)
    whole = tmp_path / "whole.jsonl"
    run(retriever, OfflineTeacher(retriever.corpus), whole)
    assert path.read_bytes() == whole.read_bytes()


def ablate(retriever: Retriever, teacher: Any, **options: Any) -> list[JudgedSource]:
    sources = retriever.corpus.sample(random.Random(1))
    return asyncio.run(compare_arms(list(ARMS), sources, teacher, retriever, num=12, candidates=4, **options))


def test_arms_share_sources_and_verdicts(retriever: Retriever) -> None:
    teacher = SlowTeacher(retriever.corpus, 0)
    results = ablate(retriever, teacher, concurrency=4)
    assert len(results) == 12
    assert results == ablate(retriever, OfflineTeacher(retriever.corpus))
    assert len(teacher.judged) == len(set(teacher.judged))  # a pair is judged once
    for result in results:
        assert set(result.trials) == set(ARMS)
        for trial in result.trials.values():
            assert all(verdict.outcome is Outcome.UNUSABLE for verdict in trial.verdicts[:-1])
            assert trial.success or trial.attempts == len(trial.retrieved)


def test_excluded_sources_are_passed_over(
    retriever: Retriever, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "p.jsonl"
    _, journal = run(retriever, OfflineTeacher(retriever.corpus), path, num=4)
    used = {row.source for row in journal.rows if row.outcome == "example"}
    data = tmp_path / "train.jsonl"
    write_jsonl(data, [example.row() for row in journal.rows[:4] if (example := row.example(retriever.corpus))])
    assert used & {r.source for r in ablate(retriever, OfflineTeacher(retriever.corpus))}
    left = ablate(retriever, OfflineTeacher(retriever.corpus), excluded=Excluded.read([str(path)]))
    assert not used & {r.source for r in left}
    assert all(r.source not in {row.source for row in journal.rows} for r in left)
    without = {
        r.source for r in ablate(retriever, OfflineTeacher(retriever.corpus), excluded=Excluded.read([str(data)]))
    }
    assert next(r.source for r in journal.rows if r.outcome == "example") not in without
    assert "no source was known" not in caplog.text
    write_jsonl(data, [ContrastiveExample("another teacher's question", ["a"], ["b"]).row()])
    ablate(retriever, OfflineTeacher(retriever.corpus), excluded=Excluded.read([str(data)]))
    assert "no source was known by a question" in caplog.text


def test_summary_by_hand() -> None:
    entity = BridgeEntity("e", "t", "s", "q")
    results = [
        JudgedSource("1", entity, {"a": Trial(["x"], [USABLE]), "b": Trial(["y", "x"], [UNUSABLE, USABLE])}),
        JudgedSource("2", entity, {"a": Trial(["x", "y"], [UNUSABLE, USABLE]), "b": Trial(["x", "y"], [UNUSABLE] * 2)}),
        JudgedSource("3", entity, {"a": Trial(["x"], [USABLE]), "b": Trial(["x"], [ERROR])}),
        JudgedSource("4", None, {}, "no answer"),
    ]
    a, b = arm_figures(results, ["a", "b"])
    assert (a.sources, a.success_rate, a.mean_attempts, a.mean_judged, a.errors) == (3, 1.0, 4 / 3, 4 / 3, 0)
    assert (b.sources, b.success_rate, b.mean_attempts, b.mean_judged, b.errors) == (2, 0.5, 2.0, 2.0, 1)
    (nothing,) = arm_figures([], ["a"])
    assert (nothing.success_rate, nothing.mean_attempts, nothing.mean_judged) == (None, None, None)
