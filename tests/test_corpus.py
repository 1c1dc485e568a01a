"""Looking up and sampling documents; what makes a passage."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from utils import offsets
from utils.cli import InputError
from utils.corpus import Corpus, count_sources, shuffled, sources_of
from utils.schema import parse_document


def test_documents_are_found_by_id_and_row(corpus_file: Path) -> None:
    corpus = Corpus(corpus_file)
    assert len(corpus) == 24
    assert corpus.get("2").title == corpus[1].title == "Lake Merrow"
    with pytest.raises(InputError, match='no document with id "99"'):
        corpus.get("99")


def test_ids_that_are_numbers_are_compared_as_texts(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": 7, "contents": "seven"}\n')
    assert Corpus(path).get("7").contents == "seven"


def test_sample_is_seeded_and_long_enough(corpus_file: Path) -> None:
    corpus = Corpus(corpus_file)
    drawn = [document.id for document in corpus.sample(random.Random(3), min_length=270)]
    assert drawn == [document.id for document in corpus.sample(random.Random(3), min_length=270)]
    assert sorted(drawn) == sorted(d.id for d in corpus if len(d.contents) >= 270)
    assert 0 < len(drawn) < len(corpus)
    assert drawn != [document.id for document in corpus.sample(random.Random(4), min_length=270)]


def test_sources_come_in_the_order_of_the_file(corpus_file: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("5\n\n3\n")
    assert [d.id for d in sources_of(Corpus(corpus_file), str(ids), random.Random(), 0)] == ["5", "3"]


@pytest.mark.parametrize(
    ("row", "title", "text"),
    [
        ({"title": "Tarn", "contents": "A gate."}, "Tarn", "Tarn\nA gate."),
        ({"title": "Tarn", "contents": "Tarn\nA gate."}, "Tarn", "Tarn\nA gate."),
        ({"contents": '"Tarn"\nA gate.'}, "Tarn", '"Tarn"\nA gate.'),  # FlashRAG's
        ({"contents": "A gate."}, "", "A gate."),
    ],
)
def test_passage_begins_with_the_title_once(row: dict, title: str, text: str) -> None:
    document = parse_document({"id": "1", **row}, "here")
    assert (document.title, document.text) == (title, text)


def test_article_is_doc_id_where_there_is_one() -> None:
    assert parse_document({"id": 1, "contents": "x", "doc_id": 9}, "").article == "9"
    assert parse_document({"id": 1, "contents": "x"}, "").article == "1"


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["{"], "line 1: not JSON"),
        (["[]"], "line 1: a JSON object"),
        (['{"id": "1", "contents": "a"}', '{"contents": "b"}'], 'line 2: "id" is missing'),
        (['{"id": "1"}'], 'line 1: "contents" is missing'),
        (['{"id": "1", "contents": "a"}', '{"id": 1, "contents": "b"}'], 'line 2: id "1" is used before'),
        ([], "holds no document"),
    ],
)
def test_unusable_corpus_is_told_with_file_and_line(tmp_path: Path, lines: list[str], problem: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(line + "\n" for line in lines))
    with pytest.raises(InputError) as told:
        Corpus(path)
    assert problem in str(told.value)
    assert str(path) in str(told.value)
    assert "\n" not in str(told.value)


def test_compressed_corpus_is_told(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"id": 1, "contents": "x"}).encode()))
    with pytest.raises(InputError, match="gunzip"):
        Corpus(path)


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_every_document_is_found_whatever_its_line_is_like(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(
        '{"id": "ä", "contents": "één"}\n\n  \n{"id": 2, "contents": "two"}\r\n{"id": "3", "contents": "x"}'
    )
    corpus = Corpus(path)
    assert [corpus[row] for row in range(3)] == list(corpus) == [corpus.get(i) for i in ("ä", "2", "3")]
    for row in (-1, 3):
        with pytest.raises(IndexError):
            corpus[row]


def test_chunks_of_an_article_are_counted(tmp_path: Path) -> None:
    rows = [{"id": i, "contents": "x", "doc_id": article} for i, article in enumerate(["a", "b", "a", "a"])]
    corpus = Corpus(write(tmp_path / "c.jsonl", [*rows, {"id": 9, "contents": "x"}]))
    assert [corpus.chunks(i) for i in ("0", "1", "3", "9")] == [3, 1, 3, 1]


def test_equal_hashes_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offsets, "id_hash", lambda text: len(text))
    corpus = Corpus(write(tmp_path / "c.jsonl", [{"id": i, "contents": f"text {i}"} for i in range(20)]))
    assert [corpus.row(str(i)) for i in range(20)] == list(range(20))
    with pytest.raises(InputError, match='no document with id "20"'):
        corpus.get("20")
    with pytest.raises(InputError, match='line 3: id "1" is used before'):
        Corpus(write(tmp_path / "d.jsonl", [{"id": i, "contents": "x"} for i in (1, 2, 1, 2)]))


@pytest.mark.parametrize("count", [1, 2, 5, 24, 5000])
def test_shuffle_yields_each_number_once(count: int) -> None:
    orders = [np.concatenate(list(shuffled(count, random.Random(seed)))).tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == sorted(orders[2]) == list(range(count))
    assert count < 24 or orders[0] != orders[2]


def test_first_of_a_shuffle_is_any_number_as_often() -> None:
    firsts = [int(next(shuffled(10, random.Random(seed)))[0]) for seed in range(2000)]
    assert all(140 < firsts.count(number) < 260 for number in range(10))  # 200 each, give or take 4 deviations


def test_sources_are_counted_without_being_read(corpus_file: Path, tmp_path: Path) -> None:
    corpus = Corpus(corpus_file)
    assert count_sources(corpus, None, 270) == len(list(sources_of(corpus, None, random.Random(1), 270)))
    (tmp_path / "ids.txt").write_text("5\n\n3\n")
    assert count_sources(corpus, str(tmp_path / "ids.txt"), 270) == 2


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose offset index was built, in order."""
    files: list[Path] = []
    build = offsets.build
    monkeypatch.setattr(offsets, "build", lambda path: (files.append(path), build(path))[1])
    return files


