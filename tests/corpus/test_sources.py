"""Source documents: from a file of ids, or sampled."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from miniature import CORPUS
from test_cli import run
from utils.corpus.documents import Corpus
from utils.corpus.sources import count_sources, read_ids, sources_of
from utils.errors import InputError
from utils.files import dumps, read_jsonl


def test_ids_are_read_as_they_are_written_anywhere(tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_bytes("\ufeffa\ufffd\r\n  b c \r\n\r\na\ufffd\r\n".encode())  # as an editor on Windows saves it
    assert read_ids(str(ids)) == ["a\ufffd", "b c"]
    ids.write_bytes("a\n\ufeffb\n".encode())  # two such files, put together
    assert read_ids(str(ids)) == ["a", "b"]
    ids.write_bytes("a\n".encode("utf-16"))
    with pytest.raises(InputError, match="UTF-8"):
        read_ids(str(ids))


def test_sources_come_in_the_order_of_the_file(corpus_file: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("5\n\n3\n")
    assert [d.id for d in sources_of(Corpus(corpus_file), str(ids), random.Random(), 0)] == ["5", "3"]
    ids.write_text("5\nnone/such\n")
    with pytest.raises(
        InputError, match=r'ids.txt: .* has no document with id "none/such"; `python -m tools.sample_doc_ids` writes'
    ):
        sources_of(Corpus(corpus_file), str(ids), random.Random(), 0)


def test_sources_are_counted_without_being_read(corpus_file: Path, tmp_path: Path) -> None:
    corpus = Corpus(corpus_file)
    assert count_sources(corpus, None, 270) == len(list(sources_of(corpus, None, random.Random(1), 270)))
    (tmp_path / "ids.txt").write_text("5\n\n3\n")
    assert count_sources(corpus, str(tmp_path / "ids.txt"), 270) == 2


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
