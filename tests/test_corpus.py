"""Looking up and sampling documents; what makes a passage."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from utils.cli import InputError
from utils.corpus import Corpus, parse_document, sources_of


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
