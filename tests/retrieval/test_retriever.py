"""Each arm against a plain-loop transcription of its definition; the index's life."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest

from miniature import WORDS
from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.retrieval.arms import ARMS
from utils.retrieval.encoder import PASSAGE, QUERY, Encoder
from utils.retrieval.faiss_store import FaissIndex, open_index
from utils.retrieval.mmr import Lambdas, mmr
from utils.retrieval.retriever import Retriever
from utils.schema import Document


def plain(retriever: Retriever, arm: str, query: str, q: np.ndarray, source: Document, k: int) -> list[str]:
    """The arm's definition, written out in loops."""
    l1, l2, l3 = retriever.weights
    corpus = list(retriever.corpus)
    vector_of = {d.id: v for d, v in zip(corpus, retriever.index.vectors(range(len(corpus))), strict=True)}

    def sim(a: np.ndarray, b: np.ndarray) -> float:
        return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))

    similarity = {d.id: sim(q, vector_of[d.id]) for d in corpus}
    nearest = sorted(corpus, key=lambda d: -similarity[d.id])
    chunks = sum(d.doc_id == source.doc_id for d in corpus)
    if "diverse" in arm:
        pool = [d for d in nearest[: max(3 * k, k + chunks)] if d.doc_id != source.doc_id]
        d0 = vector_of[source.id]
        result: list[Document] = []
        while len(result) < min(k, len(pool)):
            best, best_score = None, -math.inf
            for d in pool:
                if d in result:
                    continue
                v = vector_of[d.id]
                likeness = max([0.0] + [sim(v, vector_of[s.id]) for s in result])
                score = l1 * similarity[d.id] - l2 * sim(v, d0) - l3 * likeness
                if score > best_score:
                    best, best_score = d, score
            assert best is not None
            result.append(best)
    else:
        result = [d for d in nearest if d.doc_id != source.doc_id][:k]
    if ARMS[arm].reranker:
        reranker = retriever.rerankers[ARMS[arm].reranker]
        result = sorted(result, key=lambda d: -reranker.score([(query, d.text)])[0])
    return [d.id for d in result]


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("lambdas", [(0.85, 0.05, 0.1), (0.5, 0.3, 0.2), (1, 0, 0)])
def test_arm_is_its_definition(retriever: Retriever, arm: str, lambdas: tuple[float, ...]) -> None:
    rng = random.Random(arm)
    retriever.weights = Lambdas.scaled(*lambdas)
    queries = [" ".join(rng.choices(WORDS, k=rng.randint(3, 12))) for _ in range(50)]
    sources = [retriever.corpus[rng.randrange(len(retriever.corpus))] for _ in queries]
    for k, chosen in ((1, range(10)), (5, range(10, 30)), (10, range(30, 50))):
        some = [queries[i] for i in chosen], [sources[i] for i in chosen]
        got = retriever.retrieve([arm], *some, k)
        vectors = retriever.encoder.encode(some[0], QUERY)
        for query, source, lists, vector in zip(*some, got, vectors, strict=True):
            assert [c.document.id for c in lists[arm]] == plain(retriever, arm, query, vector, source, k)


def test_all_chunks_of_the_source_are_left_out(retriever: Retriever) -> None:
    sources = list(retriever.corpus)
    got = retriever.retrieve(list(ARMS), [source.text for source in sources], sources, 10)
    for source, lists in zip(sources, got, strict=True):
        for candidates in lists.values():
            assert len(candidates) == 10
            assert all(candidate.document.doc_id != source.doc_id for candidate in candidates)


def test_pool_factor_fetches_more_for_the_reranker(retriever: Retriever) -> None:
    source = retriever.corpus[0]
    wide = Retriever(
        retriever.corpus, retriever.encoder, retriever.index, retriever.weights, retriever.rerankers, pool_factor=4
    )
    (got,) = wide.retrieve(["standard", "zs"], ["salt lake"], [source], 5)
    (all_20,) = retriever.retrieve(["zs"], ["salt lake"], [source], 20)
    assert got["zs"] == all_20["zs"][:5]
    assert len(got["standard"]) == 5


