"""FAISS indexes: types that can be built; those from elsewhere that fit are used, others refused in one line."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest

from miniature import WORDS
from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.files import write_jsonl
from utils.retrieval import faiss_files
from utils.retrieval.encoder import PASSAGE, Encoder, EncoderOptions
from utils.retrieval.faiss_store import FaissOptions, open_index
from utils.retrieval.retriever import Retriever

pytestmark = pytest.mark.usefixtures("small_blocks")


FACTORIES = [
    "Flat", "HNSW8", "IVF4,Flat", "IVF4,PQ8x4fs,RFlat", "IVF4,PQ8x4", "IVF4,PQ8x4fs", "IVF4,SQ8", "SQ8", "SQfp16",
    "PQ16x4", "PQ16x4fs", "PCA24,IVF4,PQ8x4", "PCA24,IVF4,PQ8x4fs", "HNSW8,SQ8",
]  # fmt: skip


def write_foreign(
    vectors: np.ndarray, path: Path, factory: str = "Flat", metric: int = faiss.METRIC_INNER_PRODUCT
) -> Path:
    """Write an index as another program would: without a word on what it was built from."""
    index = faiss.index_factory(vectors.shape[1], factory, metric)
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(path))
    return path


def assert_refused(corpus: Corpus, encoder: Encoder, path: Path, problem: str) -> None:
    before = path.read_bytes()
    with pytest.raises(InputError, match=problem) as refused:
        open_index(corpus, encoder, path)
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("factory", FACTORIES)
def test_foreign_index_of_each_type_is_used_as_it_is_and_one_misplaced_in_a_hundred_found(
    many: tuple[Corpus, Encoder, np.ndarray], tmp_path: Path, factory: str
) -> None:
    corpus, encoder, vectors = many
    path = write_foreign(vectors, tmp_path / "good.index", factory)
    before = path.read_bytes()
    assert open_index(corpus, encoder, path).index.ntotal == len(corpus)
    assert path.read_bytes() == before
    moved = np.random.default_rng(5).choice(len(vectors), 20, replace=False)
    misplaced = vectors.copy()
    misplaced[moved] = vectors[np.roll(moved, 1)]
    path = write_foreign(misplaced, tmp_path / "bad.index", factory)
    assert_refused(corpus, encoder, path, r"bad\.index was built by another encoder or from another corpus: \d+ of 460")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda path, vectors: write_foreign(vectors[:3], path), r"an\.index holds 3 vectors of 32 dimensions"),
        (lambda path, vectors: path.write_bytes(path.read_bytes()[:40]), r"an\.index is not a FAISS index"),
        (lambda path, vectors: write_foreign(vectors[::-1].copy(), path), "another encoder or from another corpus"),
        (lambda path, vectors: write_foreign(vectors, path, metric=faiss.METRIC_L2), "inner product"),
    ],
    ids=["size", "cut", "order", "distance"],
)
def test_foreign_index_that_does_not_fit_is_refused(
    retriever: Retriever, tmp_path: Path, spoil: Callable, problem: str
) -> None:
    vectors = retriever.index.vectors(range(len(retriever.corpus)))
    path = write_foreign(vectors, tmp_path / "an.index")
    spoil(path, vectors)
    assert_refused(retriever.corpus, retriever.encoder, path, problem)


def test_foreign_index_of_another_encoder_is_refused(many: tuple[Corpus, Encoder, np.ndarray], tmp_path: Path) -> None:
    corpus, encoder, vectors = many
    drawn = np.random.default_rng(1).standard_normal(vectors.shape, np.float32)
    path = write_foreign(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), tmp_path / "an.index")
    assert_refused(corpus, encoder, path, r"an\.index was built by another encoder")


@pytest.mark.parametrize("other", [{"pooling": "cls"}, {"pooling": "max"}, {"passage_instruction": "lake: "}])
@pytest.mark.parametrize("factory", ["Flat", "HNSW8", "IVF4,Flat"])
def test_foreign_index_of_another_pooling_or_instruction_is_refused(
    many: tuple[Corpus, Encoder, np.ndarray], tmp_path: Path, factory: str, other: dict[str, str]
) -> None:
    corpus, encoder, _ = many
    theirs = Encoder(encoder.path, EncoderOptions(half=False, **other)).encode([d.text for d in corpus], PASSAGE)  # type: ignore[arg-type]
    path = write_foreign(theirs, tmp_path / "an.index", factory)
    assert_refused(corpus, encoder, path, "model2pooling, passage_instruction and retrieval_query_max_length")


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


def test_own_index_is_not_checked(retriever: Retriever, tmp_path: Path, encoded: list[int]) -> None:
    for _ in range(2):
        open_index(retriever.corpus, retriever.encoder, tmp_path / "an.index")
    assert sum(encoded) == len(retriever.corpus)
    assert not list(tmp_path.glob("*.checked.json"))


@pytest.mark.parametrize("factory", ["Flat", "HNSW8", "IVF4,Flat"])
@pytest.mark.parametrize("value", [2.0, 0.5, 0.0, float("nan"), float("inf")])
def test_single_vector_that_is_not_of_length_1_is_refused(
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
def test_approximations_of_vectors_that_are_not_of_length_1_are_refused(
    many: tuple[Corpus, Encoder, np.ndarray], tmp_path: Path, factory: str, factor: float
) -> None:
    corpus, encoder, vectors = many
    problem = r"row \d+ is not of length 1.*normalised" if factor else "460 of 460 vectors are not those"
    path = write_foreign(vectors * np.float32(factor), tmp_path / "an.index", factory)
    assert_refused(corpus, encoder, path, problem)


def test_approximations_of_two_swapped_documents_are_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "two.jsonl", ({"id": n, "contents": WORDS[n]} for n in range(2)))
    corpus, encoder = Corpus(tmp_path / "two.jsonl"), Encoder(tiny_encoder, EncoderOptions(method="tiny", half=False))
    vectors = encoder.encode([document.text for document in corpus], PASSAGE)
    open_index(corpus, encoder, write_foreign(vectors, tmp_path / "good.index", "SQ8"))
    path = write_foreign(vectors[::-1].copy(), tmp_path / "bad.index", "SQ8")
    assert_refused(corpus, encoder, path, "2 of 2 vectors are not those of their documents")


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


def test_path_that_is_not_a_file_is_refused(retriever: Retriever, tmp_path: Path) -> None:
    (tmp_path / "an.index").mkdir()
    with pytest.raises(InputError, match=r"an\.index is not a file that can be read: name another in method2index"):
        open_index(retriever.corpus, retriever.encoder, tmp_path / "an.index")


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat", "IVF4,PQ8x4fs"])
def test_cut_index_is_refused(retriever: Retriever, tmp_path: Path, factory: str) -> None:
    path = tmp_path / "an.index"
    open_index(retriever.corpus, retriever.encoder, path, FaissOptions(factory))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        InputError, match=r"an\.index is not a FAISS index of floats, or is truncated: name an index"
    ) as refused:
        open_index(retriever.corpus, retriever.encoder, path, FaissOptions(factory))
    assert "\n" not in str(refused.value)
    path.unlink()
    assert open_index(retriever.corpus, retriever.encoder, path, FaissOptions(factory)).index.ntotal == len(
        retriever.corpus
    )


@pytest.mark.parametrize("factory", ["Flatt", "IVF91,Flat", "IVF4096,Flat", "PQ7", "", "HNSW8,PQ8x4", "IDMap,Flat"])
def test_type_that_cannot_be_built_is_refused_before_encoding(
    retriever: Retriever, tmp_path: Path, encoded: list[int], factory: str
) -> None:
    with pytest.raises(InputError, match=f"faiss_index_factory '{factory}' cannot be built") as refused:
        open_index(retriever.corpus, retriever.encoder, tmp_path / "an.index", FaissOptions(factory))
    assert "\n" not in str(refused.value)
    assert not encoded


def test_training_sample_is_seeded(retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_files, "TRAINING_VECTORS", 40)
    monkeypatch.setattr(faiss_files, "TRAINING_VECTORS_PER_LIST", 20)
    built = [
        open_index(
            retriever.corpus, retriever.encoder, tmp_path / f"{number}.index", FaissOptions("IVF2,Flat", seed=seed)
        )
        for number, seed in enumerate((1, -1, 2))  # a sign decides nothing, and is no error
    ]
    first, same, other = (each.index.quantizer.reconstruct_n(0, 2) for each in built)
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
