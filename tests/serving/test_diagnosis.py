"""Planted faults of a real server are caught, and named; a faithful server passes in both protocols and all scales."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from serving.conftest import PAIR, QUERY, cross_encoder, save_sensitive, scored_by
from utils.data.judged import JudgedPool
from utils.evaluation.metrics import pairs_of
from utils.scoring import Reranker, open_reranker
from utils.serving import diagnosis
from utils.serving.agreement import LOGITS, PROBABILITIES, SIGMOID_TWICE, Bounds, ServingResult
from utils.serving.diagnosis import verify
from utils.serving.endpoint import RerankEndpoint

pytestmark = pytest.mark.usefixtures("one_thread")
BOUNDS = Bounds(tau=0.95, tolerance=0.1)
Verified = Callable[..., ServingResult]


@pytest.fixture
def verified(serve: Callable[..., str], reranker: Reranker, pools: list[JudgedPool]) -> Verified:
    def run(score: Any, protocol: str = "documents", folder: Reranker = reranker) -> ServingResult:
        return verify(folder, RerankEndpoint(serve(score, protocol)), pools, BOUNDS, {})

    return run


@pytest.mark.parametrize("protocol", ["documents", "texts"])
@pytest.mark.parametrize("scale", [LOGITS, PROBABILITIES])
def test_faithful_server_passes(verified: Verified, sensitive: Path, protocol: str, scale: str) -> None:
    score = scored_by(cross_encoder(sensitive) if scale == LOGITS else cross_encoder(sensitive, activation_fn=None))
    result = verified(score, protocol)
    assert (result.faithful, result.scale, result.cause, result.agreeing, round(result.tau, 9)) == (
        True,
        scale,
        "",
        1,
        1,
    )
    assert result.cut == 16


def test_second_sigmoid(verified: Verified, sensitive: Path) -> None:
    result = verified(lambda *texts: expit(scored_by(cross_encoder(sensitive, activation_fn=None))(*texts)))
    assert (result.faithful, result.scale, result.cause) == (False, SIGMOID_TWICE, diagnosis.TWICE)
    assert result.tau > BOUNDS.tau  # only the scores tell


@pytest.mark.parametrize("activation", ["logits", "sigmoid"])
def test_lost_head(verified: Verified, sensitive: Path, activation: str) -> None:
    model = cross_encoder(sensitive, **({"activation_fn": None} if activation == "sigmoid" else {}))
    model.model.classifier.weight.data.normal_(std=0.02)
    model.model.classifier.bias.data.zero_()
    result = verified(scored_by(model))
    assert (result.faithful, result.cause) == (False, diagnosis.HEAD_LOST)


@pytest.mark.parametrize("template", diagnosis.TEMPLATES)
def test_template(verified: Verified, sensitive: Path, template: tuple[str, str]) -> None:
    result = verified(scored_by(cross_encoder(sensitive), *template))
    assert not result.faithful
    assert "a template is put around the texts" in result.cause
    assert template[0][:5].lower() in result.cause.lower()


def test_truncation_on_the_wrong_side(verified: Verified, sensitive: Path) -> None:
    model = cross_encoder(sensitive)
    model.tokenizer.truncation_side = "left"
    result = verified(scored_by(model))
    assert (result.faithful, result.cause) == (False, diagnosis.LEFT)
    assert result.agreeing > 0.6
    assert result.agreeing_cut is not None
    assert result.agreeing_cut < 0.5


def test_other_length(verified: Verified, sensitive: Path) -> None:
    model = cross_encoder(sensitive, max_length=512)
    result = verified(scored_by(model))
    assert f"cut at 512 tokens rather than the folder's {PAIR}" in result.cause


def test_queries_that_no_server_cuts(verified: Verified, sensitive: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sensitive, tmp_path / "model")
    settings = folder / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace(f'"query_max_length": {QUERY}', '"query_max_length": 3'))
    result = verified(scored_by(cross_encoder(sensitive)), folder=open_reranker(folder, half=False))
    assert "queries are not cut at the folder's 3 tokens" in result.cause


def test_other_case(verified: Verified, sensitive: Path, tmp_path: Path) -> None:
    cased = save_sensitive(tmp_path / "cased", do_lower_case=False)
    recased(cased)
    result = verified(scored_by(cross_encoder(cased)))
    assert (result.faithful, result.cause) == (False, diagnosis.NOT_LOWERED)
    result = verified(scored_by(cross_encoder(sensitive)), folder=open_reranker(cased, half=False))
    assert (result.faithful, result.cause) == (False, diagnosis.LOWERED)


def recased(folder: Path) -> None:
    """Let a folder's tokenizer keep capitals."""
    file = folder / "tokenizer.json"
    text = file.read_text()
    assert '"lowercase": true' in text
    file.write_text(text.replace('"lowercase": true', '"lowercase": false'))


def test_swapped_query_and_passage(verified: Verified, sensitive: Path) -> None:
    model = cross_encoder(sensitive)
    result = verified(lambda query, passages: model.predict([(one, query) for one in passages]))
    assert (result.faithful, result.cause) == (False, diagnosis.SWAPPED)


def test_what_no_fault_explains(
    verified: Verified, sensitive: Path, reranker: Reranker, pools: list[JudgedPool], tmp_path: Path
) -> None:
    score, deviation = scored_by(cross_encoder(sensitive)), reranker.score(pairs_of(pools)).std()
    rng = np.random.default_rng(0)
    assert verified(lambda *texts: -score(*texts)).cause == diagnosis.NEGATED
    noisy = verified(lambda *texts: score(*texts) + rng.normal(scale=0.15 * deviation, size=len(texts[1])))
    assert (noisy.faithful, noisy.cause) == (False, diagnosis.PRECISION)
    mixed = verified(lambda *texts: score(*texts) + rng.normal(scale=1.5 * deviation, size=len(texts[1])))
    assert (mixed.faithful, mixed.cause) == (False, diagnosis.UNKNOWN)
    other = save_sensitive(tmp_path / "other", seed=1)
    assert verified(scored_by(cross_encoder(other))).cause in (
        diagnosis.HEAD_LOST,
        diagnosis.UNKNOWN,
        diagnosis.NEGATED,
    )
