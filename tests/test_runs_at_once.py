"""Runs that are started at once: of those onto one output all but one are refused; no others disturb each other."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kills import run_script
from miniature import write_beir
from trainings import QUICK
from utils import cli
from utils.files import locked, read_jsonl

Command = tuple[str, list[str]]
MODULES = ["torch", "transformers.models.bert.modeling_bert", "transformers.models.auto.modeling_auto", "faiss"]
NAMED = "--output_file"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder: what is written goes where the working directory says."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.fixture
def at_once(tmp_path: Path) -> Iterator[Callable[..., list[int]]]:
    """Start scripts as processes of their own and return their exit codes; what they print is in ``<number>.log``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(MODULES)
    started: list[Any] = []

    def start(*commands: Command) -> list[int]:
        for number, (script, argv) in enumerate(commands):
            arguments = (script, argv, {"HF_HUB_OFFLINE": "1"}, str(tmp_path / f"{number}.log"))
            started.append(context.Process(target=run_script, args=arguments))
            started[-1].start()
        for process in started:
            process.join()
        return [process.exitcode for process in started]

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def commands(
    config_file: Path, examples_file: Path, tiny_reranker: Path, tmp_path: Path
) -> dict[str, Callable[..., Command]]:
    """Each script with flags that suit the miniature corpus and models, and those that a test adds."""
    beir = write_beir(tmp_path / "towns")
    config = ["--config", str(config_file)]
    sources, model = [*config, "--min_length", "0"], ["--model_path", str(tiny_reranker)]
    candidates = ["--max_doc_candidates", "5", "--num_examples", "16", "--test_fraction", "0.1"]
    flags = {
        "contrastive_data_generator": [*sources, *candidates],
        "rerank_ablation_test": [*sources, "--num", "4", "--candidates", "3", "--single", "diverse"],
        "test_reranker": [*model, "--test_data", str(examples_file)],
        "train_reranker": [*model, "--train_data", str(examples_file), "--epochs", "1", *QUICK],
        "tools.sample_doc_ids": [*sources, "--num", "5"],
        "tools.distil_base": config,
        "tools.compare_runs": ["a.json", "b.json"],
    }
    made = {
        name.rpartition(".")[2].partition("_")[0]: lambda *more, name=name: (name, [*flags[name], *more])
        for name in flags
    }
    on_beir = [*model, *config, "--test_data", str(beir), "--depth", "10"]
    return made | {"retrieve": lambda *more: ("test_reranker", [*on_beir, *more])}


HELD = {
    "examples": (lambda do: do["contrastive"](NAMED, "e.jsonl"), "data/e.jsonl"),
    "split": (lambda do: do["contrastive"](NAMED, "e.jsonl"), "data/train_data.jsonl"),
    "provenance": (lambda do: do["contrastive"](NAMED, "e.jsonl"), "data/e.provenance.jsonl"),
    "ablation": (lambda do: do["rerank"](NAMED, "a.json"), "a.json"),
    "test": (lambda do: do["test"](NAMED, "r.json"), "r.json"),
    "runs of a test": (lambda do: do["test"](NAMED, "r.json", "--trec_dir", "trec"), "trec"),
    "comparison": (lambda do: do["compare"](NAMED, "c.json"), "c.json"),
    "ids": (lambda do: do["sample"]("--output", "ids.txt"), "ids.txt"),
    "base": (lambda do: do["distil"]("--output_dir", "base"), "base"),
}


@pytest.mark.parametrize("kind", HELD)
def test_output_that_another_run_writes_is_refused(
    kind: str, commands: dict[str, Callable[..., Command]], capfd: pytest.CaptureFixture[str]
) -> None:
    command, output = HELD[kind]
    script, argv = command(commands)
    with locked(Path(output)), pytest.raises(SystemExit) as ended:
        cli.run(importlib.import_module(script).main, [*argv, "--quiet"])
    assert ended.value.code == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert f"another run (process {os.getpid()}) is writing {output}: wait for it, or name another output" in line
    assert not Path(output).exists()


def generated(folder: str) -> list[bytes]:
    names = ("e.jsonl", "e.provenance.jsonl", "train_data.jsonl", "test_data.jsonl")
    return [Path(folder, name).read_bytes() for name in names]


