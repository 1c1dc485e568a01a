"""Data sets without a fault, and the faults that tests plant into them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

WORDS = [f"word{i}" for i in range(2000)]
Row = dict[str, Any]


def passage(rng: random.Random, sentences: int = 6) -> str:
    return " ".join(f"{' '.join(rng.choices(WORDS, k=12))}." for _ in range(sentences))


def changed(text: str, rng: random.Random) -> str:
    """Return a passage with one of its sentences replaced."""
    sentences = text.split(". ")
    sentences[rng.randrange(len(sentences) - 1)] = passage(rng, 1).rstrip(".")
    return ". ".join(sentences)


def clean_rows(rng: random.Random, count: int) -> list[Row]:
    return [
        {
            "query": f"what of {rng.choice(WORDS)} {i} {rng.random()}",
            "pos": [passage(rng)],
            "neg": [passage(rng) for _ in "abc"],
        }
        for i in range(count)
    ]  # fmt: skip


def write(path: Path, rows: list[Row | str]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def plant(rng: random.Random, train: list[Row], test: list[Row]) -> tuple[list[Row | str], dict[str, list[int]]]:
    """Return the training rows with a fault of each kind behind them, and the lines of each."""
    rows: list[Row | str] = list(train)
    lines: dict[str, list[int]] = {}

    def add(kind: str, row: Row | str) -> None:
        rows.append(row)
        lines.setdefault(kind, []).append(len(rows))

    def new(**more: Any) -> Row:
        return clean_rows(rng, 1)[0] | more

    add("malformed", '{"query": "cut')
    add("malformed", new(pos="text"))
    add("malformed", new(query=" "))
    add("malformed", new(pos_grades=["high"]))
    add("malformed", new(pos_scores=[float("nan")], neg_scores=[0.0, 0.0, 0.0]))
    add(
        "contradiction", new(query="a town", pos=[text := passage(rng)], neg=[text.upper(), passage(rng), passage(rng)])
    )
    add("contradiction", new(query="A  town", neg=[passage(rng), passage(rng), f" {text}"]))  # of another row
    add("near-contradiction", (row := new()) | {"neg": [*row["neg"], changed(row["pos"][0], rng)]})
    first, second = train[4], train[9]
    add("duplicate", first | {"neg": first["neg"][::-1], "query": first["query"].upper()})
    add("near-duplicate", second | {"pos": [changed(second["pos"][0], rng)]})
    add("repeated passage", (row := new()) | {"neg": [*row["neg"], row["neg"][1]]})
    add("leak", new(pos=[test[2]["neg"][0]]))
    add("leak", new(query=test[3]["query"]))
    add("leak", (row := new()) | {"neg": [test[4]["pos"][0], *row["neg"][1:]]})
    add("near-leak", new(pos=[changed(test[5]["pos"][0], rng)]))
    add("no negative", new(neg=[]))
    add("few negatives", new(neg=[passage(rng)]))
    add("damaged text", new(pos=[f"caf\ufffd {passage(rng)}"]))
    add("damaged text", json.dumps(new()).replace("what", "half \\ud83d", 1))
    return rows, lines
