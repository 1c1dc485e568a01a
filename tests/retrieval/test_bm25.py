"""BM25 against its formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

from utils.retrieval.bm25 import BM25

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


@pytest.mark.parametrize("query", ["", "?!", "zebra", "the of"])
def test_a_query_of_unknown_words_matches_nothing(query: str) -> None:
    index = BM25(TEXTS)
    assert index.scores(query).tolist() == [0, 0, 0, 0]
    scores, rows = index.search([query], 2)
    assert scores.tolist() == [[0, 0]]
    assert rows.shape == (1, 2)


def test_texts_without_a_word_are_indexed() -> None:
    assert BM25(["the", "", "salt"]).scores("salt").argmax() == 2
    assert BM25(["the", "?"]).scores("salt").tolist() == [0, 0]
