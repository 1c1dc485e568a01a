"""Scores written into rows, and what a student learns from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from miniature import LengthReranker
from tools import score_examples
from utils import cli
from utils.data.rows import read_examples
from utils.data.scores import score_rows
from utils.errors import EXIT_UNUSABLE_INPUT, InputError
from utils.schema import ContrastiveExample
from utils.scoring import open_reranker

pytestmark = pytest.mark.usefixtures("one_thread")


def test_each_passage_gets_its_own_score() -> None:
    rows = [ContrastiveExample("salt", ["salt salt", "salt"], ["x"]), ContrastiveExample("ice", ["ice"], [])]
    scored = score_rows(rows, LengthReranker(1))
    assert [row.pos_scores for row in scored] == [[1.991, 0.996], [0.997]]
    assert [row.neg_scores for row in scored] == [[-0.001], []]


def test_scored_rows_are_a_new_file(examples_file: Path, tiny_reranker: Path, tmp_path: Path) -> None:
    argv = ["--train_data", str(examples_file), "--model_path", str(tiny_reranker)]
    score_examples.main([*argv, "--output_file", str(tmp_path / "scored.jsonl")])
    before, after = read_examples([examples_file]), read_examples([tmp_path / "scored.jsonl"])
    assert [row._replace(pos_scores=None, neg_scores=None) for row in after] == before
    pairs = [(row.query, passage) for row in before for passage in row.passages]
    expected = open_reranker(tiny_reranker).score(pairs).tolist()
    assert [s for row in after for s in (*(row.pos_scores or ()), *(row.neg_scores or ()))] == pytest.approx(expected)
    with pytest.raises(InputError, match=r"train\.jsonl already exists: choose another --output_file"):
        score_examples.main([*argv, "--output_file", str(examples_file)])


def test_bad_rows_are_named_by_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.jsonl").write_text('{"query": "q", "pos": ["p"]}\n{"query": "q", "pos": "p"}\n')
    argv = ["--train_data", str(tmp_path / "bad.jsonl"), "--output_file", str(tmp_path / "out.jsonl")]
    with pytest.raises(SystemExit) as stop:
        cli.run(score_examples.main, argv)
    assert stop.value.code == EXIT_UNUSABLE_INPUT
    assert 'bad.jsonl, line 2: "pos" must be a list' in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