def test_two_generators_with_one_output(
    at_once: Callable[..., list[int]], commands: dict[str, Callable[..., Command]], tmp_path: Path
) -> None:
    generate = commands["contrastive"](NAMED, "e.jsonl")
    codes = at_once(generate, generate)
    assert sorted(codes) == [0, 2]
    (told,) = [line for line in (tmp_path / f"{codes.index(2)}.log").read_text().splitlines() if "error" in line]
    assert "is writing data/e.jsonl" in told or "e.jsonl already exists" in told
    assert all(generated("data"))


def test_two_generators_with_one_folder(
    at_once: Callable[..., list[int]], commands: dict[str, Callable[..., Command]]
) -> None:
    """They may make different examples, but the folder has one split."""
    codes = at_once(*(commands["contrastive"](NAMED, f"{name}.jsonl") for name in "ab"))
    assert sorted(codes) == [0, 2]
    winner, loser = "ab"[codes.index(0)], "ab"[codes.index(2)]
    assert Path(f"data/{winner}.jsonl").read_bytes()
    assert not Path(f"data/{loser}.jsonl").exists()


def test_five_ablations_write_five_files(
    at_once: Callable[..., list[int]], commands: dict[str, Callable[..., Command]]
) -> None:
    """Over an index and an offset index that none of them finds, with names that all would choose."""
    assert at_once(*[commands["rerank"]()] * 5) == [0] * 5
    results = [json.loads(path.read_text()) for path in Path("ablation_results").glob("*.json")]
    assert len(results) == 5
    assert all(result["sources"] == results[0]["sources"] != [] for result in results)
    assert len(list(Path("ablation_results").glob("*.html"))) == 5
    assert not list(Path("ablation_results").glob("*journal*"))
    assert not list(Path("ablation_results").glob(".*"))


PAIRS = {
    "two generators": lambda do: [do["contrastive"]("--output_dir", out, NAMED, "e.jsonl") for out in "ab"],
    "generator and ablation": lambda do: [do["contrastive"](NAMED, "e.jsonl"), do["rerank"](NAMED, "a.json")],
    "ablation and test": lambda do: [do["rerank"](NAMED, "a.json"), do["test"](NAMED, "r.json")],
    "two tests": lambda do: [do["test"](NAMED, f"{name}.json") for name in "ab"],
    "two tests over one new index": lambda do: [do["retrieve"](NAMED, f"{name}.json") for name in "ab"],
    "training and test": lambda do: [do["train"]("--output_dir", "model"), do["test"](NAMED, "r.json")],
    "training and generator": lambda do: [do["train"]("--output_dir", "model"), do["contrastive"](NAMED, "e.jsonl")],
    "two samples of a new corpus": lambda do: [do["sample"]("--output", f"{name}.txt") for name in "ab"],
    "sample and generator": lambda do: [do["sample"]("--output", "a.txt"), do["contrastive"](NAMED, "e.jsonl")],
}


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS)
def test_pair_with_outputs_of_their_own(
    pair: str, at_once: Callable[..., list[int]], commands: dict[str, Callable[..., Command]], tmp_path: Path
) -> None:
    assert at_once(*PAIRS[pair](commands)) == [0, 0], (tmp_path / "0.log").read_text() + (
        tmp_path / "1.log"
    ).read_text()
    if pair == "two generators":
        assert generated("a") == generated("b")
        assert all(generated("a"))
    for name in "ab":
        if Path(f"{name}.txt").exists():
            assert Path(f"{name}.txt").read_text() == Path("a.txt").read_text()
    results = [json.loads(path.read_text()) for path in Path().glob("[abr].json")]
    assert len(results) == sum(argv[-1].endswith(".json") for _, argv in PAIRS[pair](commands))
    if pair.startswith("two tests"):
        assert results[0]["metrics"] == results[1]["metrics"]
    assert all(list(read_jsonl(path)) for path in Path().glob("data/*data.jsonl"))
    assert not [path for path in tmp_path.rglob(".*") if path.name.endswith((".lock", ".tmp"))]
