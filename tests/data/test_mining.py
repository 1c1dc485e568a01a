"""Hard negatives by rank and margin, beside sentence-transformers' own."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from miniature import WORDS, LengthReranker
from utils.data.mining import Margin, Mined, Window, mine, with_mined
from utils.data.rows import canonical
from utils.errors import InputError
from utils.retrieval.encoder import PASSAGE, QUERY
from utils.retrieval.retriever import Retriever
from utils.schema import ContrastiveExample

pytestmark = pytest.mark.usefixtures("one_thread")


class Tieless(LengthReranker):
    """Its rule, and a little more by the letters of a text, so that no two scores are equal."""

    def score(self, pairs: list[tuple[str, str]], desc: str | None = None) -> np.ndarray:
        rest = [sum(i * ord(letter) for i, letter in enumerate(text)) % 9973 / 1e8 for _, text in pairs]
        return (super().score(pairs) + rest).astype(np.float32)


SCORER, NO_LIMIT = Tieless(1), 1e9


@pytest.fixture(scope="module")
def rows(retriever: Retriever) -> list[ContrastiveExample]:
    """Twenty queries of two words; the positive is the corpus's passage that the reranker scores highest."""
    texts = [document.text for document in retriever.corpus]
    queries = [f"{one} {other}" for one, other in pairwise(WORDS)]
    best = [texts[int(SCORER.score([(query, text) for text in texts]).argmax())] for query in queries]
    return [ContrastiveExample(query, [text], []) for query, text in zip(queries, best, strict=True)]


class AsTheirs:
    """Our encoder and reranker behind the methods that ``mine_hard_negatives`` calls."""

    device = "cpu"

    def __init__(self, retriever: Retriever) -> None:
        self._encode = retriever.encoder.encode

    def encode_query(self, texts: list[str], **_: Any) -> np.ndarray:
        return self._encode(texts, QUERY)

    def encode_document(self, texts: list[str], **_: Any) -> np.ndarray:
        return self._encode(texts, PASSAGE)

    def similarity(self, queries: Any, passages: Any) -> Any:
        import torch

        return torch.as_tensor(queries) @ torch.as_tensor(passages).T

    def similarity_pairwise(self, queries: Any, passages: Any) -> Any:
        import torch

        return (torch.as_tensor(queries) * torch.as_tensor(passages)).sum(1)

    def predict(self, pairs: Any, **_: Any) -> Any:
        import torch

        return torch.tensor(SCORER.score([tuple(pair) for pair in pairs]), dtype=torch.float32)


WINDOWS = [
    Window(3, 0, 90),
    Window(3, 4, 90),
    Window(5, 2, 90, Margin(absolute=1.5)),
    Window(5, 1, 90, Margin(relative=0.4)),
    Window(2, 0, 90, Margin(max_score=1.0)),
    Window(3, 1, 90, Margin(absolute=0.5, relative=0.1, max_score=2.0)),
]


@pytest.mark.parametrize("window", WINDOWS)
def test_negatives_are_those_of_sentence_transformers(
    window: Window, rows: list[ContrastiveExample], retriever: Retriever
) -> None:
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    model: Any = AsTheirs(retriever)
    # Without any limit, theirs does not ask the cross-encoder.
    highest = NO_LIMIT if window.margin == Margin() else window.margin.max_score
    theirs = mine_hard_negatives(
        Dataset.from_dict({"query": [row.query for row in rows], "pos": [row.pos[0] for row in rows]}), model,
        corpus=[document.text for document in retriever.corpus], cross_encoder=model, range_min=window.range_min,
        range_max=len(retriever.corpus) - 1, num_negatives=window.num_negatives, max_score=highest,
        absolute_margin=window.margin.absolute, relative_margin=window.margin.relative, output_format="triplet",
        verbose=False,
    )  # fmt: skip
    expected: dict[str, list[str]] = {row.query: [] for row in rows}
    for query, negative in zip(theirs["query"], theirs["negative"], strict=True):
        expected[query].append(negative)
    found = with_mined(rows, mine(rows, retriever, SCORER, window))
    assert {row.query: row.neg for row in found} == expected
    assert any(expected.values())


def test_only_rows_that_lack_negatives_get_some(rows: list[ContrastiveExample], retriever: Retriever) -> None:
    own = [*rows[0].neg, "one", "two"]
    mixed = [rows[0]._replace(neg=own), rows[1]._replace(neg=[*own, "three"]), rows[2]]
    found = with_mined(mixed, mine(mixed, retriever, SCORER, Window(3, 0, 20)))
    assert [len(row.neg) for row in found] == [3, 3, 3]
    assert [row.neg[:2] for row in found[:2]] == [own, own]


def test_where_no_row_lacks_negatives_nothing_is_mined(rows: list[ContrastiveExample], retriever: Retriever) -> None:
    full = [row._replace(neg=["one", "two"]) for row in rows]
    assert mine(full, retriever, SCORER, Window(2, 0, 90)) == []


def test_nothing_known_to_be_positive_is_taken(rows: list[ContrastiveExample], retriever: Retriever) -> None:
    (first,) = mine(rows[:1], retriever, SCORER, Window(1, 0, 20))
    elsewhere = ContrastiveExample(rows[0].query.upper(), [f" {first.document.text}\n"], ["x"])
    found = mine([rows[0], elsewhere], retriever, SCORER, Window(1, 0, 20))
    assert found[0].row == 0
    assert canonical(found[0].document.text) != canonical(first.document.text)
    own = mine([rows[0]._replace(neg=[first.document.text])], retriever, SCORER, Window(2, 0, 20))
    assert [one.document for one in own] == [found[0].document]


def test_rank_is_the_retrievers_and_score_the_rerankers(rows: list[ContrastiveExample], retriever: Retriever) -> None:
    mined = mine(rows, retriever, SCORER, Window(4, 0, 10))
    assert all(1 <= one.rank <= 10 for one in mined)
    for number, row in enumerate(rows):
        scores = [one.score for one in mined if one.row == number]
        texts = [one.document.text for one in mined if one.row == number]
        assert scores == sorted(scores, reverse=True)
        assert scores == pytest.approx(SCORER.score([(row.query, text) for text in texts]).tolist())


def test_mined_rows_have_no_scores() -> None:
    row = ContrastiveExample("q", ["p"], ["n"], [1.0], [0.0])
    assert with_mined([row], list[Mined]()) == [ContrastiveExample("q", ["p"], ["n"])]


def test_a_narrow_window_is_refused(retriever: Retriever) -> None:
    with pytest.raises(InputError, match="must leave --num_negatives"):
        mine([], retriever, SCORER, Window(3, 2, 4))
