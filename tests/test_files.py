"""Finding, reading and writing files."""

from __future__ import annotations

import codecs
import gzip
import json
import lzma
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow
import pytest

from miniature import lines, queries, row
from utils.config import DEFAULT_CONFIG
from utils.data.rows import read_examples
from utils.errors import InputError
from utils.files import SCRIPTS, check_output, find, loads, locked, open_new, replacing, write_jsonl


def test_output_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in (tmp_path, tmp_path / "file" / "a.json", tmp_path / "a.html"):
        with pytest.raises(InputError, match="output file"):
            check_output(name)
    assert check_output(tmp_path / "new" / "a.json") == tmp_path / "new" / "a.json"
    assert not (tmp_path / "new").exists()


def test_inputs_are_found_from_three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("./config_lib/demo_config.yaml") == DEFAULT_CONFIG
    assert find("../config_lib/demo_config.yaml") == DEFAULT_CONFIG
    (tmp_path / "config_lib").mkdir()
    own = tmp_path / "config_lib" / "demo_config.yaml"
    own.touch()
    assert find("config_lib/demo_config.yaml") == own
    assert find("config_lib/none.yaml") is None


def test_pipe_is_told_instead_of_being_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(InputError, match=r"pipe\.jsonl is not a regular file"):
        queries(tmp_path / "pipe.jsonl", [])


def zstd(data: bytes) -> bytes:
    return pyarrow.compress(data, codec="zstd", asbytes=True)


READABLE = {
    "a mark at the start": codecs.BOM_UTF8 + lines(row("a"), row("b")),
    "lines as Windows ends them": lines(row("a"), row("b")).replace(b"\n", b"\r\n"),
    "a mark on a line of its own": lines(row("a")) + codecs.BOM_UTF8 + b"\n" + codecs.BOM_UTF8 + lines(row("b")),
    "blank lines": b"\n" + lines(row("a")) + b"  \n" + lines(row("b")) + b"\n",
    "no end of the last line": lines(row("a"), row("b")).rstrip(),
    "compressed": gzip.compress(lines(row("a"), row("b"))),
    "other keys": lines(row("a", id=7, prompt=None), row("b", type="?")),
    "compressed with Zstandard": zstd(lines(row("a"), row("b"))),
    "array": b"[\n" + lines(row("a")) + b"," + lines(row("b")) + b"]",
    "null for no negative": lines(row("a", neg=None), row("b")),
}


@pytest.mark.parametrize("kind", READABLE)
def test_readable_file(kind: str, tmp_path: Path) -> None:
    path, told = tmp_path / "rows.jsonl", []
    path.write_bytes(READABLE[kind])
    assert queries(path, told) == ["a", "b"]
    assert told == []


