"""BM25 and reciprocal-rank fusion, against the formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from utils.retrieval.bm25 import BM25, reciprocal_rank_fusion

TEXTS = ["salt lake salt", "lake harbour", "river bridge abbey poem", "kite"]


def test_scores_follow_the_formula() -> None:
    words = [text.split() for text in TEXTS]
    mean = sum(map(len, words)) / len(words)

    def score(term: str, document: list[str]) -> float:
        found = sum(term in one for one in words)
        idf = math.log((len(words) - found + 0.5) / (found + 0.5) + 1)
        tf = document.count(term)
        return idf * tf / (tf + 1.5 * (1 - 0.75 + 0.75 * len(document) / mean))

    expected = [score("salt", one) + score("lake", one) for one in words]
    np.testing.assert_allclose(BM25(TEXTS).scores("salt lake"), expected, rtol=1e-5)


def test_search_returns_the_best_first_and_no_more_than_there_are() -> None:
    scores, rows = BM25(TEXTS).search(["the salt of the lake", "kite"], 10)
    assert rows.shape == scores.shape == (2, 4)
    assert rows[0, :2].tolist() == [0, 1]
    assert rows[1, 0] == 3


def test_fusion_adds_reciprocal_ranks() -> None:
    fused = reciprocal_rank_fusion(np.array([3.0, 2.0, 1.0]), np.array([0.1, 0.9, 0.5]))
    assert fused == pytest.approx([1 / 61 + 1 / 63, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62])
