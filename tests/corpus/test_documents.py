"""Looking up and sampling documents; which may answer a source."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from utils.corpus.documents import Corpus
from utils.errors import InputError


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


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


def test_every_document_is_found_whatever_its_line_is_like(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(
        '\ufeff\n{"id": "ä", "contents": "één"}\n\n  \n{"id": 2, "contents": "two"}\r\n'
        '{"id": "3\\ud83d", "contents": "x"}'
    )
    corpus = Corpus(path)
    assert [corpus[row] for row in range(3)] == list(corpus) == [corpus.get(i) for i in ("ä", "2", "3\ufffd")]
    path.write_text('\ufeff{"id": "ä", "contents": "één"}')
    assert Corpus(path)[0] == Corpus(path).get("ä")
    for row in (-1, 3):
        with pytest.raises(IndexError):
            corpus[row]


def test_chunks_of_an_article_are_counted(tmp_path: Path) -> None:
    rows = [{"id": i, "contents": "x", "doc_id": article} for i, article in enumerate(["a", "b", "a", "a"])]
    corpus = Corpus(write(tmp_path / "c.jsonl", [*rows, {"id": 9, "contents": "x"}]))
    assert [corpus.chunks(row) for row in (0, 1, 3, 4)] == [3, 1, 3, 1]


TWINS = [
    {"id": "a", "contents": "The gate is shut."},
    {"id": "b", "contents": "The mill is old."},
    {"id": "a again", "contents": " The gate\u00a0is\n\nshut. "},
    {"id": "c", "contents": "The gate is shut.", "title": "Gates"},
    {"id": "b again", "contents": "The mill is old."},
    {"id": "d1", "contents": "The pond froze.", "doc_id": "d"},
    {"id": "d2", "contents": "The ice broke.", "doc_id": "d"},
    {"id": "e", "contents": "The ice broke."},
]


def test_source_its_copies_its_chunks_and_repeated_texts_do_not_answer(tmp_path: Path) -> None:
    corpus = Corpus(write(tmp_path / "c.jsonl", TWINS))

    def answering(source: str, *ids: str) -> list[str]:
        rows = np.array([corpus.row(i) for i in ids])
        return [ids[position] for position in corpus.answering(corpus.row(source), rows)]

    assert answering("a", "c", "b again", "a", "a again", "b", "d1") == ["c", "b again", "d1"]
    assert answering("a again", "a", "b", "b again", "a again") == ["b"]
    assert answering("d1", "d2", "d1", "e", "a") == ["e", "a"]
    assert answering("e", "d2", "d1", "e") == ["d1"]
    assert corpus.answering(0, np.array([], int)).tolist() == []


def test_sample_is_seeded_and_long_enough(corpus_file: Path) -> None:
    corpus = Corpus(corpus_file)
    drawn = [document.id for document in corpus.sample(random.Random(3), min_length=270)]
    assert drawn == [document.id for document in corpus.sample(random.Random(3), min_length=270)]
    assert sorted(drawn) == sorted(d.id for d in corpus if len(d.contents) >= 270)
    assert 0 < len(drawn) < len(corpus)
    assert drawn != [document.id for document in corpus.sample(random.Random(4), min_length=270)]


def test_each_text_is_sampled_once(tmp_path: Path) -> None:
    corpus = Corpus(write(tmp_path / "c.jsonl", TWINS))
    assert sorted(document.id for document in corpus.sample(random.Random(1))) == ["a", "b", "c", "d1", "d2"]
    assert corpus.count() == 5


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