UNREADABLE = {
    "UTF-16": (lines(row("a")).decode().encode("utf-16"), "is in UTF-16: save it in UTF-8"),
    "zip": (b"PK\x03\x04 and so on", "unpack it first (unzip rows.jsonl)"),
    "xz": (lzma.compress(lines(row("a"))), "unpack it first (unxz rows.jsonl)"),
    "compressed twice": (gzip.compress(gzip.compress(lines(row("a")))), "unpack it first (gunzip rows.jsonl)"),
    "broken Parquet": (b"PAR1\x15\x04 and so on", "cannot be read"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "open array": (b"[\n" + lines(row("a")), "row 2: not JSON"),
    "array of texts": (b'["a"]', "row 1: expected a JSON object, not str"),
    "indented": (json.dumps(row("a"), indent=2).encode(), "one JSON object per line"),
    "empty": (b"", "holds no row"),
    "blank": (b"\n \n", "holds no row"),
    "cut Zstandard": (zstd(lines(*map(row, "abcdefgh")))[:-9], "cannot be read"),
    "cut archive": (gzip.compress(lines(*map(row, "abcdefgh")))[:-20], "cannot be read"),
    "broken archive": (b"\x1f\x8b" + b"\x00" * 40, "cannot be read"),
    "Latin-1": ('{"query": "caf\xe9", "pos": ["p"]}'.encode("latin-1"), "line 1: not JSON"),
    "text as pos": (lines(row("a"), row("b", pos="b")), 'line 2: "pos" must be a list'),
    "empty text": (
        lines(row("a"), row("b", neg=["x", " "])),
        'line 2: "neg" must be a list of non-empty strings',
    ),
    "number": (lines(row("a"), row("b", neg=[3])), 'line 2: "neg" must be a list of non-empty strings'),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable_file_is_told(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    content, expected = UNREADABLE[kind]
    path.write_bytes(content)
    with pytest.raises(InputError) as told:
        read_examples([path])
    assert str(path) in str(told.value)
    assert expected in str(told.value)


def test_deep_nesting_is_refused_before_what_is_recursive_meets_it() -> None:
    assert loads("[" * 100 + "]" * 100)
    assert loads(json.dumps({"code": "[{(" * 5000}))
    assert len(loads(json.dumps([[]] * 5000))) == 5000
    for text in ("[" * 102 + "]" * 102, '{"a":' * 200 + "1" + "}" * 200, "[" * 100_000):
        with pytest.raises(ValueError, match="nested too deeply"):
            loads(text)


def test_a_temporary_file_follows_no_link(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_text("mine")
    link.symlink_to(victim)
    with pytest.raises(FileExistsError):
        open_new(link)
    names = set()
    for _ in range(2):
        with replacing(tmp_path / "out.json") as out:
            names.add(out.name if isinstance(out.name, str) else next(tmp_path.glob(".out.json.*.tmp")).name)
    assert len(names) == 2  # nobody can know the next
    assert victim.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out.json", "victim"]


def test_a_private_file_is_its_owner_s_alone(tmp_path: Path) -> None:
    for private, mode in ((True, 0o600), (False, 0o666 & ~umask())):
        write_jsonl(tmp_path / "rows.jsonl", [{}], private=private)
        assert (tmp_path / "rows.jsonl").stat().st_mode & 0o777 == mode


def umask() -> int:
    os.umask(mask := os.umask(0o077))
    return mask


def test_names_that_are_no_utf_8_are_written(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"model": os.fsdecode(b"mod\xe9l")}])
    assert loads((tmp_path / "a.jsonl").read_bytes()) == {"model": "mod\ufffdl"}


HOLD = """
import sys; from pathlib import Path; from utils.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(path: Path) -> subprocess.Popen[str]:
    """Start a process that locks an output until its standard input ends, and wait until it does."""
    command, pipe = [sys.executable, "-c", HOLD, str(path)], subprocess.PIPE
    holder = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(SCRIPTS)}, stdin=pipe, stdout=pipe, text=True
    )
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    return holder


def test_second_run_on_an_output_is_refused_until_the_first_has_died(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "out"
    with hold(path) as holder:
        for _ in range(2):  # being refused frees nothing
            with pytest.raises(InputError) as refused, locked(path):
                pass
            assert str(refused.value).startswith(f"another run (process {holder.pid}) is writing {path}: wait for it")
        with locked(path.with_name("other")):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with locked(path), pytest.raises(InputError, match=f"process {os.getpid()}"), locked(path):
        pass
    assert not list(path.parent.iterdir())  # nothing is left, not even by the killed run


def test_runs_that_wait_for_an_output_have_it_one_at_a_time(tmp_path: Path) -> None:
    path, told, inside, most = tmp_path / "out", [], [], []

    def work() -> None:
        for _ in range(20):
            with locked(path, told.append):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    with hold(path) as holder:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(told) < len(threads):
            time.sleep(0.01)
        holder.communicate("")
        for thread in threads:
            thread.join()
    assert most == [1] * 80
    assert f"another run (process {holder.pid}) is writing {path}: waiting for it" in told


def test_folder_that_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / ".out.lock"
    lock.symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_text("text")
    with pytest.raises(OSError, match=r"\.out\.lock"), locked(tmp_path / "out"):
        pass
    assert (tmp_path / "precious").read_text() == "text"
    lock.unlink()

    def read_only(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", read_only)
    with locked(tmp_path / "out"):
        assert not lock.exists()
