"""Figures of data sets: counts, lengths, scripts, and what a model would cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from auditing import write
from utils.data.audit import Gathered
from utils.data.figures import figures, percentiles, shares, token_figures
from utils.schema import ContrastiveExample


def test_figures_are_those_of_the_rows(tmp_path: Path) -> None:
    rows = [
        {"query": "a lake", "pos": ["four"], "neg": ["seven!!"]},
        {"query": "озеро", "pos": ["four", "Four"], "neg": []},
        {"query": "a lake", "pos": ["x" * 100], "neg": ["four"]},
    ]
    gathered = Gathered(pytest.fail, near=False)
    gathered.read(write(tmp_path / "a.jsonl", rows))
    found = figures(gathered)
    assert (found["rows"], found["different queries"], found["different passages"]) == (3, 2, 3)
    assert (found["positives per row"], found["negatives per row"]) == (1.33, 0.67)
    assert found["characters, 5/25/50/75/95/100%"]["passage"]["100"] == 100
    assert found["scripts"]["query"] == {"LATIN": 0.6667, "CYRILLIC": 0.3333}
    assert [one["place"].rpartition(" ")[2] for one in found["longest rows"]] == ["3", "1", "2"]


def test_figures_of_nothing() -> None:
    assert figures(Gathered(pytest.fail))["rows"] == 0
    assert shares({}) == {}
    assert percentiles([3])["50"] == 3


def test_what_is_cut_is_counted(tiny_reranker: Path) -> None:
    rows = [
        ContrastiveExample("lake " * 4, ["salt " * 5], ["salt " * 30]),
        ContrastiveExample("lake " * 9, ["salt"], []),
    ]
    found = token_figures(rows, tiny_reranker, 8, 13)
    assert found["lengths"] == {"query": 8, "pair": 21}
    assert found["tokens, 5/25/50/75/95/100%"]["query"]["100"] == 9
    assert (found["queries cut"], found["pairs cut"]) == (0.5, 0.3333)
