"""Building, resuming and refusing FAISS indexes; what each type gives back."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest

from kills import kill_after_three_blocks
from miniature import WORDS, save_tiny_bert
from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.files import write_jsonl
from utils.retrieval import faiss_store, vectors
from utils.retrieval.arms import ARMS
from utils.retrieval.encoder import PASSAGE, Encoder
from utils.retrieval.faiss_store import FaissIndex, keeps_vectors, open_index
from utils.retrieval.retriever import Retriever
from utils.schema import Candidate
from utils.scoring import open_reranker

pytestmark = pytest.mark.usefixtures("small_blocks")

EXACT = ["Flat", "HNSW8", "IVF4,Flat", "IVF4,PQ8x4fs,RFlat"]
APPROXIMATE = ["IVF4,PQ8x4", "SQ8", "PCA16,Flat"]


def test_killed_encoding_goes_on_to_the_same_bytes(
    retriever: Retriever, tiny_encoder: Path, tmp_path: Path, encoded: list[int]
) -> None:
    path = tmp_path / "killed.index"
    kill_after_three_blocks(retriever.corpus.path, tiny_encoder, f"open_index(corpus, encoder, Path({str(path)!r}))")
    assert not path.exists()
    open_index(retriever.corpus, retriever.encoder, path)
    assert sum(encoded) == len(retriever.corpus) - 3 * 16
    open_index(retriever.corpus, retriever.encoder, tmp_path / "whole.index")
    assert path.read_bytes() == (tmp_path / "whole.index").read_bytes()
    assert {file.name for file in tmp_path.iterdir() if file.suffix != ".lock"} == {
        f"{name}.index{suffix}" for name in ("killed", "whole") for suffix in ("", ".json")
    }


def test_runs_that_need_one_index_build_it_once(retriever: Retriever, tmp_path: Path, encoded: list[int]) -> None:
    def build(_: int) -> FaissIndex:
        return open_index(retriever.corpus, retriever.encoder, tmp_path / "an.index")

    with ThreadPoolExecutor(3) as pool:
        opened = list(pool.map(build, range(3)))
    assert sum(encoded) == len(retriever.corpus)
    assert {each.index.ntotal for each in opened} == {len(retriever.corpus)}


def test_devices_that_cannot_be_seen_are_told(tiny_encoder: Path, tiny_reranker: Path) -> None:
    with pytest.raises(InputError, match="retrieval_devices names cuda:7, but only"):
        Encoder(tiny_encoder, devices=["cuda:7"])
    with pytest.raises(InputError, match="reranker_devices names cuda:9, but only"):
        open_reranker(tiny_reranker, device="cuda:9")


def test_encoder_is_no_reranker(tiny_encoder: Path) -> None:
    with pytest.raises(InputError, match="has no weights for classifier"):
        open_reranker(tiny_encoder)


def test_what_was_begun_for_another_encoder_is_not_gone_on_with(
    retriever: Retriever, tiny_encoder: Path, tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(vectors, "append_jsonl", lambda out, row: 1 / (2 - row["block"]))  # fails at block 2
        with pytest.raises(ZeroDivisionError):
            open_index(retriever.corpus, retriever.encoder, tmp_path / "an.index")
    encoded.clear()
    open_index(retriever.corpus, Encoder(tiny_encoder, pooling="cls"), tmp_path / "an.index")
    assert sum(encoded) == len(retriever.corpus)


def test_flat_file_is_faiss_s_own(retriever: Retriever, tmp_path: Path) -> None:
    flat = faiss.IndexFlatIP(retriever.encoder.dimension)
    flat.add(retriever.index.vectors(range(len(retriever.corpus))))
    faiss.write_index(flat, str(tmp_path / "faiss.index"))
    open_index(retriever.corpus, retriever.encoder, tmp_path / "ours.index")
    header = len(vectors.flat_header(1, 1))
    ours, theirs = ((tmp_path / name).read_bytes() for name in ("ours.index", "faiss.index"))
    assert ours[:header] == theirs[:header]
    assert len(ours) == len(theirs)


@pytest.mark.parametrize("factory", EXACT + APPROXIMATE)
def test_each_type_gives_the_vectors(
    retriever: Retriever, tmp_path: Path, factory: str, encoded: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    opened = open_index(retriever.corpus, retriever.encoder, tmp_path / "an.index", factory)
    encoded.clear()
    caplog.clear()
    rows = [3, 80, 3, 41]
    with caplog.at_level(logging.INFO, "reranker"):
        reopened = open_index(retriever.corpus, retriever.encoder, tmp_path / "an.index", factory)
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
    other = open_index(retriever.corpus, retriever.encoder, tmp_path / "an.index", factory, search_params=params)
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


def test_index_of_another_type_is_built_again(retriever: Retriever, tmp_path: Path) -> None:
    path = tmp_path / "an.index"
    for factory, kind in (("Flat", "IndexFlatIP"), ("IVF4,Flat", "IndexIVFFlat"), ("Flat", "IndexFlatIP")):
        opened = open_index(retriever.corpus, retriever.encoder, path, factory)
        assert opened.settings["index"] == kind


@pytest.mark.parametrize("factory", ["Flatt", "IVF4096,Flat", "PQ7"])
def test_type_that_cannot_be_built_is_told(retriever: Retriever, tmp_path: Path, factory: str) -> None:
    with pytest.raises(InputError, match=f"faiss_index_factory '{factory}' cannot be built") as told:
        open_index(retriever.corpus, retriever.encoder, tmp_path / "an.index", factory)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("factory", ["Flatt", "IVF91,Flat", "PQ7", "", "HNSW8,PQ8x4", "IDMap,Flat"])
def test_type_that_cannot_be_built_is_told_before_encoding(
    retriever: Retriever, tmp_path: Path, encoded: list[int], factory: str
) -> None:
    with pytest.raises(InputError, match=f"faiss_index_factory '{factory}' cannot be built"):
        open_index(retriever.corpus, retriever.encoder, tmp_path / "an.index", factory)
    assert not encoded


@pytest.mark.parametrize(
    "params", ["nprobe=0", "nprobe=-2", "nprobe=x", "nprobe", "nprobe=2;x", ",", " ", "a=1", "nprobe=nan"]
)
def test_search_parameters_that_find_nothing_are_told(retriever: Retriever, tmp_path: Path, params: str) -> None:
    with pytest.raises(InputError, match=r"faiss_search_params: .* does not suit an IndexIVFFlat; write nprobe=64"):
        open_index(retriever.corpus, retriever.encoder, tmp_path / "an.index", "IVF4,Flat", search_params=params)


def test_search_parameters_are_the_index_s_own(retriever: Retriever, tmp_path: Path) -> None:
    path = tmp_path / "an.index"
    opened = open_index(retriever.corpus, retriever.encoder, path, "IVF4,Flat", search_params="nprobe=3")
    assert opened.index.nprobe == 3
    with pytest.raises(InputError, match="faiss_search_params: 'nprob=3' does not suit"):
        open_index(retriever.corpus, retriever.encoder, path, "IVF4,Flat", search_params="nprob=3")


def test_gpu_that_faiss_cannot_use_is_told(
    retriever: Retriever, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if hasattr(faiss, "StandardGpuResources"):
        pytest.skip("this FAISS can use a GPU")
    opened = open_index(retriever.corpus, retriever.encoder, tmp_path / "an.index", gpu=True)
    assert "searching on the CPU" in caplog.text
    query = retriever.index.vectors([4])
    np.testing.assert_array_equal(opened.search(query, 9)[1], retriever.index.search(query, 9)[1])


def foreign(vectors: np.ndarray, path: Path, kind: Callable = faiss.IndexFlatIP) -> Path:
    """Write an index as another program would: without a word on what it was built from."""
    flat = kind(vectors.shape[1])
    flat.add(vectors)
    faiss.write_index(flat, str(path))
    return path


def test_foreign_index_of_another_encoder_is_refused(retriever: Retriever, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((len(retriever.corpus), retriever.encoder.dimension)).astype(np.float32)
    path = foreign(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), tmp_path / "an.index")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"an\.index was built by another encoder"):
        open_index(retriever.corpus, retriever.encoder, path)
    assert path.read_bytes() == before


def test_foreign_index_in_another_order_is_refused(retriever: Retriever, tmp_path: Path) -> None:
    path = foreign(retriever.index.vectors(range(len(retriever.corpus)))[::-1].copy(), tmp_path / "an.index")
    with pytest.raises(InputError, match=r"another encoder or from another corpus"):
        open_index(retriever.corpus, retriever.encoder, path)


def test_foreign_index_by_distance_is_refused(retriever: Retriever, tmp_path: Path) -> None:
    vectors = retriever.index.vectors(range(len(retriever.corpus)))
    path = foreign(vectors, tmp_path / "an.index", faiss.IndexFlatL2)
    with pytest.raises(InputError, match="inner product"):
        open_index(retriever.corpus, retriever.encoder, path)


FOREIGN = [
    "Flat",
    "HNSW8",
    "IVF4,Flat",
    "IVF4,PQ8x4fs,RFlat",
    "IVF4,PQ8x4",
    "IVF4,PQ8x4fs",
    "IVF4,SQ8",
    "SQ8",
    "SQfp16",
]
FOREIGN += ["PQ16x4", "PQ16x4fs", "PCA24,IVF4,PQ8x4", "PCA24,IVF4,PQ8x4fs", "HNSW8,SQ8"]


@pytest.fixture(scope="module")
def many(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, Encoder, np.ndarray]:
    """A corpus of 2,000 short documents, all different, its encoder and its vectors."""
    rng = random.Random(2)
    path = tmp_path_factory.mktemp("many") / "corpus.jsonl"
    write_jsonl(path, ({"id": str(n), "contents": " ".join(rng.choices(WORDS, k=8))} for n in range(2000)))
    corpus, encoder = Corpus(path), Encoder(tiny_encoder, method="tiny", half=False)
    return corpus, encoder, encoder.encode([document.text for document in corpus], PASSAGE)


def write_foreign(vectors: np.ndarray, path: Path, factory: str = "Flat") -> Path:
    """Write an index of any type as another program would."""
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(path))
    return path


def assert_refused(corpus: Corpus, encoder: Encoder, path: Path, problem: str) -> None:
    before = path.read_bytes()
    with pytest.raises(InputError, match=problem) as told:
        open_index(corpus, encoder, path)
    assert "\n" not in str(told.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("factory", FOREIGN)
def test_foreign_index_of_each_type_is_taken_and_one_misplaced_in_a_hundred_found(
    many: tuple[Corpus, Encoder, np.ndarray], tmp_path: Path, factory: str
) -> None:
    corpus, encoder, vectors = many
    open_index(corpus, encoder, write_foreign(vectors, tmp_path / "good.index", factory))
    moved = np.random.default_rng(5).choice(len(vectors), 20, replace=False)
    misplaced = vectors.copy()
    misplaced[moved] = vectors[np.roll(moved, 1)]
    path = write_foreign(misplaced, tmp_path / "bad.index", factory)
    assert_refused(corpus, encoder, path, r"bad\.index was built by another encoder or from another corpus: \d+ of 460")


def test_foreign_index_is_checked_once(
    many: tuple[Corpus, Encoder, np.ndarray], tmp_path: Path, encoded: list[int]
) -> None:
    corpus, encoder, vectors = many
    path = write_foreign(vectors, tmp_path / "an.index")
    for _ in range(2):
        open_index(corpus, encoder, path)
        assert encoded == [460]
    write_foreign(vectors[::-1].copy(), path)
    assert_refused(corpus, encoder, path, "460 of 460 vectors are not those")


@pytest.mark.parametrize("factory", ["Flat", "HNSW8", "IVF4,Flat"])
@pytest.mark.parametrize("value", [2.0, 0.5, 0.0, float("nan"), float("inf")])
def test_single_vector_that_is_not_of_length_1_is_told(
    many: tuple[Corpus, Encoder, np.ndarray], tmp_path: Path, factory: str, value: float
) -> None:
    corpus, encoder, vectors = many
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    wrong = vectors.copy()
    wrong[1777] *= value
    index.add(wrong)
    faiss.write_index(index, str(tmp_path / "an.index"))
    assert_refused(corpus, encoder, tmp_path / "an.index", r"row (1777 is not|from \d+ to \d+).*normalised")


@pytest.mark.parametrize(
    ("factory", "factor"),
    [*itertools.product(["SQ8", "SQfp16", "PQ16x4", "IVF4,SQ8"], [3.0, 0.0]), ("IVF4,PQ8x4fs", 3.0)],
)
def test_approximations_of_vectors_that_are_not_of_length_1_are_told(
    many: tuple[Corpus, Encoder, np.ndarray], tmp_path: Path, factory: str, factor: float
) -> None:
    corpus, encoder, vectors = many
    problem = r"row \d+ is not of length 1.*normalised" if factor else "460 of 460 vectors are not those"
    path = write_foreign(vectors * np.float32(factor), tmp_path / "an.index", factory)
    assert_refused(corpus, encoder, path, problem)


def test_approximations_of_two_documents_that_changed_places_are_told(tiny_encoder: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "two.jsonl", ({"id": n, "contents": WORDS[n]} for n in range(2)))
    corpus, encoder = Corpus(tmp_path / "two.jsonl"), Encoder(tiny_encoder, method="tiny", half=False)
    vectors = encoder.encode([document.text for document in corpus], PASSAGE)
    open_index(corpus, encoder, write_foreign(vectors, tmp_path / "good.index", "SQ8"))
    path = write_foreign(vectors[::-1].copy(), tmp_path / "bad.index", "SQ8")
    assert_refused(corpus, encoder, path, "2 of 2 vectors are not those of their documents")


@pytest.mark.parametrize("other", [{"pooling": "cls"}, {"pooling": "max"}, {"passage_instruction": "lake: "}])
@pytest.mark.parametrize("factory", ["Flat", "HNSW8", "IVF4,Flat"])
def test_foreign_index_of_another_pooling_or_instruction_is_refused(
    many: tuple[Corpus, Encoder, np.ndarray], tmp_path: Path, factory: str, other: dict[str, str]
) -> None:
    corpus, encoder, _ = many
    theirs = Encoder(encoder.path, half=False, **other).encode([d.text for d in corpus], PASSAGE)  # type: ignore[arg-type]
    path = write_foreign(theirs, tmp_path / "an.index", factory)
    assert_refused(corpus, encoder, path, "model2pooling, passage_instruction and retrieval_query_max_length")


def test_index_with_ids(many: tuple[Corpus, Encoder, np.ndarray], tmp_path: Path) -> None:
    corpus, encoder, vectors = many
    rows = np.arange(len(vectors))
    for name, ids in (("rows", rows), ("others", rows + 7), ("reversed", rows[::-1].copy())):
        for kind, factory in ((faiss.IndexIDMap, "Flat"), (faiss.IndexIDMap2, "Flat"), (lambda ivf: ivf, "IVF4,Flat")):
            index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
            index.train(vectors)
            index = kind(index)
            index.add_with_ids(vectors, ids)
            path = tmp_path / f"{name}.index"
            faiss.write_index(index, str(path))
            if name == "rows":
                opened = open_index(corpus, encoder, path)
                np.testing.assert_allclose(opened.vectors([3, 5]), vectors[[3, 5]], atol=1e-6)
                assert opened.search(vectors[:2], 1)[1].tolist() == [[0], [1]]
            else:
                assert_refused(corpus, encoder, path, "ids of its own|another corpus")


def test_path_that_is_no_file_is_told(retriever: Retriever, tmp_path: Path) -> None:
    (tmp_path / "an.index").mkdir()
    with pytest.raises(InputError, match=r"an\.index is no file that can be read: name another in method2index"):
        open_index(retriever.corpus, retriever.encoder, tmp_path / "an.index")


def test_own_index_has_no_need_of_the_check(retriever: Retriever, tmp_path: Path, encoded: list[int]) -> None:
    for _ in range(2):
        open_index(retriever.corpus, retriever.encoder, tmp_path / "an.index")
    assert sum(encoded) == len(retriever.corpus)
    assert not list(tmp_path.glob("*.checked.json"))


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat", "IVF4,PQ8x4fs"])
def test_cut_index_is_told(retriever: Retriever, tmp_path: Path, factory: str) -> None:
    path = tmp_path / "an.index"
    open_index(retriever.corpus, retriever.encoder, path, factory)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        InputError, match=r"an\.index is no FAISS index of floats, or is truncated: name another"
    ) as told:
        open_index(retriever.corpus, retriever.encoder, path, factory)
    assert "\n" not in str(told.value)
    path.unlink()
    assert open_index(retriever.corpus, retriever.encoder, path, factory).index.ntotal == len(retriever.corpus)


def test_several_processes_give_the_same_vectors(retriever: Retriever, tiny_encoder: Path, tmp_path: Path) -> None:
    two = Encoder(tiny_encoder, method="tiny", half=False, devices=["cpu", "cpu"])
    assert two.fingerprint == retriever.encoder.fingerprint
    opened = open_index(retriever.corpus, two, tmp_path / "an.index")
    rows = range(len(retriever.corpus))
    np.testing.assert_allclose(opened.vectors(rows), retriever.index.vectors(rows), atol=1e-5)


def test_training_sample_is_seeded(retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_store, "TRAINING_VECTORS", 40)
    monkeypatch.setattr(faiss_store, "TRAINING_VECTORS_A_LIST", 20)
    built = [
        open_index(retriever.corpus, retriever.encoder, tmp_path / f"{number}.index", "IVF2,Flat", seed=seed)
        for number, seed in enumerate((1, -1, 2))  # a sign decides nothing, and is no error
    ]
    first, same, other = (each.index.quantizer.reconstruct_n(0, 2) for each in built)
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_encoder_of_other_weights_has_its_own_index(retriever: Retriever, tmp_path: Path, encoded: list[int]) -> None:
    other = Encoder(save_tiny_bert(tmp_path / "other", head=False, seed=1), method="tiny", half=False)
    path = tmp_path / "an.index"
    open_index(retriever.corpus, retriever.encoder, path)
    opened: FaissIndex = open_index(retriever.corpus, other, path)
    assert sum(encoded) == 2 * len(retriever.corpus)
    np.testing.assert_allclose(opened.vectors([0]), other.encode([retriever.corpus[0].text], PASSAGE), atol=1e-5)
