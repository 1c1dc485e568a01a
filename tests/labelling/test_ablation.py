"""What an ablation costs: against a scripted endpoint, with arms together and apart, and a sweep after it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pytest

from endpoint import JUDGEMENT, ScriptedEndpoint, canned
from miniature import save_tiny_bert
from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.evaluation.ablation_results import sweep_figures
from utils.evaluation.results import SweepFigures
from utils.files import write_jsonl
from utils.labelling.ablation import compare_arms
from utils.labelling.generation import Journal, Target, generate
from utils.labelling.record import JudgedSource
from utils.labelling.sweep import GRID, Setting, settings_to_try, sweep, triple
from utils.retrieval.arms import ARMS, BASE, FINE_TUNED
from utils.retrieval.encoder import Encoder, EncoderOptions
from utils.retrieval.faiss_store import open_index
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import Retriever
from utils.scoring import Reranker
from utils.teachers.endpoint import EndpointSettings
from utils.teachers.language_model import LLMTeacher
from utils.teachers.ledger import Ledger

SOURCES, CANDIDATES = 200, 3
WEIGHTS = Lambdas(0.85, 0.05, 0.1)
OWN = (WEIGHTS, 1)
T = TypeVar("T")


def write_corpus(path: Path, documents: int = 240, entities: int = 6) -> Path:
    """Write documents that end with one of a few names, each thus shared by some; what else they say is drawn."""
    rng = random.Random(0)
    words = ["river", "market", "miners", "lies", "founded", "holds", "week", "town", "hall", "lake", "road", "king"]
    rows = []
    for i in range(documents):
        name = f"Name{i % entities}"
        text = f"{' '.join(rng.choices(words, k=14))} {name} {' '.join(rng.choices(words, k=4))} {name}"
        rows.append({"id": str(i), "title": f"Title {i}", "contents": text})
    write_jsonl(path, rows)
    return path


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_reranker: Path) -> Retriever:
    import torch

    folder = tmp_path_factory.mktemp("synthetic")
    corpus = Corpus(write_corpus(folder / "corpus.jsonl"))
    encoder = Encoder(
        tiny_encoder, EncoderOptions(method="tiny", pooling="mean", instruction=None, max_length=64, batch_size=64)
    )
    index = open_index(corpus, encoder, folder / "tiny.index")
    save_tiny_bert(folder / "other", head=True)
    other = Reranker(folder / "other")
    torch.manual_seed(1)
    torch.nn.init.normal_(other.model.classifier.weight)  # another order than the base's
    return Retriever(corpus, encoder, index, WEIGHTS, {BASE: Reranker(tiny_reranker), FINE_TUNED: other})


def asking(url: str, cache: Path, work: Callable[[LLMTeacher], Awaitable[T]], ledger: Ledger | None = None) -> T:
    """Run ``work`` with a teacher behind an endpoint, and close it."""
    role = EndpointSettings(provider="openai", base_url=url, model="small", api_keys=("k",), timeout=30.0)

    async def run() -> T:
        async with aclosing(LLMTeacher(role, role, cache, ledger or Ledger())) as teacher:
            return await work(teacher)

    return asyncio.run(run())


def ablation(
    retriever: Retriever, arms: Sequence[str], num: int = SOURCES, concurrency: int = 64
) -> Callable[[Any], Awaitable[Any]]:
    # No more sources than are wanted: of others, requests could be on their way when the last result is there.
    sources = islice(retriever.corpus.sample(random.Random(1)), num)
    return lambda teacher: compare_arms(
        arms, sources, teacher, retriever, num=num, candidates=CANDIDATES, concurrency=concurrency
    )


def test_five_arms_together_cost_less_than_half_of_the_arms_apart(retriever: Retriever, tmp_path: Path) -> None:
    apart: dict[str, list[JudgedSource]] = {}
    with ScriptedEndpoint(canned) as endpoint:
        for arm in ARMS:
            apart[arm] = asking(endpoint.url, tmp_path / f"{arm}.sqlite", ablation(retriever, [arm]))
        calls_apart = len(endpoint.seen)
    with ScriptedEndpoint(canned) as endpoint:
        together = asking(endpoint.url, tmp_path / "all.sqlite", ablation(retriever, list(ARMS)))
        assert endpoint.repeated() == []
        calls_together = len(endpoint.seen)
    assert len(together) == SOURCES
    for arm in ARMS:
        assert [(r.source, r.trials[arm]) for r in together] == [(r.source, r.trials[arm]) for r in apart[arm]]
    assert 0.2 < sum(r.trials["diverse"].success for r in together) / SOURCES < 1  # both kinds are there
    print(f"{calls_together} calls together, {calls_apart} apart: {calls_together / calls_apart:.3f}")
    assert calls_together <= 0.45 * calls_apart


def test_ablation_pays_for_nothing_that_the_generator_has_asked(retriever: Retriever, tmp_path: Path) -> None:
    cache, count = tmp_path / "replies.sqlite", 16
    with ScriptedEndpoint(canned) as endpoint:
        journal = Journal(tmp_path / "p.jsonl", {})

        def sources() -> Any:
            return retriever.corpus.sample(random.Random(1))

        wanted = Target(count, CANDIDATES, CANDIDATES, CANDIDATES)  # so that all candidates are judged
        asking(endpoint.url, cache, lambda t: generate(sources, t, retriever, wanted, journal, max_attempts=count))
        generated, ledger = len(endpoint.seen), Ledger()
        asking(endpoint.url, cache, ablation(retriever, ["diverse"], count, 1), ledger)
        assert len(endpoint.seen) == generated
        assert ledger.cache_hits > count
        assert ledger.by_kind[JUDGEMENT].calls > 0  # what a cached reply is worth is known, too


def test_sweep_asks_only_for_pairs_that_were_not_judged(retriever: Retriever, tmp_path: Path) -> None:
    tried = settings_to_try(list(ARMS), OWN, [(0.5, 0.25, 0.25), tuple(WEIGHTS)], [1, 2])
    assert {setting.arm for setting in tried} == set(ARMS) - {"standard"}

    async def work(teacher: LLMTeacher) -> tuple[list[JudgedSource], int, list[SweepFigures]]:
        results = await ablation(retriever, list(ARMS), 40)(teacher)
        before = len(endpoint.seen)
        swept = await sweep(tried, results, teacher, retriever, candidates=CANDIDATES, concurrency=8)
        return results, before, sweep_figures(swept, CANDIDATES)

    with ScriptedEndpoint(canned) as endpoint:
        results, before, rows = asking(endpoint.url, tmp_path / "r.sqlite", work)
        assert endpoint.repeated() == []
        assert sum(row.verdicts_asked for row in rows) == len(endpoint.seen) - before > 0
    assert len(results) == 40
    own = {Setting(arm, WEIGHTS, 1): arm for arm in ARMS}
    for setting, row in zip(tried, rows, strict=True):
        assert row.sources == 40
        if setting in own:  # the run's own setting gives the run's own figures, and costs nothing
            assert row.verdicts_asked == row.judged_difference == 0
            assert row.successes == sum(r.trials[own[setting]].success for r in results)


def test_grid_follows_what_an_arm_can_vary() -> None:
    assert len(settings_to_try(["diverse", "standard"], OWN, [], None)) == len(GRID) == 16
    assert all(sum(weights) == pytest.approx(1) for weights in GRID)
    (one,) = settings_to_try(["zs", "diverse"], OWN, None, [3])
    assert one == Setting("zs", WEIGHTS, 3)
    with pytest.raises(InputError, match="changes none of standard"):
        settings_to_try(["standard"], OWN, [], [2])
    assert triple("2,1,1") == (2, 1, 1)
    for wrong in ("1,2", "a,b,c", "0,0,0", "-1,1,1"):
        with pytest.raises(Exception, match="three weights"):
            triple(wrong)


def test_latency_is_told_for_each_arm(retriever: Retriever) -> None:
    documents = [retriever.corpus[i] for i in range(8)]
    retriever.retrieve(list(ARMS), [document.contents for document in documents], documents, CANDIDATES)
    latency = retriever.latency(list(ARMS), CANDIDATES)
    assert all(latency[arm]["encode"] > 0 and latency[arm]["search"] > 0 for arm in ARMS)
    assert all((latency[arm]["rerank"] > 0) == (ARMS[arm].reranker is not None) for arm in ARMS)
