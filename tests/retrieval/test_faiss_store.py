"""FAISS indexes: built once, built again when anything changes, searched as configured."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest

from miniature import save_tiny_bert
from utils.corpus.documents import Corpus
from utils.corpus.offsets import fingerprint
from utils.errors import InputError
from utils.files import file_state
from utils.retrieval import faiss_files, faiss_store
from utils.retrieval.arms import ARMS
from utils.retrieval.encoder import PASSAGE, Encoder, EncoderOptions
from utils.retrieval.faiss_files import keeps_vectors
from utils.retrieval.faiss_store import FaissIndex, FaissOptions, open_index
from utils.retrieval.retriever import Retriever
from utils.schema import Candidate

pytestmark = pytest.mark.usefixtures("small_blocks")


EXACT = ["Flat", "HNSW8", "IVF4,Flat", "IVF4,PQ8x4fs,RFlat"]


APPROXIMATE = ["IVF4,PQ8x4", "SQ8", "PCA16,Flat"]


def test_runs_that_need_one_index_build_it_once(retriever: Retriever, tmp_path: Path, encoded: list[int]) -> None:
    def build(_: int) -> FaissIndex:
        return open_index(retriever.corpus, retriever.encoder, tmp_path / "an.index")

    with ThreadPoolExecutor(3) as pool:
        opened = list(pool.map(build, range(3)))
    assert sum(encoded) == len(retriever.corpus)
    assert {each.index.ntotal for each in opened} == {len(retriever.corpus)}


def test_index_is_built_once_and_again_for_another_corpus_or_encoder(
    corpus_file: Path, tiny_encoder: Path, tmp_path: Path, encoded: list[int]
) -> None:
    path = tmp_path / "an.index"
    mean, cls = (EncoderOptions("tiny", pooling=pooling, half=False) for pooling in ("mean", "cls"))
    other = save_tiny_bert(tmp_path / "other", head=False, seed=1)
    for folder, options, changed in [
        (tiny_encoder, mean, True),
        (tiny_encoder, mean, False),
        (tiny_encoder, cls, True),
        (other, cls, True),
        (other, cls, False),
        (other, cls, "harbour city"),
    ]:
        if isinstance(changed, str):
            corpus_file.write_text(corpus_file.read_text().replace("harbour town", changed, 1))
        corpus, encoder = Corpus(corpus_file), Encoder(folder, options)
        encoded.clear()
        index = open_index(corpus, encoder, path)
        assert sum(encoded) == (len(corpus) if changed else 0)
        vectors = encoder.encode([document.text for document in corpus], PASSAGE)
        np.testing.assert_allclose(index.vectors(range(len(corpus))), vectors, atol=1e-5)


def test_index_of_another_type_is_built_again(retriever: Retriever, tmp_path: Path) -> None:
    path = tmp_path / "an.index"
    for factory, kind in (("Flat", "IndexFlatIP"), ("IVF4,Flat", "IndexIVFFlat"), ("Flat", "IndexFlatIP")):
        opened = open_index(retriever.corpus, retriever.encoder, path, FaissOptions(factory))
        assert opened.settings["index"] == kind


def test_index_is_built_again_for_another_seed_only_where_that_changes_it(
    retriever: Retriever, tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_files, "TRAINING_VECTORS_PER_LIST", 20)
    cases = [("Flat", 40, False), ("HNSW8", 40, False), ("SQ8", 90, False), ("IVF2,Flat", 40, True)]
    for factory, sample, again in cases:
        monkeypatch.setattr(faiss_files, "TRAINING_VECTORS", sample)
        for seed in (1, 2):
            encoded.clear()
            options = FaissOptions(factory, seed=seed)
            open_index(retriever.corpus, retriever.encoder, tmp_path / f"{factory}.index", options)
        assert bool(encoded) == again, factory


@pytest.mark.parametrize("factory", EXACT + APPROXIMATE)
def test_each_type_gives_the_vectors(
    retriever: Retriever, tmp_path: Path, factory: str, encoded: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    opened = open_index(retriever.corpus, retriever.encoder, tmp_path / "an.index", FaissOptions(factory))
    encoded.clear()
    caplog.clear()
    rows = [3, 80, 3, 41]
    with caplog.at_level(logging.INFO, "reranker"):
        reopened = open_index(retriever.corpus, retriever.encoder, tmp_path / "an.index", FaissOptions(factory))
        for each in (opened, reopened):
            np.testing.assert_allclose(each.vectors(rows), retriever.index.vectors(rows), atol=1e-5)
    assert encoded == ([] if factory in EXACT else [4, 4])
    assert caplog.text.count("approximations") == (factory in APPROXIMATE)
    scores, found = reopened.search(retriever.index.vectors(rows), 10)
    assert scores.shape == found.shape == (4, 10)


def ids(lists: dict[str, list[Candidate]]) -> dict[str, list[str]]:
    return {arm: [candidate.document.id for candidate in candidates] for arm, candidates in lists.items()}


@pytest.mark.parametrize("factory", ["HNSW32", "IVF4,Flat", "IVF4,PQ8x4"])
def test_all_arms_work_over_each_type(retriever: Retriever, tmp_path: Path, factory: str, encoded: list[int]) -> None:
    params = "nprobe=4" if "IVF" in factory else "efSearch=200"
    other = open_index(retriever.corpus, retriever.encoder, tmp_path / "an.index", FaissOptions(factory, params))
    over = Retriever(retriever.corpus, retriever.encoder, other, retriever.weights, retriever.rerankers)
    sources = [retriever.corpus[row] for row in range(0, 90, 9)]
    queries = [source.contents for source in sources]
    encoded.clear()
    got = over.retrieve(list(ARMS), queries, sources, 5)
    if keeps_vectors(other.index):  # exhaustive at these parameters
        exact = retriever.retrieve(list(ARMS), queries, sources, 5)
        assert [ids(lists) for lists in got] == [ids(lists) for lists in exact]
    else:
        assert len(encoded) == 1, "candidates are encoded in one batch"
    for source, lists in zip(sources, got, strict=True):
        assert all(c.document.article != source.article for found in lists.values() for c in found)


@pytest.mark.parametrize(
    "params", ["nprobe=0", "nprobe=-2", "nprobe=x", "nprobe", "nprobe=2;x", ",", " ", "a=1", "nprobe=nan"]
)
def test_useless_search_parameters_are_refused(retriever: Retriever, tmp_path: Path, params: str) -> None:
    with pytest.raises(InputError, match=r"faiss_search_params: .* does not suit an IndexIVFFlat; write nprobe=64"):
        open_index(retriever.corpus, retriever.encoder, tmp_path / "an.index", FaissOptions("IVF4,Flat", params))


def test_search_parameters_are_set_and_unknown_ones_refused(retriever: Retriever, tmp_path: Path) -> None:
    path = tmp_path / "an.index"
    opened = open_index(retriever.corpus, retriever.encoder, path, FaissOptions("IVF4,Flat", "nprobe=3"))
    assert opened.index.nprobe == 3
    with pytest.raises(InputError, match="faiss_search_params: 'nprob=3' does not suit"):
        open_index(retriever.corpus, retriever.encoder, path, FaissOptions("IVF4,Flat", "nprob=3"))


def test_gpu_that_faiss_cannot_use_is_reported(
    retriever: Retriever, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if hasattr(faiss, "StandardGpuResources"):
        pytest.skip("this FAISS can use a GPU")
    opened = open_index(retriever.corpus, retriever.encoder, tmp_path / "an.index", FaissOptions(gpu=True))
    assert "searching on the CPU" in caplog.text
    query = retriever.index.vectors([4])
    np.testing.assert_array_equal(opened.search(query, 9)[1], retriever.index.search(query, 9)[1])


@pytest.mark.parametrize("factory", ["IVF4,Flat", "IVF4,PQ8x4", "PCA16,IVF4,Flat", "IVF4,PQ8x4fs,RFlat"])
def test_documents_in_lists_that_are_not_searched_are_found_where_the_others_hold_too_few(factory: str) -> None:
    """Of identical vectors all are in one list, and a query may be closer to the centroids of the empty ones."""
    rng = np.random.default_rng(0)
    vectors = np.tile(rng.standard_normal(32, np.float32), (24, 1)) / np.float32(6)
    index = faiss.index_factory(32, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    queries = rng.standard_normal((5, 32), np.float32)
    assert (index.search(queries, 24)[1] == -1).any()
    opened = FaissIndex(index, lambda rows: vectors[rows], search_params="nprobe=1")
    for n in (3, 24):
        scores, rows = opened.search(queries, n)
        assert all(len(set(found)) == n for found in rows.tolist())
        assert np.isfinite(scores).all()
    assert (rows >= 0).all()
    assert faiss.extract_index_ivf(index).nprobe == 1


def rewrite(path: Path, shape: tuple[int, int], change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change a flat index's vectors in place, and give the file its old time."""
    before, content = file_state(path), path.read_bytes()
    start = len(content) - 4 * shape[0] * shape[1]
    vectors = change(np.frombuffer(content, np.float32, offset=start).reshape(shape))
    while file_state(path) == before:  # two changes within one tick of the clock are one to whoever looks at times
        path.write_bytes(content[:start] + vectors.tobytes())
        os.utime(path, ns=(before[1], before[1]))