def test_offset_index_is_built_once(corpus_file: Path, built: list[Path]) -> None:
    first, second = Corpus(corpus_file), Corpus(corpus_file)
    assert built == [corpus_file]
    assert first.fingerprint == second.fingerprint == hashlib.sha256(corpus_file.read_bytes()).hexdigest()
    assert list(first) == list(second)


def test_corpus_changed_by_one_line_is_indexed_again(corpus_file: Path, built: list[Path]) -> None:
    before = Corpus(corpus_file).fingerprint
    corpus_file.write_text(corpus_file.read_text().replace("harbour town", "harbour city", 1))  # of the same size
    corpus = Corpus(corpus_file)
    assert len(built) == 2
    assert corpus.fingerprint != before
    assert any("harbour city" in document.contents for document in corpus)


def test_corpus_that_was_only_touched_keeps_its_offset_index(corpus_file: Path, built: list[Path]) -> None:
    Corpus(corpus_file)
    corpus_file.touch()
    Corpus(corpus_file)
    table = corpus_file.with_name("corpus.jsonl.offsets")
    assert json.loads(table.read_bytes()[: offsets.HEADER_BYTES])["stamp"][1] == corpus_file.stat().st_mtime_ns
    assert built == [corpus_file]


def test_offset_index_of_another_file_is_not_used(corpus_file: Path, tmp_path: Path, built: list[Path]) -> None:
    Corpus(corpus_file)
    text = corpus_file.read_text()
    for other, changed in (("longer.jsonl", text + '{"id": "x", "contents": "y"}\n'), ("same.jsonl", text.lower())):
        (tmp_path / other).write_text(changed)
        shutil.copy(tmp_path / "corpus.jsonl.offsets", tmp_path / f"{other}.offsets")
        corpus = Corpus(tmp_path / other)
        assert built[-1] == tmp_path / other
        assert [corpus[row] for row in range(len(corpus))] == list(corpus)


@pytest.mark.parametrize("damage", [lambda table: table[:-8], lambda table: b"{" + table, lambda _: b""])
def test_damaged_offset_index_is_built_again(corpus_file: Path, built: list[Path], damage: Callable) -> None:
    expected = list(Corpus(corpus_file))
    table = corpus_file.with_name("corpus.jsonl.offsets")
    table.write_bytes(damage(table.read_bytes()))
    corpus = Corpus(corpus_file)
    assert [corpus[row] for row in range(len(corpus))] == expected
    assert len(built) == 2


def test_offset_index_goes_to_the_cache_where_the_folder_is_read_only(
    corpus_file: Path, tmp_path: Path, built: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offsets, "CACHE", tmp_path / "cache")
    corpus_file.with_name("corpus.jsonl.offsets").mkdir()  # no file can be put there
    assert list(Corpus(corpus_file)) == list(Corpus(corpus_file))
    assert built == [corpus_file]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_opening_costs_the_same_at_any_size(tmp_path: Path) -> None:
    """What a process holds after opening and looking up does not grow with the corpus."""
    import tracemalloc

    peaks = []
    for count in (1_000, 20_000):
        path = write(tmp_path / f"{count}.jsonl", [{"id": i, "contents": "x" * 50} for i in range(count)])
        Corpus(path)
        tracemalloc.start()
        corpus = Corpus(path)
        assert corpus.get(str(count - 1)).id == next(corpus.sample(random.Random(1), 60), corpus[count - 1]).id
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000
