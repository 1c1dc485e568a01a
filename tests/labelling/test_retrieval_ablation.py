"""The ablation: arms share sources, entities and verdicts, and cost less together than apart."""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from endpoint import JUDGEMENT, ScriptedEndpoint, canned
from labelling_support import SlowTeacher, asking, compare, pipeline_of, run
from utils.errors import InputError
from utils.files import write_jsonl
from utils.labelling.example_generation import Target, generate, labelled_examples
from utils.labelling.journal import open_journal
from utils.labelling.record import JudgedSource
from utils.labelling.retrieval_ablation import (
    NOTHING,
    RESULTS,
    Excluded,
    choose_output,
    compare_arms,
    explain_none,
    journal_of,
)
from utils.labelling.scheduler import Pipeline
from utils.retrieval.arms import ARMS
from utils.retrieval.retriever import Retriever
from utils.schema import BridgeEntity, ContrastiveExample, Outcome
from utils.teachers.ledger import Ledger
from utils.teachers.offline import OfflineTeacher

SOURCES, CANDIDATES = 200, 3


def ablation(
    retriever: Retriever, arms: Sequence[str], journal: Path, num: int = SOURCES, concurrency: int = 64
) -> Callable[[Any], Awaitable[list[JudgedSource]]]:
    # No more sources than are wanted: of others, requests could be on their way when the last result is there.
    def sources() -> Any:
        return islice(retriever.corpus.sample(random.Random(1)), num)

    async def work(teacher: Any) -> list[JudgedSource]:
        with open_journal(journal, {}) as opened:
            pipeline = Pipeline(sources, teacher, retriever, CANDIDATES, concurrency)
            await compare_arms(pipeline, arms, num, opened)
            return opened.sources

    return work


def test_arms_share_sources_and_verdicts(retriever: Retriever) -> None:
    teacher = SlowTeacher(retriever.corpus)
    results = compare(retriever, teacher, concurrency=4)
    assert len(results) == 12
    assert results == compare(retriever, OfflineTeacher(retriever.corpus))
    assert len(teacher.judged) == len(set(teacher.judged))  # a pair is judged once
    for result in results:
        assert set(result.trials) == set(ARMS)
        for trial in result.trials.values():
            assert all(verdict.outcome is Outcome.UNUSABLE for verdict in trial.verdicts[:-1])
            assert trial.success or trial.attempts == len(trial.retrieved)


def test_five_arms_together_cost_less_than_half_of_the_arms_apart(synthetic: Retriever, tmp_path: Path) -> None:
    apart: dict[str, list[JudgedSource]] = {}
    with ScriptedEndpoint(canned) as endpoint:
        for arm in ARMS:
            work = ablation(synthetic, [arm], tmp_path / f"{arm}.jsonl")
            apart[arm] = asking(endpoint.url, tmp_path / f"{arm}.sqlite", work)
        calls_apart = len(endpoint.seen)
    with ScriptedEndpoint(canned) as endpoint:
        work = ablation(synthetic, list(ARMS), tmp_path / "all.jsonl")
        together = asking(endpoint.url, tmp_path / "all.sqlite", work)
        assert endpoint.repeated() == []
        calls_together = len(endpoint.seen)
    assert len(together) == SOURCES
    for arm in ARMS:
        assert [(r.source, r.trials[arm]) for r in together] == [(r.source, r.trials[arm]) for r in apart[arm]]
    assert 0.2 < sum(r.trials["diverse"].success for r in together) / SOURCES < 1  # both kinds are there
    print(f"{calls_together} calls together, {calls_apart} apart: {calls_together / calls_apart:.3f}")
    assert calls_together <= 0.45 * calls_apart


def test_ablation_pays_for_nothing_that_the_generator_has_asked(synthetic: Retriever, tmp_path: Path) -> None:
    cache, count = tmp_path / "replies.sqlite", 16

    async def generating(teacher: Any) -> None:
        with open_journal(tmp_path / "p.jsonl", {}) as journal:
            target = Target(count, CANDIDATES, CANDIDATES, count)  # so that all candidates are judged
            await generate(pipeline_of(synthetic, teacher, CANDIDATES), target, journal)

    with ScriptedEndpoint(canned) as endpoint:
        asking(endpoint.url, cache, generating)
        generated, ledger = len(endpoint.seen), Ledger()
        asking(endpoint.url, cache, ablation(synthetic, ["diverse"], tmp_path / "a.jsonl", count, 1), ledger)
        assert len(endpoint.seen) == generated
        assert ledger.cache_hits > count
        assert ledger.by_kind[JUDGEMENT].calls > 0  # what a cached reply is worth is known, too


def test_latency_is_reported_for_each_arm(synthetic: Retriever) -> None:
    documents = [synthetic.corpus[i] for i in range(8)]
    synthetic.retrieve(list(ARMS), [document.contents for document in documents], documents, CANDIDATES)
    latency = synthetic.latency(list(ARMS), CANDIDATES)
    assert all(latency[arm]["encode"] > 0 and latency[arm]["search"] > 0 for arm in ARMS)
    assert all((latency[arm]["rerank"] > 0) == (ARMS[arm].reranker is not None) for arm in ARMS)


def test_nothing_to_compare_is_explained() -> None:
    entity = BridgeEntity("e", "", "", "q")
    assert "lower --min_length" in explain_none([])
    assert "none of 1 sources has an entity; try another" in explain_none([JudgedSource("1", None, {})])
    assert "not excluded by its query (1 are)" in explain_none([JudgedSource("1", entity, {})])


def test_without_a_name_the_latest_unfinished_run_with_these_settings_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [RESULTS / f"ablation_2026010{day}_000000.json" for day in range(1, 5)]
    for name, seed in zip(names, (1, 1, 2, 1), strict=True):
        with open_journal(journal_of(name), {"seed": seed}):
            pass
    os.truncate(journal_of(names[3]), 3)  # what is no journal is passed over
    with choose_output({"seed": 1}) as one, choose_output({"seed": 1}) as beside, choose_output({"seed": 2}) as two:
        assert [one, beside, two] == [names[1], names[0], names[2]]
        with choose_output({"seed": 1}) as third, choose_output({"seed": 3}) as new:
            assert len({third, new, *names}) == 6
            assert new.parent == RESULTS


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


def test_a_provenance_file_with_a_missing_row_excludes_nothing_unnoticed(retriever: Retriever, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    run(retriever, OfflineTeacher(retriever.corpus), path, num=4)
    lines = path.read_bytes().splitlines(True)
    for spoilt, told in (
        (lines[:2] + lines[3:], "missing: row 2"),
        ([*lines[:2], b"{}\n", *lines[3:]], "line 3 is damaged"),
    ):
        path.write_bytes(b"".join(spoilt))
        with pytest.raises(InputError, match=f"{told}.*--retry_errors"):
            Excluded.read([str(path)])


def test_fingerprint_follows_what_is_excluded(tmp_path: Path) -> None:
    one, other = Excluded(frozenset("ab")), Excluded(frozenset("abc"))
    assert one.fingerprint == Excluded(frozenset("ba")).fingerprint != other.fingerprint
    assert NOTHING.fingerprint is None