SPOILT = {
    "reversed": lambda vectors: vectors[::-1],
    "two swapped": lambda vectors: vectors[[1, 0, *range(2, len(vectors))]],
    "zeros": lambda vectors: vectors * np.float32(0),
    "NaN": lambda vectors: vectors * np.float32("nan"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_index_that_is_not_what_was_built_is_refused(
    retriever: Retriever, tmp_path: Path, kind: str, encoded: list[int]
) -> None:
    path, shape = tmp_path / "an.index", (len(retriever.corpus), retriever.encoder.dimension)
    built = open_index(retriever.corpus, retriever.encoder, path).vectors(range(shape[0]))
    rewrite(path, shape, SPOILT[kind])
    encoded.clear()
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"an\.index is not what was built there.*delete an\.index\.json"
        ) as refused:
            open_index(retriever.corpus, retriever.encoder, path)
        assert "\n" not in str(refused.value)
    assert not encoded
    path.unlink()
    opened = open_index(retriever.corpus, retriever.encoder, path)
    np.testing.assert_array_equal(opened.vectors(range(shape[0])), built)


def test_index_that_was_copied_is_read_once_and_not_encoded(
    retriever: Retriever, tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, hashed = tmp_path / "an.index", []
    open_index(retriever.corpus, retriever.encoder, path)
    encoded.clear()
    monkeypatch.setattr(faiss_store, "fingerprint", lambda file: (hashed.append(file), fingerprint(file))[1])
    rewrite(path, (len(retriever.corpus), retriever.encoder.dimension), lambda vectors: vectors)
    for _ in range(3):
        open_index(retriever.corpus, retriever.encoder, path)
    assert hashed == [path]
    assert not encoded


def test_stamp_without_a_hash_is_completed_once_the_vectors_are_checked(
    retriever: Retriever, tmp_path: Path, encoded: list[int]
) -> None:
    """Earlier versions wrote such stamps, and so does a run that is killed before it has hashed its index."""
    path, shape = tmp_path / "an.index", (len(retriever.corpus), retriever.encoder.dimension)
    stamp = path.with_name("an.index.json")
    open_index(retriever.corpus, retriever.encoder, path)
    whole = json.loads(stamp.read_text())
    stamp.write_text(json.dumps({key: whole[key] for key in whole.keys() - {"sha256", "file"}}))
    encoded.clear()
    for _ in range(2):
        open_index(retriever.corpus, retriever.encoder, path)
        assert encoded == [90]
    assert json.loads(stamp.read_text()) == whole
    stamp.write_text(json.dumps({key: whole[key] for key in whole.keys() - {"sha256", "file"}}))
    rewrite(path, shape, SPOILT["reversed"])
    with pytest.raises(InputError, match="was built by another encoder or from another corpus"):
        open_index(retriever.corpus, retriever.encoder, path)
