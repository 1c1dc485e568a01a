"""What makes a document, and its passage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.schema import parse_document


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


NAN = float("nan")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"title": NAN, "doc_id": NAN}, ("1", "", None)),
        ({"title": None, "doc_id": None}, ("1", "", None)),
        ({"title": "", "doc_id": ""}, ("1", "", None)),
        ({"title": " \n", "doc_id": "  "}, ("1", "", None)),
        ({"title": 1984, "doc_id": 0}, ("1", "1984", "0")),
        ({"id": 7.0, "title": 1984.0, "doc_id": 3.0}, ("7", "1984", "3")),  # as pandas writes a column with a gap
        ({"id": " a\u00a0b ", "title": " Tarn ", "doc_id": "c\n"}, ("a\u00a0b", "Tarn", "c")),
        ({"id": 0}, ("0", "", None)),
    ],
)
def test_ids_and_titles_are_texts_or_none(row: dict, expected: tuple) -> None:
    document = parse_document({"id": "1", "contents": "A gate.", **row}, "here")
    assert (document.id, document.title, document.doc_id) == expected
    assert document.text == (f"{expected[1]}\nA gate." if expected[1] else "A gate.")
    assert document.article == (expected[2] or expected[0])


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        *(("contents", value, "must be a string, not") for value in (["a", "b"], {"text": "a"}, 7, 1.5, True)),
        *(("contents", value, "is missing or empty") for value in (None, NAN, "", " \n\u3000")),
        *(("id", value, "must be a string or a whole number, not") for value in (True, 1.5, 1e300, [1], {"a": 1})),
        *(("id", value, "is missing or empty") for value in (None, NAN, "", "\t")),
        *(("id", value, "has a line break") for value in ("a\nb", "a\u2028b")),
        *(("title", value, "must be a string or a whole number, not") for value in (False, 0.5, ["a"], {})),
        *(("doc_id", value, "must be a string or a whole number, not") for value in (True, 2.0**60, [1], {"a": 1})),
    ],
)
def test_value_that_is_not_text_is_refused_with_its_line(tmp_path: Path, key: str, value: object, problem: str) -> None:
    path = tmp_path / "c.jsonl"
    rows: list[dict] = [{"id": str(i), "title": "Tarn", "contents": f"Gate {i}.", "doc_id": "a"} for i in range(3)]
    rows[2][key] = value
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError) as error:
        Corpus(path)
    assert str(error.value).startswith(f'{path}, line 3: "{key}" ')
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("first_line", "title"),
    [
        ('"A very long title, with a full stop at its end."', "A very long title, with a full stop at its end."),
        ("Lake Merrow", "Lake Merrow"),
        ("Lake Merrow lies in the north.", ""),
        ("The lake has three streams;", ""),
        ("a paragraph without an end " * 10, ""),
    ],
)
def test_first_line_is_a_title_unless_it_is_a_paragraph(first_line: str, title: str) -> None:
    contents = f"{first_line}\nIt was dredged twice."
    document = parse_document({"id": "1", "contents": contents}, "here")
    assert (document.title, document.text) == (title, contents)
