"""Damaged files: what hypothesis makes of a valid one, by its structure and byte by byte."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import yaml
from hypothesis import strategies as st

# Stand for what no JSON value of Python's can be; see `write`.
RAW = {
    "@deep": b"[" * 3000 + b"]" * 3000, "@unclosed": b"[" * 100_000, "@objects": b'{"a":' * 3000 + b"1" + b"}" * 3000,
    "@digits": b"9" * 5000, "@huge": b"1e999", "@nan": b"NaN", "@half": rb'"\ud83d"', "@zero": rb'"\u0000"',
}  # fmt: skip
VALUES: Sequence[Any] = (
    None, True, False, 0, -1, -(10**6), 0.5, 2**63, 2**64, -(2**63) - 1, 10**30, 1e308, 5e-324, "", " ", "nan", "1e999",
    "2024-01-01", "A", "valid", "\x1b[31mred\x1b[0m\x1b]0;title\x07", "two\nlines\r\u2028", "\u202eevil", "\0",
    "x" * 5000, "\ud83d", "é" * 50, [], {}, [[]], [{}], [None], {"": 0}, {"a": {"b": []}}, [1, 2, 3], ["a", "b"], *RAW,
)  # fmt: skip
DATES = (datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1, 12), b"bytes", {1: 2}, {None: 1}, {"x"})
TOKENS: Sequence[bytes] = (
    b"\0", b"\n", b"\r\n", b"\r", b" ", b"\t", b",", b":", b"{", b"}", b"[", b"]", b'"', b"\\", b"\\u", b"\\ud83d",
    b"null", b"-", b"e999", b"9" * 400, b"1e400", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1f\x8b", b"\xed\xa0\xbd",
    b"\xe2\x80\xa8", b"\x1b[2J", b"<think>", b"</think>", b"```", b"data: ", b"'", b"# ", b"- ", b"? ", b"&a ", b"*a",
    b"<<: *a", b"!!python/name:os.system ", b"!!binary ", b"!!set ", b"%YAML 9.9\n", b"---\n", b"...\n", b"| ", b"> ",
    b"${HOME}", b"${", b"2024-13-45", b"2024-01-01", b"0x", b"1_000", b"12:30:45", b".nan", b".inf", b"~", b"=",
    b"[" * 2000, b"{" * 2000, b"{a: " * 500,
)  # fmt: skip


@st.composite
def damaged(
    draw: st.DrawFn, files: Sequence[bytes], load: Callable[[bytes], Any], dump: Callable[[Any], bytes]
) -> bytes:
    """Draw one of ``files`` with a few of its values, or of its bytes, changed."""
    raw = draw(st.sampled_from(files))
    kind = draw(st.integers(0, 3))  # a quarter byte by byte, a quarter both
    if kind:
        value = load(raw)
        for _ in range(draw(st.integers(1, 3))):
            value = draw(_changed(value))
        raw = dump(value)
    for _ in range(draw(st.integers(1, 4)) if kind < 2 else 0):
        raw = _splice(draw, raw)
    return raw


def _splice(draw: st.DrawFn, raw: bytes) -> bytes:
    """Draw bytes with a span replaced by hostile ones, one flipped, a part repeated, moved or cut off."""
    start = draw(st.integers(0, len(raw)))
    end = min(len(raw), start + draw(st.integers(0, 30)))
    match draw(st.integers(0, 5)):
        case 0 | 1:
            return raw[:start] + draw(st.sampled_from(TOKENS)) + raw[end:]
        case 2:
            return raw[:start] + draw(st.binary(max_size=4)) + raw[start + 1 :]
        case 3:
            return raw[:end] + raw[start:end] * draw(st.integers(1, 50)) + raw[end:]
        case 4:
            return raw[:start] + raw[end:] + raw[start:end]
    return raw[:start]


@st.composite
def _changed(draw: st.DrawFn, value: Any) -> Any:
    """Draw the value with one of its parts replaced, removed, repeated, wrapped, renamed or moved."""
    places = list(_places(value, ()))
    place = draw(st.sampled_from(places))
    old = _at(value, place)
    other = draw(st.one_of(st.sampled_from(VALUES), st.sampled_from(places).map(lambda p: _at(value, p))))
    match draw(st.integers(0, 7)):
        case 0 | 1 | 2:
            return _put(value, place, lambda _: other)
        case 3:
            return _put(value, place, lambda _: [old])
        case 4:
            return _put(value, place, lambda _: {"a": old})
        case 5 if isinstance(old, dict) and old:
            key = draw(st.sampled_from(list(old)))
            return _put(value, place, lambda _: {k: v for k, v in old.items() if k != key})
        case 6 if isinstance(old, dict):
            name = other if isinstance(other, str) else json.dumps(other, default=str)
            return _put(value, place, lambda _: old | {name: other})
        case 7 if isinstance(old, list) and old:
            return _put(value, place, lambda _: [*old[1:], other, *old[:1]])
        case 5 | 6 | 7 if isinstance(old, str):
            return _put(value, place, lambda _: old[: len(old) // 2] + str(other) + old[len(old) // 2 :])
    return _put(value, place, lambda _: other)


def _places(value: Any, above: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield above
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, (*above, key))


def _at(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


def _put(value: Any, place: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    if not place:
        return change(value)
    copy = value.copy()
    copy[place[0]] = _put(value[place[0]], place[1:], change)
    return copy


def write(value: Any) -> bytes:
    """Return a value as JSON in which those of ``RAW`` stand for themselves."""
    raw = json.dumps(value, default=str).encode()
    for name, stands_for in RAW.items():
        raw = raw.replace(json.dumps(name).encode(), stands_for)
    return raw


def damaged_json(files: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Draw from files that each hold one JSON value."""
    return damaged(files, json.loads, write)


def damaged_jsonl(files: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Draw from files of one JSON value per line."""

    def dump(rows: Any) -> bytes:
        return b"".join(write(row) + b"\n" for row in rows) if isinstance(rows, list) else write(rows)

    return damaged(files, lambda raw: list(map(json.loads, raw.splitlines())), dump)


def damaged_yaml(files: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Draw from files of YAML, which also has dates, bytes, sets and keys that are no text."""

    def dump(value: Any) -> bytes:
        return yaml.safe_dump(value, allow_unicode=False).encode()

    dated = st.tuples(st.sampled_from(files), st.sampled_from(DATES), st.integers(0, 10**6)).map(
        lambda drawn: dump(_dated(yaml.safe_load(drawn[0]), *drawn[1:]))
    )
    return st.one_of(damaged(files, yaml.safe_load, dump), damaged(files, yaml.safe_load, write), dated)


def _dated(value: Any, date: Any, number: int) -> Any:
    places = list(_places(value, ()))
    return _put(value, places[number % len(places)], lambda _: date)
