"""A corpus that holds texts twice: no copy of a source is its candidate, and no candidate comes twice."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from miniature import CORPUS
from test_cli import run
from utils.corpus.documents import Corpus
from utils.files import dumps, read_jsonl, write_jsonl
from utils.retrieval.arms import ARMS, BASE, FINE_TUNED
from utils.retrieval.encoder import Encoder
from utils.retrieval.faiss_store import open_index
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import Retriever
from utils.scoring import open_reranker

K = 5


def with_copies(path: Path, copies: int) -> Path:
    """Write the miniature corpus with so many copies of each document under other ids, their white space changed."""
    rows = [row for _, row in read_jsonl(CORPUS)]
    doubled = [
        row | {"id": f"{row['id']} copy {n}", "contents": f" {row['contents'].replace(' ', '  ', 1)}"}
        for row in rows
        for n in range(copies)
    ]
    write_jsonl(path, [*rows, *doubled])
    return path


def retriever_of(path: Path, encoder: Path, reranker: Path) -> Retriever:
    corpus, tiny = Corpus(path), Encoder(encoder, method="tiny", half=False)
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
    monkeypatch.setattr("utils.retrieval.retriever.DEEPEST", 40)
    source = retriever.corpus[0]
    (lists,) = retriever.retrieve(["standard"], [f"what of {source.title}?"], [source], K)
    assert depths == [6, 24, 40]
    assert 0 < len(lists["standard"]) < K


def test_generator_and_ablation_pay_for_no_copy(config_file: Path, corpus_file: Path, tmp_path: Path) -> None:
    with_copies(corpus_file, 1)
    options = ["--config", config_file, "--min_length", "0"]
    generate = ["contrastive_data_generator", *options, "--num_examples", "99", "--max_doc_candidates", K]
    assert run(*generate, "--output_dir", tmp_path / "out", "--output_file", "e.jsonl") == 0
    text_of = {document.id: " ".join(document.text.split()) for document in Corpus(corpus_file)}
    rows = [row for _, row in read_jsonl(tmp_path / "out" / "e.provenance.jsonl")][1:]
    assert len(rows) == 24
    for row in rows:
        texts = [text_of[document_id] for document_id in row["retrieved"]]
        assert len(set(texts)) == len(texts) == (K if row["entity"] else 0)
        assert text_of[row["source"]] not in texts
    ablate = ["rerank_ablation_test", *options, "--num", "12", "--candidates", K, "--ft_model", "absent"]
    assert run(*ablate, "--output_file", tmp_path / "a.json") == 0
    for source in json.loads((tmp_path / "a.json").read_text())["sources"]:
        for trial in source["arms"].values():
            texts = [text_of[document_id] for document_id in trial["retrieved"]]
            assert len(set(texts)) == len(texts) == K
            assert text_of[source["source"]] not in texts


def test_sources_are_listed_and_found_again_whatever_their_ids(
    config_file: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    odd = ["half \\ud83d", " spaces  within ", "\u00fc/\u4e2d", "-1", "#7", '"quoted"']
    rows = [row for _, row in read_jsonl(CORPUS)]
    random.Random(1).shuffle(rows)
    rows = [row | {"id": odd[n] if n < len(odd) else str(n)} for n, row in enumerate(rows)]
    corpus_file.write_text("".join(dumps(row).replace("\\\\ud83d", "\\ud83d") + "\n" for row in rows))
    options = ["--config", config_file, "--min_length", "0", "--seed", "-1"]
    assert run("tools.sample_doc_ids", *options, "--num", "24") == 0
    ids = Path("sampled_doc_ids.txt").read_text(encoding="utf-8").splitlines()
    assert {"half \ufffd", "spaces  within", "\u00fc/\u4e2d", "-1", "#7", '"quoted"'} < set(ids)
    assert len(ids) == 24
    for script, flags in (
        ("contrastive_data_generator", ["--output_dir", "out", "--output_file", "e.jsonl"]),
        ("rerank_ablation_test", ["--single", "diverse", "--num", "24", "--output_file", "a.json"]),
    ):
        assert run(script, *options, *flags, "--doc_ids", "sampled_doc_ids.txt") == 0
    tried = [row["source"] for _, row in read_jsonl(Path("out/e.provenance.jsonl")) if "source" in row]
    assert tried == ids
