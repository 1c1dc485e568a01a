"""Building, resuming and refusing FAISS indexes; what each type gives back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest

from conftest import kill_after_three_blocks, save_tiny_bert
from utils.cli import InputError
from utils.reranker import Reranker
from utils.retrieval import encoding, index
from utils.retrieval.arms import ARMS, Retriever
from utils.retrieval.encoder import BGE_INSTRUCTION, PASSAGE, POOLINGS, QUERY, Encoder, instructions
from utils.retrieval.index import FaissIndex, keeps_vectors, open_index
from utils.schema import Candidate

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
        Reranker(tiny_reranker, device="cuda:9")


def test_encoder_is_no_reranker(tiny_encoder: Path) -> None:
    with pytest.raises(InputError, match="has no weights for classifier"):
        Reranker(tiny_encoder)


def test_what_was_begun_for_another_encoder_is_not_gone_on_with(
    retriever: Retriever, tiny_encoder: Path, tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(encoding.jsonl, "append", lambda out, row: 1 / (2 - row["block"]))  # fails at block 2
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
    header = len(encoding.flat_header(1, 1))
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


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat", "IVF4,PQ8x4fs"])
def test_cut_index_is_told(retriever: Retriever, tmp_path: Path, factory: str) -> None:
    path = tmp_path / "an.index"
    open_index(retriever.corpus, retriever.encoder, path, factory)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"an\.index is no FAISS index, or cut short: delete it") as told:
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
    monkeypatch.setattr(index, "TRAINING_VECTORS", 40)
    monkeypatch.setattr(index, "TRAINING_VECTORS_A_LIST", 20)
    built = [
        open_index(retriever.corpus, retriever.encoder, tmp_path / f"{number}.index", "IVF2,Flat", seed=seed)
        for number, seed in enumerate((1, -1, 2))  # a sign decides nothing, and is no error
    ]
    first, same, other = (each.index.quantizer.reconstruct_n(0, 2) for each in built)
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_is_its_definition(tiny_encoder: Path, pooling: str) -> None:
    import torch

    encoder = Encoder(tiny_encoder, pooling=pooling, half=False)
    texts = ["a lake", "the harbour town lies on a river and holds a market each week"]
    with torch.inference_mode():
        for text, vector in zip(texts, encoder.encode(texts, PASSAGE), strict=True):
            output = encoder.model(**encoder.tokenizer(text, return_tensors="pt"))
            hidden = output.last_hidden_state[0]
            expected = {
                "mean": hidden.mean(0),
                "cls": hidden[0],
                "last": hidden[-1],
                "pooler": output.pooler_output[0],
            }[pooling].numpy()
            np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)


def test_unknown_pooling_is_told(tiny_encoder: Path) -> None:
    with pytest.raises(InputError, match="'max' is unknown; use mean or cls"):
        Encoder(tiny_encoder, method="e5", pooling="max")


@pytest.mark.parametrize(
    ("method", "instruction", "query", "passage"),
    [
        ("e5", None, "query: ", "passage: "),
        ("e5-base-v2", "find: ", "find: ", "passage: "),
        ("bge-base-en", None, BGE_INSTRUCTION, ""),
        ("bge-m3", None, "", ""),
        ("gte", None, "", ""),
        ("e5", "", "", "passage: "),
    ],
)
def test_instructions_are_the_model_s(method: str, instruction: str | None, query: str, passage: str) -> None:
    assert instructions(method, instruction) == {QUERY: query, PASSAGE: passage}


def test_encoder_of_other_weights_has_its_own_index(retriever: Retriever, tmp_path: Path, encoded: list[int]) -> None:
    other = Encoder(save_tiny_bert(tmp_path / "other", head=False, seed=1), method="tiny", half=False)
    path = tmp_path / "an.index"
    open_index(retriever.corpus, retriever.encoder, path)
    opened: FaissIndex = open_index(retriever.corpus, other, path)
    assert sum(encoded) == 2 * len(retriever.corpus)
    np.testing.assert_allclose(opened.vectors([0]), other.encode([retriever.corpus[0].text], PASSAGE), atol=1e-5)
