"""Each arm against a plain-loop transcription of its definition, over corpora of every shape."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miniature import CORPUS, WORDS, LengthReranker
from test_cli import run
from utils.corpus import documents
from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.files import read_jsonl, write_jsonl
from utils.retrieval.arms import ARMS, BASE, FINE_TUNED
from utils.retrieval.encoder import QUERY, Encoder, EncoderOptions
from utils.retrieval.faiss_store import open_index
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import Reranking, Retriever, open_retrieval
from utils.schema import Candidate, Document
from utils.scoring import open_reranker


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
                similarity_to_chosen = max([0.0] + [sim(v, vector_of[s.id]) for s in result])
                score = l1 * similarity[d.id] - l2 * sim(v, d0) - l3 * similarity_to_chosen
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


def reranking(one: Retriever, **how: Any) -> Retriever:
    """The retriever with another way of reranking."""
    return Retriever(one.corpus, one.encoder, one.index, one.weights, one.rerankers, Reranking(**how))


def test_pool_factor_fetches_more_for_the_reranker(retriever: Retriever) -> None:
    source = retriever.corpus[0]
    wide = reranking(retriever, pool_factor=4)
    (got,) = wide.retrieve(["standard", "zs"], ["salt lake"], [source], 5)
    (all_20,) = retriever.retrieve(["zs"], ["salt lake"], [source], 20)
    assert got["zs"] == all_20["zs"][:5]
    assert len(got["standard"]) == 5


class ByTitle:
    """Scores passages by a table of what they end with."""

    def __init__(self, **scores: float) -> None:
        self.scores = scores

    def score(self, pairs: list[tuple[str, str]], desc: str | None = None) -> np.ndarray:
        return np.array([self.scores[passage[-1]] for _, passage in pairs])


def test_fused_scores_by_hand(retriever: Retriever) -> None:
    """Similarities of 3, 2, 1 are z-scores of z, 0, −z, as ranks are; the reranker's of 0, 6, 3 are −z, z, 0."""
    found = [Candidate(Document(str(i), "", letter), float(3 - i)) for i, letter in enumerate("abc")]
    z = math.sqrt(1.5)
    for arm, candidates in (("zs", found), ("diverse_zs", [found[0], found[1], found[2]._replace(score=2.5)])):
        for weight, order, scores in (
            (0.0, "abc", [z, 0, -z]),
            (0.25, "abc", [z / 2, z / 4, -3 * z / 4]),
            (0.5, "bac", [z / 2, 0, -z / 2]),
            (1.0, "bca", [6, 3, 0]),  # the reranker's own
        ):
            fused = reranking(retriever, weight=weight)
            fused.rerankers = {BASE: ByTitle(a=0, b=6, c=3)}  # type: ignore[dict-item]
            (got,) = fused._rerank(["q"], {arm: [candidates]})[arm]
            assert "".join(one.document.contents for one in got) == order
            assert [one.score for one in got] == pytest.approx(scores)


def test_weight_0_is_the_first_stage_and_1_the_reranker(retriever: Retriever) -> None:
    sources = [retriever.corpus[row] for row in range(0, 90, 6)]
    queries = [source.contents for source in sources]
    own = retriever.retrieve(list(ARMS), queries, sources, 5)
    assert reranking(retriever, weight=1.0).retrieve(list(ARMS), queries, sources, 5) == own
    wide = reranking(retriever, pool_factor=3, weight=0.0)
    first = retriever.retrieve(["standard", "diverse"], queries, sources, 15)
    for lists, its in zip(wide.retrieve(list(ARMS), queries, sources, 5), first, strict=True):
        for arm, stage in (("zs", "standard"), ("diverse_zs", "diverse"), ("diverse_ft", "diverse")):
            assert [one.document for one in lists[arm]] == [one.document for one in its[stage]][:5]
    half = reranking(retriever, weight=0.5).retrieve(["standard", "zs"], queries, sources, 5)
    assert [lists["standard"] for lists in half] == [lists["standard"] for lists in own]
    assert any(lists["zs"] != it["zs"] for lists, it in zip(half, own, strict=True))


def test_nothing_found_is_fused_with_nothing(retriever: Retriever) -> None:
    assert reranking(retriever, weight=0.5)._rerank(["q"], {"zs": [[]]}) == {"zs": [[]]}