def test_ties_go_to_the_better_rank() -> None:
    query, source = np.full(2, 0.5**0.5), np.zeros(2)
    pool = np.array([[1.0, 0], [0, 1], [0, 1], [1, 0]])
    assert mmr(query, pool, source, 4, Lambdas(0.5, 0, 0.5)) == [0, 1, 2, 3]


@pytest.mark.parametrize("lambdas", [(-0.1, 0.5, 0.6), (0, 0, 0), (float("nan"), 1, 1), (float("inf"), 1, 1)])
def test_useless_lambdas_are_refused(lambdas: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match="lambda"):
        Lambdas.scaled(*lambdas)


@pytest.fixture
def opened(corpus_file: Path, tiny_encoder: Path) -> Callable[[], tuple[Corpus, Encoder, FaissIndex, bool]]:
    """Opens corpus, encoder and index as a script would, and tells whether the index was built."""

    def open_all() -> tuple[Corpus, Encoder, FaissIndex, bool]:
        path = corpus_file.with_name("an.index")
        before = path.stat().st_mtime_ns if path.exists() else None
        corpus, encoder = Corpus(corpus_file), Encoder(tiny_encoder)
        index = open_index(corpus, encoder, path)
        return corpus, encoder, index, path.stat().st_mtime_ns != before

    return open_all


def test_index_is_built_once_and_holds_the_vectors(opened: Callable) -> None:
    corpus, encoder, index, built = opened()
    assert built
    assert not opened()[-1]
    vectors = encoder.encode([document.text for document in corpus], PASSAGE)
    np.testing.assert_allclose(index.vectors(range(len(corpus))), vectors, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_index_is_built_again_when_a_line_changes(opened: Callable, corpus_file: Path) -> None:
    opened()
    corpus_file.write_text(corpus_file.read_text().replace("harbour town", "harbour city", 1))
    assert opened()[-1]


def test_index_is_built_again_for_another_encoder(corpus_file: Path, tiny_encoder: Path) -> None:
    path = corpus_file.with_name("an.index")
    corpus = Corpus(corpus_file)
    open_index(corpus, Encoder(tiny_encoder, pooling="mean"), path)
    other = Encoder(tiny_encoder, pooling="cls")
    index = open_index(corpus, other, path)
    np.testing.assert_allclose(index.vectors([0]), other.encode([corpus[0].text], PASSAGE), atol=1e-5)


def test_foreign_index_is_taken_as_it_is(corpus_file: Path, tiny_encoder: Path) -> None:
    corpus, encoder, path = Corpus(corpus_file), Encoder(tiny_encoder), corpus_file.with_name("flashrag.index")
    flat = faiss.IndexFlatIP(encoder.dimension)
    flat.add(encoder.encode([document.text for document in corpus], PASSAGE))
    faiss.write_index(flat, str(path))
    before = path.read_bytes()
    assert open_index(corpus, encoder, path).index.ntotal == len(corpus)
    assert path.read_bytes() == before


@pytest.mark.parametrize("rows", [3, 0])
def test_foreign_index_that_does_not_fit_is_refused(corpus_file: Path, tiny_encoder: Path, rows: int) -> None:
    corpus, encoder, path = Corpus(corpus_file), Encoder(tiny_encoder), corpus_file.with_name("flashrag.index")
    flat = faiss.IndexFlatIP(encoder.dimension)
    flat.add(encoder.encode(["text"] * (rows or 1), PASSAGE))
    faiss.write_index(flat, str(path))
    if not rows:
        path.write_bytes(path.read_bytes()[:40])
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"flashrag\.index"):
        open_index(corpus, encoder, path)
    assert path.read_bytes() == before


def test_encoder_changes_with_its_weights(tiny_encoder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_encoder, tmp_path / "other"))
    assert Encoder(other).fingerprint == Encoder(tiny_encoder).fingerprint
    weights = other / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert Encoder(other).fingerprint != Encoder(tiny_encoder).fingerprint
