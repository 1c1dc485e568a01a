"""Looking up and sampling documents; what makes a passage."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from utils.corpus import offsets
from utils.corpus.documents import Corpus
from utils.corpus.sampling import shuffled
from utils.corpus.sources import count_sources, read_ids, sources_of
from utils.errors import InputError
from utils.files import SCRIPTS
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
    with pytest.raises(InputError, match=r'ids.txt: .* has no document with id "none/such"; sample_doc_ids.py writes'):
        sources_of(Corpus(corpus_file), str(ids), random.Random(), 0)


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
    ("key", "value", "told"),
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
def test_value_that_is_no_text_is_told_with_its_line(tmp_path: Path, key: str, value: object, told: str) -> None:
    path = tmp_path / "c.jsonl"
    rows: list[dict] = [{"id": str(i), "title": "Tarn", "contents": f"Gate {i}.", "doc_id": "a"} for i in range(3)]
    rows[2][key] = value
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError) as error:
        Corpus(path)
    assert str(error.value).startswith(f'{path}, line 3: "{key}" ')
    assert told in str(error.value)
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


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["{"], "line 1: not JSON"),
        (["[]"], "line 1: expected a JSON object"),
        (['{"id": "1", "contents": "a"}', '{"contents": "b"}'], 'line 2: "id" is missing'),
        (['{"id": "1"}'], 'line 1: "contents" is missing'),
        (['{"id": "1", "contents": "a"}', '{"id": 1, "contents": "b"}'], 'line 2: id "1" is used before'),
        ([], "holds no document"),
        (["\ufeff"], "holds no document"),
        (["[", '{"id": "1", "contents": "a"}', "]"], "line 1: not JSON"),
        (["id\tcontents", "1\ta"], "line 1: not JSON"),
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


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("c.jsonl.gz", gzip.compress(b"{}"), "gunzip c.jsonl.gz"),
        ("c.jsonl", gzip.compress(b"{}"), "gunzip c.jsonl"),
        ("c.jsonl.bz2", bz2.compress(b"{}"), "bunzip2"),
        ("c.jsonl.xz", lzma.compress(b"{}"), "unxz"),
        ("c.zip", b"PK\x03\x04 and so on", "unzip"),
        ("c.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("c.parquet", b"PAR1\x15\x04 and so on", "JSON Lines"),
        ("c.jsonl", '{"id": "1", "contents": "x"}\n'.encode("utf-16"), "save it in UTF-8"),
        ("c.jsonl", '{"id": "1", "contents": "\u00e9"}\n'.encode("latin-1"), "line 1: not JSON"),
        ("._c.jsonl", b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", "line 1: not JSON"),
    ],
)
def test_what_is_no_text_is_told_with_its_remedy(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        Corpus(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_what_stands_between_lines_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": 1, "contents": "a"}\n\x0c\n\ufeff\n{"id": 2, "contents": "b"}\n\x0b \n', encoding="utf-8")
    assert [document.contents for document in Corpus(path)] == ["a", "b"]


def test_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a file: name a JSONL file"):
        Corpus(tmp_path)


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


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
    assert [corpus.chunks(i) for i in ("0", "1", "3", "9")] == [3, 1, 3, 1]


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


def test_each_text_is_sampled_once(tmp_path: Path) -> None:
    corpus = Corpus(write(tmp_path / "c.jsonl", TWINS))
    assert sorted(document.id for document in corpus.sample(random.Random(1))) == ["a", "b", "c", "d1", "d2"]
    assert corpus.count() == 5


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


def later(path: Path) -> None:
    """Date a file a second later: two changes within one tick of the clock are one to whoever looks at times."""
    changed = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(changed, changed))


def test_offset_index_is_built_once(corpus_file: Path, built: list[Path]) -> None:
    first, second = Corpus(corpus_file), Corpus(corpus_file)
    assert built == [corpus_file]
    assert first.fingerprint == second.fingerprint == hashlib.sha256(corpus_file.read_bytes()).hexdigest()
    assert list(first) == list(second)


def test_corpus_changed_by_one_line_is_indexed_again(corpus_file: Path, built: list[Path]) -> None:
    before = Corpus(corpus_file).fingerprint
    corpus_file.write_text(corpus_file.read_text().replace("harbour town", "harbour city", 1))  # of the same size
    later(corpus_file)
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
        later(tmp_path / other)
        shutil.copy(tmp_path / "corpus.jsonl.offsets", tmp_path / f"{other}.offsets")
        corpus = Corpus(tmp_path / other)
        assert built[-1] == tmp_path / other
        assert [corpus[row] for row in range(len(corpus))] == list(corpus)


def test_offset_index_of_an_earlier_version_is_built_again(corpus_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offsets, "VERSION", offsets.VERSION - 1)
    Corpus(corpus_file)
    monkeypatch.undo()
    assert len(Corpus(corpus_file)) == 24
    assert json.loads(corpus_file.with_name("corpus.jsonl.offsets").read_bytes()[:4096])["version"] == offsets.VERSION


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


def test_user_without_a_home_has_a_cache(tmp_path: Path) -> None:
    """As in a container that runs under a number that its list of users does not have."""
    code = "import pwd; pwd.getpwuid = {}.__getitem__; from utils.corpus import offsets; print(offsets.CACHE)"
    environment = {"PYTHONPATH": str(SCRIPTS), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == tmp_path / "rerank-forge"


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
