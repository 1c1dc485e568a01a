"""Rows as people have them: files of many kinds, texts that are odd, labels that contradict each other."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import test_reranker as script
import train_reranker
from miniature import lines, queries, row
from utils.data.rows import fill_negatives, parse_example, pools_of_rows, read_examples, without
from utils.errors import InputError, RunError
from utils.files import read_jsonl
from utils.models.lengths import Lengths
from utils.schema import ContrastiveExample
from utils.training.job import prepare, trained_on
from utils.training.settings import REPORTERS, TrainingSettings

pytestmark = pytest.mark.usefixtures("one_thread")


def test_folder_is_read_whole_and_what_is_not_is_named(tmp_path: Path) -> None:
    folder, told = tmp_path / "data", []
    (folder / "more" / "deep").mkdir(parents=True)
    (folder / "a.JSONL").write_bytes(lines(row("a")))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines(row("b"), row("c"))))
    (folder / "more" / "deep" / "d.json").write_bytes(lines(row("d")))
    for hidden in ("._a.JSONL", ".DS_Store", ".a.jsonl.swp", "more/._d.json"):
        (folder / hidden).write_bytes(b"\x00\x05\x16\x07")
    assert queries(folder, told) == ["a", "b", "c", "d"]
    assert told == []
    for other in ("e.docx", "f.arrow", "g.txt", "h.jsonl.xz", "i.jsonl~"):
        (folder / "more" / other).write_bytes(b"?")
    assert queries(folder, told) == ["a", "b", "c", "d"]
    assert len(told) == 1
    assert "not more/e.docx, more/f.arrow, more/g.txt and 2 more" in told[0]


def test_links_are_followed_once_and_dangling_ones_are_told(tmp_path: Path) -> None:
    folder, elsewhere, told = tmp_path / "data", tmp_path / "elsewhere", []
    folder.mkdir()
    elsewhere.mkdir()
    (elsewhere / "a.jsonl").write_bytes(lines(row("a")))
    (folder / "b.jsonl").write_bytes(lines(row("b")))
    (folder / "linked").symlink_to(elsewhere)
    (folder / "circle").symlink_to(folder)
    assert queries(folder, told) == ["b", "a"]
    assert told == []
    (folder / "c.jsonl").symlink_to(tmp_path / "removed.jsonl")
    with pytest.raises(InputError, match=r"c\.jsonl cannot be read: No such file"):
        queries(folder, told)


def test_subfolder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.jsonl").write_bytes(lines(row("a")))
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match="closed cannot be read: Permission denied"):
        queries(tmp_path, [])


def test_folder_without_data_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no row"):
        read_examples([tmp_path])


# --- scores


@pytest.mark.parametrize("key", ["pos_scores", "neg_scores"])
@pytest.mark.parametrize("score", ["NaN", "Infinity", "-Infinity", "true", '"0.5"', "null", "1e39", "1" + "0" * 400])
def test_score_that_is_no_finite_number_is_told(key: str, score: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    scores = {"pos_scores": "1", "neg_scores": "-2.5"} | {key: score}
    more = ", ".join(f'"{name}": [{value}]' for name, value in scores.items())
    path.write_text(
        '{"query": "a", "pos": ["b"], "neg": ["c"]}\n{"query": "a", "pos": ["b"], "neg": ["c"], ' + more + "}"
    )
    with pytest.raises(InputError, match=f'rows.jsonl, line 2: "{key}" must hold one number'):
        read_examples([path])


def test_scores_of_any_kind_of_number_are_read() -> None:
    example = parse_example(row("a", pos_scores=[3], neg_scores=[-0.5]), "")
    assert (example.pos_scores, example.neg_scores) == ([3], [-0.5])


# --- contradictions


def test_positive_among_the_negatives_is_left_out(tmp_path: Path) -> None:
    path, told = tmp_path / "rows.jsonl", []
    path.write_bytes(
        lines(
            row("a"),
            row("b", neg=["b  is so", "wrong", "\tb is so\n"], neg_scores=[1.0, 2.0, 3.0]),
            row("c", neg=["c is so"]),
            row("d", pos=["one", "two"], neg=["other"]),
            row("d", pos=["three"], neg=["two", "none"]),
        )
    )
    found = {(one.query, one.pos[0]): one for one in read_examples([path], warn=told.append)}
    assert [query for query, _ in found] == ["a", "b", "d", "d"]
    assert found["b", "b is so"][2:5] == (["wrong"], None, [2.0])
    assert found["d", "three"].neg == ["none"]
    assert len(told) == 1
    assert (
        f"3 of 5 rows have a text both as positive and as negative of the same query (first: {path}, line 2)" in told[0]
    )
    assert "and 1 rows without any other" in told[0]


def test_what_answers_a_query_in_any_row_fills_no_other_row_of_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        lines(
            row("q", pos=["a"], neg=["c"]),
            row("Q ", pos=["B\u0301"], neg=["A"]),  # loses its only negative
            row("other", pos=["x"], neg=["b\u0301"]),  # whose negative answers q
        )
    )
    rows = read_examples([path], warn=lambda _: None, drop=False)
    assert [one.neg for one in rows] == [["c"], [], ["b\u0301"]]
    for seed in range(20):
        first, second, _ = fill_negatives(rows, 2, random.Random(seed))
        assert sorted(first.neg) == sorted(second.neg) == ["c", "x"]
        (alone,) = fill_negatives(rows[:1], 1, random.Random(seed), known=rows)
        assert alone.neg == ["c"]
        known, _ = fill_negatives([rows[0], rows[2]], 2, random.Random(seed), known=rows)
        assert sorted(known.neg) == ["c", "x"]


def test_nothing_but_contradictions_is_told(tmp_path: Path, tiny_reranker: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(*(row(name, pos=["so"], neg=["so", "so "]) for name in "abc")))
    with pytest.raises(InputError, match=r"3 of 3 rows .* none has another negative.*line 1"):
        prepare(TrainingSettings(str(tiny_reranker), [str(path)]))


# --- odd texts, from the file to the report


ODD = [
    "half an emoji \ud83d",
    "nothing \x00 between",
    "a line\u2028or two\u2029",
    "\x85 next \x0b line \x1b[31m",
    "<b>&amp;",
    "\ufeff",
]


def test_odd_texts_are_trained_on_and_tested(
    tiny_reranker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "rows.jsonl"
    rows = [
        {"query": f"{text} {i}", "pos": [f"{text} {i} so"], "neg": [f"not {i} {text}"]} for i, text in enumerate(ODD)
    ]
    data.write_bytes(lines(*rows))
    folder = tmp_path / "out"
    argv = ["--model_path", str(tiny_reranker), "--train_data", str(data), "--output_dir", str(folder), "--epochs", "1"]
    argv += ["--train_group_size", "2", "--report_to", "none", "--num_gpus", "1", "--eval_data", str(data)]
    assert train_reranker.main(argv) == 0
    output, trec = tmp_path / "results.json", tmp_path / "trec"
    flags = ["--test_data", str(data), "--output_file", str(output), "--trec_dir", str(trec)]
    assert script.main(["--model_path", str(folder), *flags]) == 0
    assert json.loads(output.read_text(encoding="utf-8"))["queries"] == len(ODD)
    assert "was trained, or chosen, on 100.0% of the queries of" in caplog.text
    assert trained_on(folder / "unmixed", [one["query"] for _, one in read_jsonl(data)]) == 1.0
    assert "half an emoji \ufffd 0" in {one["query"] for _, one in read_jsonl(data)}
    assert "test_reranker.py" in capsys.readouterr().out
    assert len((trec / "model.run").read_text().splitlines()) == 2 * len(ODD)


def test_models_that_read_texts_of_other_lengths_are_told(
    tiny_reranker: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, short = tmp_path / "rows.jsonl", Path(shutil.copytree(tiny_reranker, tmp_path / "short"))
    data.write_bytes(lines(*map(row, "abc")))
    flags = ["--model_path", str(tiny_reranker), "--baseline_model", str(short), "--test_data", str(data)]
    flags += ["--output_file", str(tmp_path / "results.json")]
    assert script.main(flags) == 0
    assert "pairs of different lengths" not in caplog.text
    settings = json.loads((short / "tokenizer_config.json").read_text()) | Lengths(8, 16).tokenizer_settings()
    (short / "tokenizer_config.json").write_text(json.dumps(settings))
    assert script.main(flags) == 0
    assert f"pairs of different lengths ({tiny_reranker} 512, {short} 24 tokens)" in caplog.text
    caplog.clear()
    assert script.main([*flags, "--max_length", "24"]) == 0
    assert "pairs of different lengths" not in caplog.text


def test_scores_that_are_all_alike_are_told(
    tiny_reranker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import numpy as np

    class Flat:
        lengths = Lengths(8, 8)

        def score(self, pairs: list[tuple[str, str]], desc: str) -> Any:
            return np.array([float(query == "a" and "not" in passage) for query, passage in pairs])

    data = tmp_path / "rows.jsonl"
    data.write_bytes(lines(*map(row, "abc")))
    monkeypatch.setattr(script, "open_reranker", lambda *_, **__: Flat())
    flags = ["--test_data", str(data), "--output_file", str(tmp_path / "results.json")]
    assert script.main(["--model_path", str(tiny_reranker), *flags]) == 0
    assert "scores all passages alike in 2 of 3 pools" in caplog.text
    assert "flatters" not in caplog.text


# --- starts that fail


def test_failed_start_does_not_stand_in_the_way(tiny_reranker: Path, tmp_path: Path) -> None:
    data, folder = tmp_path / "rows.jsonl", tmp_path / "out"
    data.write_bytes(lines(*map(row, "abcd")))
    folder.mkdir()
    for left in ("training.json", "evaluation.json"):
        (folder / left).write_text("{}")
    (folder / "runs").mkdir()
    settings = TrainingSettings(str(tiny_reranker), [str(data)], output_dir=str(folder))
    assert prepare(settings).output == folder
    (folder / "model.safetensors").write_text("precious")
    with pytest.raises(InputError, match="is not empty"):
        prepare(settings)


@pytest.mark.parametrize(("count", "told"), [(1, True), (2, False)])
def test_training_of_nothing_but_warm_up_is_told(
    count: int, told: bool, tiny_reranker: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_bytes(lines(*(row(f"{i}") for i in range(count))))
    flags = ["--batch_size", "1", "--epochs", "1", "--negative_fill", "repeat", "--report_to", "none"]
    flags += ["--query_max_len", "8", "--passage_max_len", "8", "--num_gpus", "1"]
    folders = ["--model_path", str(tiny_reranker), "--train_data", str(data), "--output_dir", str(tmp_path / "out")]
    assert train_reranker.main([*folders, *flags]) == 0
    assert ("the only steps are warm-up" in caplog.text) == told


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range_is_told(seed: int) -> None:
    with pytest.raises(InputError, match="--seed must be from 0 to 4294967295"):
        prepare(TrainingSettings(seed=seed))


def test_wandb_without_a_key_is_told(
    tiny_reranker: Path, examples_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from utils.training import job

    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(job.importlib.util, "find_spec", lambda _: True)
    settings = TrainingSettings(
        str(tiny_reranker), [str(examples_file)], report_to="wandb", output_dir=str(tmp_path / "out")
    )
    with pytest.raises(InputError, match="wandb needs a key"):
        prepare(settings)
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 0123\n")
    assert prepare(settings)
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert prepare(settings)


def test_reporter_that_fails_is_told(
    tiny_reranker: Path, examples_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from utils.training import run

    error = type("CommError", (Exception,), {"__module__": "mlflow.errors"})

    def fail(job: object) -> Any:
        raise error("no such server\nfor 30 s")

    monkeypatch.setattr(run, "_fit", fail)
    monkeypatch.setitem(REPORTERS, "mlflow", None)
    settings = TrainingSettings(
        str(tiny_reranker), [str(examples_file)], report_to="mlflow", output_dir=str(tmp_path / "o")
    )
    with pytest.raises(RunError, match="--report_to mlflow failed: no such server"):
        run.run(prepare(settings))


def test_negatives_are_optional() -> None:
    assert parse_example({"query": "q", "pos": ["p"]}, "").neg == []
    assert parse_example({"query": "q", "pos": ["p"], "neg": None}, "").neg == []


def test_grades_are_read_follow_their_positives_and_make_pools() -> None:
    example = parse_example(row("a", pos=["one", "two", "three"], pos_grades=[3, 1, 2]), "")
    assert without(example, "one".__eq__).pos_grades == [1, 2]
    pools = pools_of_rows([example, example._replace(query="b", pos_grades=None)])
    assert [pool.grades.tolist() for pool in pools] == [[3, 1, 2, 0], [1, 1, 1, 0]]
    assert example.row()["pos_grades"] == [3, 1, 2]


def test_rows_of_a_query_are_one_pool() -> None:
    rows = [
        ContrastiveExample("Who?", ["a"], ["n", "m"]),
        ContrastiveExample("what?", ["x"], ["n"]),
        ContrastiveExample("who? ", ["b", "A"], ["N", "o"], pos_grades=[2, 3]),
    ]
    both, other = pools_of_rows(rows)
    assert (both.query, both.passages, both.grades.tolist()) == ("Who?", ["a", "b", "n", "m", "o"], [3, 2, 0, 0, 0])
    assert (other.query, other.passages, other.grades.tolist()) == ("what?", ["x", "n"], [1, 0])


def test_row_has_exactly_three_keys_without_scores() -> None:
    assert list(ContrastiveExample("q", ["p"], ["n"]).row()) == ["query", "pos", "neg"]
    assert ContrastiveExample("q", ["p"], [], [1.0], []).row()["pos_scores"] == [1.0]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"pos": ["p"], "neg": []}, '"query" must be a non-empty string'),
        ({"query": " ", "pos": ["p"]}, '"query" must be a non-empty string'),
        ({"query": "q", "pos": "p"}, '"pos" must be a list'),
        ({"query": "q", "pos": []}, '"pos" must hold at least one'),
        ({"query": "q", "pos": ["p"], "neg": [""]}, '"neg" must be a list of non-empty strings'),
        ({"query": "q", "pos": ["p"], "pos_scores": [1, 2]}, '"pos_scores" must hold one number'),
        ({"query": "q", "pos": ["p"], "pos_grades": [1, 2]}, '"pos_grades" must hold one whole number above 0'),
        ({"query": "q", "pos": ["p"], "pos_grades": [0]}, '"pos_grades" must hold one whole number above 0'),
        ({"query": "q", "pos": ["p"], "pos_grades": ["high"]}, '"pos_grades" must hold one whole number above 0'),
        ({"query": "q", "pos": ["p"], "pos_grades": [True]}, '"pos_grades" must hold one whole number above 0'),
    ],
)
def test_malformed_row_is_told_with_file_and_line(tmp_path: Path, row: dict, problem: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"query": "q", "pos": ["p"]}\n' + json.dumps(row) + "\n")
    with pytest.raises(InputError) as told:
        read_examples([path])
    assert f"{path}, line 2: " in str(told.value)
    assert problem in str(told.value)


def test_folder_of_files_is_read_in_order(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"query": name, "pos": ["p"]}) + "\n")
    assert [example.query for example in read_examples([tmp_path])] == ["a", "b"]


def test_fill_takes_other_rows_passages_and_never_the_own() -> None:
    rng = random.Random(0)
    examples = [ContrastiveExample(f"q{i}", [f"p{i}", "shared"], [f"n{i}"] * (i % 3)) for i in range(20)]
    filled = fill_negatives(examples, 3, rng)
    for before, after in zip(examples, filled, strict=True):
        assert len(after.neg) == 3
        assert after.neg[: len(before.neg)] == before.neg
        assert not set(after.neg) & set(before.pos)
        added = after.neg[len(before.neg) :]
        assert len(set(added)) == len(added)


def test_fill_needs_enough_passages() -> None:
    with pytest.raises(InputError, match="too few passages"):
        fill_negatives([ContrastiveExample("q", ["p"], [])], 3, random.Random(0))


def test_filled_negatives_are_no_positives_of_the_query() -> None:
    import random

    rows = [ContrastiveExample("q", [f"p{i}"], []) for i in range(5)] + [ContrastiveExample("r", ["n0", "n1"], [])]
    filled = fill_negatives(rows, 2, random.Random(0))
    assert all(set(one.neg) == {"n0", "n1"} for one in filled[:5])
    assert set(filled[5].neg) <= {f"p{i}" for i in range(5)}
