"""The sweep: the grid, what it asks for, and that a killed one resumes with the same trials."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from endpoint import ScriptedEndpoint, canned
from labelling_support import SlowTeacher, asking, pipeline_of
from utils.errors import InputError, RunError
from utils.evaluation.ablation_results import sweep_figures
from utils.labelling import judging
from utils.labelling.journal import open_journal
from utils.labelling.retrieval_ablation import compare_arms
from utils.labelling.scheduler import BLOCK
from utils.labelling.sweep import GRID, Setting, Sweep, settings_to_try, sweep
from utils.retrieval.arms import ARMS, BASE
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import Retriever
from utils.schema import Outcome, Verdict
from utils.scoring import Scorer
from utils.teachers.language_model import LLMTeacher
from utils.teachers.offline import OfflineTeacher

WEIGHTS = Lambdas(0.85, 0.05, 0.1)
OWN = (WEIGHTS, 1, 1.0)
CANDIDATES, SOURCES = 3, 40
TRIED = settings_to_try(list(ARMS), OWN, [(0.5, 0.25, 0.25), tuple(WEIGHTS)], [1, 2], [0.5, 1.0])


def test_grid_follows_what_an_arm_can_vary() -> None:
    assert len(settings_to_try(["diverse", "standard"], OWN, [], None)) == len(GRID) == 16
    assert all(sum(weights) == pytest.approx(1) for weights in GRID)
    (one,) = settings_to_try(["zs", "diverse"], OWN, None, [3])
    assert one == Setting("zs", WEIGHTS, 3)
    assert settings_to_try(["zs"], OWN) == []
    fused = settings_to_try(["zs", "diverse"], (WEIGHTS, 2, 0.5), rerank_weights=[])
    assert fused == [Setting("zs", WEIGHTS, 2, weight) for weight in (0, 0.25, 0.5, 0.75, 1)]
    (diverse,) = settings_to_try(["diverse"], (WEIGHTS, 2, 0.5), [(1, 0, 0)])
    assert diverse == Setting("diverse", Lambdas(1, 0, 0), 2, 0.5)
    with pytest.raises(InputError, match="changes none of standard"):
        settings_to_try(["standard"], OWN, [], [2])


def test_names_of_settings_without_fusion_are_as_they_were() -> None:
    """Journals file trials under them."""
    assert Setting("zs", WEIGHTS, 2).name == "zs λ 0.85 0.05 0.1 ×2"
    assert Setting("zs", WEIGHTS, 2, 0.25).name == "zs λ 0.85 0.05 0.1 ×2 w 0.25"


def observing(retriever: Retriever, path: Path) -> Any:
    """Return work that compares all arms, then sweeps, and gives the compared sources, the sweep, and a count."""

    async def work(teacher: Any) -> tuple[Sweep, int]:
        pipeline = pipeline_of(retriever, teacher, CANDIDATES, concurrency=8)
        with open_journal(path, {}) as journal:
            if not journal.notes:
                await compare_arms(pipeline, list(ARMS), SOURCES, journal)
                journal.note("sources complete", {})
            asked = teacher.ledger.calls
            await sweep(TRIED, pipeline, journal)
            return Sweep.read(TRIED, journal), asked

    return work


def test_sweep_asks_only_for_pairs_that_were_not_judged(synthetic: Retriever, tmp_path: Path) -> None:
    assert {setting.arm for setting in TRIED} == set(ARMS) - {"standard"}
    with ScriptedEndpoint(canned) as endpoint:
        swept, before = asking(endpoint.url, tmp_path / "r.sqlite", observing(synthetic, tmp_path / "j.jsonl"))
        assert endpoint.repeated() == []
        assert sum(swept.asked.values()) > 0
        assert before > SOURCES
    rows = sweep_figures(swept, CANDIDATES)
    assert len(swept.sources) == SOURCES
    own = {Setting(arm, WEIGHTS, 1): arm for arm in ARMS}
    for setting, row in zip(TRIED, rows, strict=True):
        assert row.sources == SOURCES
        if setting in own:  # the run's own setting gives the run's own figures, and costs nothing
            assert row.verdicts_asked == row.judged_difference == 0
            assert row.successes == sum(r.trials[own[setting]].success for r in swept.sources)


def test_scores_are_computed_once_however_many_weights(retriever: Retriever, tmp_path: Path) -> None:
    class Counting:
        def __init__(self, inner: Scorer) -> None:
            self.inner, self.pairs = inner, list[tuple[str, str]]()

        def score(self, pairs: Sequence[tuple[str, str]], desc: str | None = None) -> np.ndarray:
            self.pairs += pairs
            return self.inner.score(pairs)

    counting = Counting(retriever.rerankers[BASE])
    retriever.rerankers = {BASE: counting}
    pipeline = pipeline_of(retriever, OfflineTeacher(retriever.corpus), CANDIDATES)
    tried = settings_to_try(["zs"], OWN, rerank_weights=[])
    with open_journal(tmp_path / "j.jsonl", {}) as journal:
        asyncio.run(compare_arms(pipeline, ["standard", "zs"], SOURCES, journal))
        counting.pairs.clear()
        asyncio.run(sweep(tried, pipeline, journal))
        swept = Sweep.read(tried, journal)
    assert len(counting.pairs) == len(set(counting.pairs)) == len(swept.sources) * CANDIDATES > 0
    names = [setting.name for setting in swept.asked]
    for row in swept.sources:
        assert row.trials[names[0]].retrieved == row.trials["standard"].retrieved  # weight 0
        assert row.trials[names[-1]].retrieved == row.trials["zs"].retrieved
    assert [row.rerank_weight for row in sweep_figures(swept, CANDIDATES)] == [0, 0.25, 0.5, 0.75, 1]


def test_queries_are_encoded_in_the_blocks_of_the_run(
    retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, encode = list[list[str]](), retriever.encoder.encode
    monkeypatch.setattr(
        retriever.encoder, "encode", lambda texts, role: (batches.append(texts), encode(texts, role))[1]
    )
    teacher = SlowTeacher(retriever.corpus)
    teacher.broken = {document.id for document in islice(retriever.corpus.sample(random.Random(1)), 2)}
    pipeline = pipeline_of(retriever, teacher, CANDIDATES)
    with open_journal(tmp_path / "j.jsonl", {}) as journal:
        asyncio.run(compare_arms(pipeline, ["zs"], SOURCES, journal))
        own = batches.copy()
        asyncio.run(sweep(settings_to_try(["zs"], OWN, None, [1]), pipeline, journal))
    assert list(map(len, own)) == [BLOCK - 2, 24 - BLOCK]
    assert batches == 2 * own


def test_sweep_killed_after_any_setting_resumes_byte_for_byte(synthetic: Retriever, tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with ScriptedEndpoint(canned) as endpoint:
        whole, _ = asking(endpoint.url, tmp_path / "r.sqlite", observing(synthetic, path))
        content, calls = path.read_bytes(), len(endpoint.seen)
        notes = [i for i, line in enumerate(content.splitlines(True)) if b'"note"' in line]
        assert len(notes) == 1 + len(TRIED)
        for kept in (notes[0] + 1, notes[3], notes[-1]):
            path.write_bytes(b"".join(content.splitlines(True)[:kept]) + b'{"note": "di')
            assert asking(endpoint.url, tmp_path / "r.sqlite", observing(synthetic, path))[0] == whole
            assert path.read_bytes() == content
        assert len(endpoint.seen) == calls


def test_lasting_failure_in_a_sweep_leaves_no_note(
    synthetic: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "PAUSES", (0.01,))
    monkeypatch.setattr(judging, "MAX_UNANSWERED", 3)
    forgotten = []

    async def no_answer(*_: object) -> Verdict:
        return Verdict(Outcome.ERROR, "no answer")

    async def work(teacher: LLMTeacher) -> None:
        pipeline = pipeline_of(synthetic, teacher, CANDIDATES, concurrency=8)
        with open_journal(tmp_path / "j.jsonl", {}) as journal:
            await compare_arms(pipeline, ["diverse"], SOURCES, journal)
            monkeypatch.setattr(teacher, "judge", no_answer)
            monkeypatch.setattr(teacher, "forget_failures", lambda: forgotten.append(1))
            try:
                await sweep(settings_to_try(["diverse"], OWN, [(0.1, 0.9, 0.0)], None), pipeline, journal)
            finally:
                assert journal.notes == {}

    with ScriptedEndpoint(canned) as endpoint, pytest.raises(RunError, match="no usable reply for 3 sources in a row"):
        asking(endpoint.url, tmp_path / "r.sqlite", work)
    assert len(forgotten) == 2
