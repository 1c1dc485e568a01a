"""The sweep: what other weights and pool factors would have given on the sources that are judged already."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

from utils.corpus.documents import Corpus
from utils.errors import InputError, RunError
from utils.labelling.ablation import try_lists
from utils.labelling.record import JudgedSource
from utils.labelling.scheduler import BLOCK
from utils.progress import log, progress_bar
from utils.retrieval.arms import ARMS
from utils.retrieval.mmr import LAMBDAS, Lambdas
from utils.retrieval.retriever import Retriever
from utils.schema import BridgeEntity, Candidate, Document, Verdict
from utils.scoring import CachedScorer
from utils.teachers.base import Teacher

# Shares of λ2 and λ3 in the grid that is tried when none is named; λ1 is the rest.
SHARES = (0.0, 0.05, 0.1, 0.2)
GRID = [(1 - source - chosen, source, chosen) for source, chosen in product(SHARES, SHARES)]


class Setting(NamedTuple):
    """One arm with weights and a pool factor to try."""

    arm: str
    weights: Lambdas
    pool_factor: int

    @property
    def name(self) -> str:
        """What its trials are filed under."""
        weights = " ".join(f"{weight:.6g}" for weight in self.weights)
        return f"{self.arm} λ {weights} ×{self.pool_factor}"

    def row(self) -> dict[str, Any]:
        """Return the setting as it stands in the file."""
        return {
            "arm": self.arm,
            **dict(zip(LAMBDAS, self.weights, strict=True)),
            "rerank_pool_factor": self.pool_factor,
        }


class Sweep(NamedTuple):
    """What a sweep observed."""

    asked: dict[Setting, int]  # verdicts that each setting had to ask for
    sources: list[JudgedSource]  # with a trial for each setting, under its name


def triple(text: str) -> tuple[float, float, float]:
    """Read three weights as in "0.85,0.05,0.1", for argparse's ``type``."""
    try:
        one, two, three = (float(part) for part in text.split(","))
        Lambdas.scaled(one, two, three)
    except (ValueError, InputError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} must be three weights such as 0.85,0.05,0.1") from error
    return one, two, three


def settings_to_try(
    arms: Sequence[str],
    own: tuple[Lambdas, int],
    lambdas: Sequence[tuple[float, float, float]] | None,
    pool_factors: Sequence[int] | None,
) -> list[Setting]:
    """Return the grid for the arms that it can change: weights where the arm is diverse, the factor where it reranks.

    Args:
        arms: names in ``ARMS``.
        own: the run's weights and pool factor, which hold for what is not swept.
        lambdas: weights to try, scaled to sum 1; None keeps the run's, an empty list tries ``GRID``.
        pool_factors: to try; None keeps the run's. Where both are None there is nothing to try.

    Raises:
        InputError: the grid changes none of the arms.
    """
    if lambdas is None and pool_factors is None:
        return []
    tried = []
    for arm in arms:
        vary_weights = ARMS[arm].diverse and lambdas is not None
        vary_factor = ARMS[arm].reranker is not None and pool_factors is not None
        if not (vary_weights or vary_factor):
            continue
        weights = [Lambdas.scaled(*one) for one in lambdas or GRID] if vary_weights else [own[0]]
        factors = (pool_factors or []) if vary_factor else [own[1]]
        tried += [Setting(arm, *one) for one in product(weights, factors)]
    if not tried:
        raise InputError(f"the sweep changes none of {', '.join(arms)}: weights need a diverse arm, factors a reranker")
    return list(dict.fromkeys(tried))


async def sweep(
    settings: Sequence[Setting],
    results: Sequence[JudgedSource],
    teacher: Teacher,
    own: Retriever,
    *,
    candidates: int,
    concurrency: int = 1,
) -> Sweep:
    """Try settings on judged sources; the teacher is asked only for pairs that it has not seen.

    Args:
        settings: what to try.
        results: the run's sources with their trials, which each setting is compared with.
        teacher: judges; the caller closes it.
        own: the run's retriever.
        candidates: how many a setting retrieves, and at most are judged.
        concurrency: sources judged at a time.

    Returns:
        The settings that were tried, each with the number of new verdicts that it took, and the sources with their
        trials under the settings' names.
    """
    judged = [result for result in results if result.entity and result.trials]
    known = {result.source: result.verdicts for result in judged}
    rerankers = {name: CachedScorer(scorer) for name, scorer in own.rerankers.items()}
    trials: dict[str, dict[str, Any]] = {result.source: dict(result.trials) for result in judged}
    new: dict[Setting, int] = {}  # verdicts that a setting had to ask for; settings that were tried
    with progress_bar(desc="sweep", total=len(settings), unit="setting") as bar:
        for setting in settings:
            retriever = own.varied(setting.weights, setting.pool_factor, rerankers)
            lists = await asyncio.to_thread(retrieve_all, retriever, setting.arm, judged, own.corpus, candidates)
            before = sum(map(len, known.values()))
            try:
                await _judge(setting.name, judged, lists, teacher, known, trials, concurrency)
            except RunError as reason:  # what is judged so far stands
                log.warning("the sweep ends early: %s", reason)
                break
            new[setting] = sum(map(len, known.values())) - before
            bar.update()
    return Sweep(new, [result._replace(trials=trials[result.source]) for result in judged])


def retrieve_all(
    retriever: Retriever, arm: str, results: Sequence[JudgedSource], corpus: Corpus, candidates: int
) -> list[list[Candidate]]:
    """Return one arm's candidates for each source, in blocks as the run itself retrieves."""
    found: list[list[Candidate]] = []
    for start in range(0, len(results), BLOCK):
        block = results[start : start + BLOCK]
        queries = [result.entity.query for result in block if result.entity]
        documents: list[Document] = [corpus.get(result.source) for result in block]
        found += [lists[arm] for lists in retriever.retrieve([arm], queries, documents, candidates)]
    return found


async def _judge(
    name: str,
    results: Sequence[JudgedSource],
    lists: Sequence[list[Candidate]],
    teacher: Teacher,
    known: dict[str, dict[str, Verdict]],
    trials: dict[str, dict[str, Any]],
    concurrency: int,
) -> None:
    """Judge one setting's lists into ``trials``, adding what is learnt to ``known``."""
    slots = asyncio.Semaphore(concurrency)

    async def one(source: str, entity: BridgeEntity, candidates: list[Candidate]) -> None:
        async with slots:
            trial = (await try_lists(entity, {name: candidates}, teacher, known[source]))[name]
        trials[source][name] = trial
        known[source].update(zip(trial.retrieved, trial.verdicts, strict=False))

    work = zip(results, lists, strict=True)
    await asyncio.gather(*(one(result.source, result.entity, found) for result, found in work if result.entity))
