"""The offset index: built once, built again when the file changes; unusable files are refused in one line."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from utils.corpus import offsets
from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.files import SCRIPTS


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["{"], "line 1: not JSON"),
        (["[]"], "holds no document"),
        (['{"id": "1", "contents": "a"}', '{"contents": "b"}'], 'line 2: "id" is missing'),
        (['{"id": "1"}'], 'line 1: "contents" is missing'),
        (['{"id": "1", "contents": "a"}', '{"id": 1, "contents": "b"}'], 'line 2: id "1" is a duplicate'),
        ([], "holds no document"),
        (["\ufeff"], "holds no document"),
        (["id\tcontents", "1\ta"], "line 1: not JSON"),
    ],
)
def test_unusable_corpus_is_refused_with_file_and_line(tmp_path: Path, lines: list[str], problem: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(line + "\n" for line in lines))
    with pytest.raises(InputError) as refused:
        Corpus(path)
    assert problem in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("c.jsonl.gz", gzip.compress(b"{}", mtime=0), 'line 1: "id" is missing'),
        ("c.jsonl", gzip.compress(b"{}", mtime=0), 'line 1: "id" is missing'),
        ("c.jsonl.bz2", bz2.compress(b"{}"), "bunzip2"),
        ("c.jsonl.xz", lzma.compress(b"{}"), "unxz"),
        ("c.zip", b"PK\x03\x04 and so on", "unzip"),
        ("c.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("c.parquet", b"PAR1\x15\x04 and so on", "cannot be read"),
        ("c.jsonl", '{"id": "1", "contents": "x"}\n'.encode("utf-16"), "save it in UTF-8"),
        ("c.jsonl", '{"id": "1", "contents": "\u00e9"}\n'.encode("latin-1"), "line 1: not JSON"),
        ("._c.jsonl", b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", "line 1: not JSON"),
    ],
)
def test_file_that_is_not_jsonl_is_refused_with_its_remedy(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        Corpus(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_what_stands_between_lines_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": 1, "contents": "a"}\n\x0c\n\ufeff\n{"id": 2, "contents": "b"}\n\x0b \n', encoding="utf-8")
    assert [document.contents for document in Corpus(path)] == ["a", "b"]


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no document"):
        Corpus(tmp_path)


def test_documents_with_equal_hashes_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offsets, "hash64", lambda text: len(text))
    corpus = Corpus(write(tmp_path / "c.jsonl", [{"id": i, "contents": f"text {i}"} for i in range(20)]))
    assert [corpus.row(str(i)) for i in range(20)] == list(range(20))
    with pytest.raises(InputError, match='no document with id "20"'):
        corpus.get("20")
    with pytest.raises(InputError, match='line 3: id "1" is a duplicate'):
        Corpus(write(tmp_path / "d.jsonl", [{"id": i, "contents": "x"} for i in (1, 2, 1, 2)]))


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


DAMAGES = {
    "cut": lambda table: table[:-8],
    "longer": lambda table: table + bytes(8),
    "no header": lambda table: b"{" + table,
    "empty": lambda _: b"",
    "zeros": lambda table: table[:4096] + bytes(len(table) - 4096),
    "swapped": lambda table: table[:4096] + table[4104:4112] + table[4096:4104] + table[4112:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
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


def test_a_pipe_in_the_table_s_place_is_not_waited_for(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", [{"id": "1", "contents": "a text"}])
    os.mkfifo(tmp_path / "c.jsonl.offsets")
    assert Corpus(path)[0].contents == "a text"