def test_each_candidate_is_parsed_once_whatever_the_arms_and_queries(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Articles and texts are compared in the offset index's columns, not by reading documents."""
    sources = [retriever.corpus[row] for row in range(0, 90, 6)]
    queries = [source.contents for source in sources]
    parsed, read = [], documents.read_document
    monkeypatch.setattr(documents, "read_document", lambda *args: (parsed.append(args[2]), read(*args))[1])
    got = retriever.retrieve(list(ARMS), queries, sources, 5)
    found = {candidate.document.id for lists in got for candidates in lists.values() for candidate in candidates}
    assert len(parsed) <= len(found) + len(sources)
    parsed.clear()
    (lists,) = retriever.retrieve(["standard"], queries[:1], sources[:1], 5)
    assert len(parsed) <= len(lists["standard"]) + 1


K = 5


def with_copies(path: Path, copies: int) -> Path:
    """Write the miniature corpus with copies of each document under other ids, their white space changed."""
    rows = [row for _, row in read_jsonl(CORPUS)]
    doubled = [
        row | {"id": f"{row['id']} copy {n}", "contents": f" {row['contents'].replace(' ', '  ', 1)}"}
        for row in rows
        for n in range(copies)
    ]
    write_jsonl(path, [*rows, *doubled])
    return path


def retriever_of(path: Path, encoder: Path, reranker: Path) -> Retriever:
    corpus, tiny = Corpus(path), Encoder(encoder, EncoderOptions(method="tiny", half=False))
    index = open_index(corpus, tiny, path.with_suffix(".index"))
    rerankers = dict.fromkeys((BASE, FINE_TUNED), open_reranker(reranker, half=False))
    return Retriever(corpus, tiny, index, Lambdas.scaled(0.85, 0.05, 0.1), rerankers)


def test_every_arm_finds_what_it_finds_without_copies(tiny_encoder: Path, tiny_reranker: Path, tmp_path: Path) -> None:
    found = []
    for copies in (0, 9):
        path = with_copies(tmp_path / f"{copies}.jsonl", copies)
        retriever = retriever_of(path, tiny_encoder, tiny_reranker)
        sources = [retriever.corpus[row] for row in range(16)]
        queries = [f"what of {source.title}?" for source in sources]
        lists = retriever.retrieve(list(ARMS), queries, sources, K)
        for source, by_arm in zip(sources, lists, strict=True):
            for candidates in by_arm.values():
                texts = [" ".join(candidate.document.text.split()) for candidate in candidates]
                assert len(set(texts)) == len(texts) == K
                assert " ".join(source.text.split()) not in texts
        found.append([{c.document.title for c in by_arm["standard"]} for by_arm in lists])
    assert found[0] == found[1]


def test_depth_is_bounded(
    tiny_encoder: Path, tiny_reranker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever = retriever_of(with_copies(tmp_path / "c.jsonl", 9), tiny_encoder, tiny_reranker)
    depths, search = [], retriever.index.search
    monkeypatch.setattr(retriever.index, "search", lambda queries, n: (depths.append(n), search(queries, n))[1])
    monkeypatch.setattr("utils.retrieval.retriever.MAX_DEPTH", 40)
    source = retriever.corpus[0]
    (lists,) = retriever.retrieve(["standard"], [f"what of {source.title}?"], [source], K)
    assert depths == [6, 24, 40]
    assert 0 < len(lists["standard"]) < K


def test_generator_and_ablation_never_judge_a_copy(config_file: Path, corpus_file: Path, tmp_path: Path) -> None:
    with_copies(corpus_file, 1)
    options = ["--config", config_file, "--min_length", "0"]
    generate = ["contrastive_data_generator", *options, "--num_examples", "99", "--max_doc_candidates", K]
    assert run(*generate, "--output_dir", tmp_path / "out", "--output_file", "e.jsonl") == 0
    text_of = {document.id: " ".join(document.text.split()) for document in Corpus(corpus_file)}
    rows = [row for _, row in read_jsonl(tmp_path / "out" / "e.provenance.jsonl")][1:]
    assert len({row["source"] for row in rows}) == 24
    for row in rows:
        assert list(row["arms"]) == (["diverse"] if row["entity"] else [])
        texts = [text_of[document_id] for trial in row["arms"].values() for document_id in trial["retrieved"]]
        assert len(set(texts)) == len(texts) == (K if row["entity"] else 0)
        assert text_of[row["source"]] not in texts
    ablate = ["rerank_ablation_test", *options, "--num", "12", "--candidates", K, "--ft_model", "absent"]
    assert run(*ablate, "--output_file", tmp_path / "a.json") == 0
    for source in json.loads((tmp_path / "a.json").read_text())["sources"]:
        for trial in source["arms"].values():
            texts = [text_of[document_id] for document_id in trial["retrieved"]]
            assert len(set(texts)) == len(texts) == K
            assert text_of[source["source"]] not in texts


@pytest.mark.parametrize("documents", [1, 2, 4])
@pytest.mark.parametrize("store", ["Flat", "HNSW8", "milvus"])
def test_corpus_smaller_than_what_is_asked_for(load: Callable, tmp_path: Path, documents: int, store: str) -> None:
    corpus = tmp_path / "few.jsonl"
    write_jsonl(corpus, ({"id": str(n), "contents": f"the lake of {n} herrings"} for n in range(documents)))
    where: dict[str, Any] = {"faiss_index_factory": store}
    if store == "milvus":
        pytest.importorskip("milvus_lite")
        where = {"vector_store": "milvus", "milvus_uri": "vectors.db"}
    config = load(retrieval_method="models/tiny", corpus_path=str(corpus), rerank_pool_factor=3, **where)
    rerankers: Any = {BASE: LengthReranker(1), FINE_TUNED: LengthReranker(-1)}
    retriever = open_retrieval(config, Corpus(corpus), Lambdas.scaled(0.8, 0.1, 0.1), rerankers)
    (found,) = retriever.retrieve(list(ARMS), ["herrings"], [retriever.corpus[0]], 5)
    for arm in ARMS:
        assert sorted(c.document.id for c in found[arm]) == [str(n) for n in range(1, documents)], arm


def test_corpus_that_shrank_below_k(load: Callable, corpus_file: Path) -> None:
    for kept in (24, 3):
        rows = [json.loads(line) for line in corpus_file.read_text().splitlines()][:kept]
        write_jsonl(corpus_file, rows)
        config = load(retrieval_method="models/tiny")
        retriever = open_retrieval(config, Corpus(config.corpus), Lambdas.scaled(0.8, 0.1, 0.1))
        (found,) = retriever.retrieve(["diverse"], ["a lake"], [retriever.corpus[1]], 10)
        assert len(found["diverse"]) == min(kept - 1, 10)


def test_missing_model_is_refused(load: Callable) -> None:
    config = load(retrieval_method="intfloat/e5-base-v2")
    with pytest.raises(InputError, match=r"retrieval model intfloat/e5-base-v2 .*models/README\.md"):
        open_retrieval(config, Corpus(config.corpus), Lambdas(1, 0, 0))
