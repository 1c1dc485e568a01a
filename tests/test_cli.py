"""Every script's main, from the command line's view: what it writes, prints and refuses."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from miniature import save_tiny_bert, write_beir, write_run
from trainings import write_rows
from utils import __version__, cli
from utils.corpus.documents import Corpus
from utils.evaluation.results import RerankerTestResult
from utils.files import SCRIPTS
from utils.schema import Outcome, Verdict

NAMES = ["contrastive_data_generator", "train_reranker", "test_reranker", "rerank_ablation_test"]
TOOLS = [
    "tools.check_data",
    "tools.compare_runs",
    "tools.distil_base",
    "tools.examples_from_ablation",
    "tools.export_reranker",
    "tools.mine_negatives",
    "tools.prepare_demo",
    "tools.sample_doc_ids",
    "tools.score_examples",
    "tools.verify_served",
]
GENERATE = ["--min_length", "0", "--max_doc_candidates", "5", "--num_examples", "16"]


def run(script: str, *argv: object) -> int:
    """Call a script's main as its ``__main__`` does, and return the exit code."""
    with pytest.raises(SystemExit) as ended:
        cli.run(importlib.import_module(script).main, [str(arg) for arg in argv])
    return int(ended.value.code or 0)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder: what is written goes where the working directory says."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.mark.parametrize("script", NAMES + TOOLS)
def test_help_answers_without_heavy_imports_and_names_each_default(script: str) -> None:
    heavy = "import sys; print({'torch', 'transformers', 'FlagEmbedding', 'faiss', 'openai'} & set(sys.modules))"
    code = f"import {script} as script, sys\ntry: script.main(['--help'])\nexcept SystemExit: pass\n{heavy}"
    environment = os.environ | {"COLUMNS": "200", "PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n"), "a heavy import"
    descriptions = done.stdout.split("options:")[1].split("\n  -")[2:]
    assert descriptions
    for description in descriptions:
        assert "default" in description or description.startswith("-version"), description


def test_letters_that_a_terminal_does_not_know_are_escaped() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, str(SCRIPTS / "rerank_ablation_test.py"), "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "\\u03bb1" in done.stdout


@pytest.mark.parametrize("script", NAMES + TOOLS)
def test_each_script_has_a_version(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(script, "--version") == 0
    assert capsys.readouterr().out == f"rerank-forge {__version__}\n"


def test_a_log_file_has_the_command_and_where_an_error_arose(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sample_doc_ids.py", "--log_file", "logs/run.log"])
    flags = ["--config", "absent.yaml", "--log_file", "logs/run.log"]
    assert run("tools.sample_doc_ids", "--quiet", *flags) == 2
    assert "Traceback" not in capsys.readouterr().err
    logged = Path("logs/run.log").read_text()
    assert f"DEBUG rerank-forge {__version__}: python sample_doc_ids.py --log_file logs/run.log\n" in logged
    assert "ended with exit code 2: " in logged
    assert "Traceback" in logged
    assert run("tools.sample_doc_ids", "--verbose", *flags) == 2
    assert "Traceback" in capsys.readouterr().err
    assert run("tools.sample_doc_ids", "--log_file", ".") == 2


def generate(config: Path, out: Path, *more: object) -> int:
    return run("contrastive_data_generator", "--config", config, "--output_dir", out, *GENERATE, *more)


def test_from_documents_to_a_table(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole path on the miniature corpus: generate, train, test, ablate."""
    data = Path("data")
    assert generate(config_file, data, "--test_fraction", "0.1") == 0
    rows = [json.loads(line) for line in (data / "train_data.jsonl").read_text().splitlines()]
    assert rows
    assert all(list(row) == ["query", "pos", "neg"] for row in rows)
    assert "next: python train_reranker.py" in capsys.readouterr().out

    base = yaml.safe_load(config_file.read_text())["reranker_path"]
    train = ["--model_path", base, "--train_data", data / "train_data.jsonl", "--output_dir", "model", "--epochs", "1"]
    train += ["--train_group_size", "2"]
    assert run("train_reranker", *train) == 0

    test = ["--model_path", "model", "--baseline_model", base, "--test_data", data / "test_data.jsonl"]
    assert run("test_reranker", *test, "--output_file", "results.json") == 0
    results = json.loads(Path("results.json").read_text())
    assert [row["metric"] for row in results["metrics"]][:2] == ["MRR", "nDCG@5"]
    orders = {"model", "baseline", "first stage", "model + first stage"}
    assert all(orders == set(row["values"]) and 0 < row["random"] <= 1 for row in results["metrics"])

    capsys.readouterr()
    ablate = ["--config", config_file, "--num", "6", "--candidates", "4", "--min_length", "0"]
    outputs = ["--ft_model", "model", "--output_file", "ablation.json"]
    assert run("rerank_ablation_test", *ablate, *outputs, "--exclude_data", data / "train_data.jsonl") == 0
    ablation = json.loads(Path("ablation.json").read_text())
    arms = ["standard", "diverse", "zs", "diverse_zs", "diverse_ft"]
    assert [row["arm"] for row in ablation["table"]] == arms
    assert ablation["sources"]
    trained = {row["query"] for row in rows}
    for source in ablation["sources"]:
        assert source["query"] not in trained
        for arm in arms:
            trial = source["arms"][arm]
            assert trial["attempts"] == len(trial["verdicts"]) <= len(trial["retrieved"]) == 4
            assert source["source"] not in trial["retrieved"]
            assert trial["success"] == (trial["verdicts"][-1]["outcome"] == "usable")
    printed = capsys.readouterr().out
    assert all(arm in printed for arm in arms)
    assert "success rate" in printed


def test_data_twice_is_the_same_to_the_byte_and_has_no_leak(config_file: Path) -> None:
    for folder in ("one", "two"):
        assert generate(config_file, Path(folder), "--test_fraction", "0.1", "--output_file", "e.jsonl") == 0
    for name in ("train_data.jsonl", "test_data.jsonl", "test_data_sample.jsonl", "e.jsonl", "e.provenance.jsonl"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()

    lines = [json.loads(line) for line in Path("one/e.provenance.jsonl").read_text().splitlines()[1:]]
    origin = {row["entity"]["query"]: row for row in lines if row["entity"]}
    corpus_path = yaml.safe_load(config_file.read_text())["corpus_path"]
    text_of = {document.id: document.text for document in Corpus(Path(corpus_path))}
    sides = []
    for name in ("train_data.jsonl", "test_data.jsonl"):
        rows = [json.loads(line) for line in Path("one", name).read_text().splitlines()]
        assert rows
        texts = {text for row in rows for text in (*row["pos"], *row["neg"])}
        texts |= {text_of[origin[row["query"]]["source"]] for row in rows}
        sides.append((texts, {origin[row["query"]]["entity"]["name"].casefold() for row in rows}))
    assert not sides[0][0] & sides[1][0]
    assert not sides[0][1] & sides[1][1]


def test_missing_fine_tuned_model_leaves_its_arm_out(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ablate = ["--config", config_file, "--num", "3", "--candidates", "3", "--min_length", "0", "--ft_model", "absent"]
    assert run("rerank_ablation_test", *ablate, "--output_file", "a.json") == 0
    assert "left out: absent not found" in capsys.readouterr().out
    assert "diverse_ft" in json.loads(Path("a.json").read_text())["left_out"]
    assert run("rerank_ablation_test", *ablate, "--output_file", "b.json", "--single", "diverse_ft") == 2
    assert not Path("b.json").exists()
    assert run("rerank_ablation_test", *ablate, "--output_file", "c.json", "--single", "diverse") == 0
    assert [row["arm"] for row in json.loads(Path("c.json").read_text())["table"]] == ["diverse"]


ABLATE = ["--num", "4", "--candidates", "3", "--min_length", "0"]


@pytest.mark.usefixtures("second_documents")
def test_verdicts_of_an_ablation_become_examples(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ablate = ["rerank_ablation_test", "--config", config_file, "--num", "24", "--candidates", "8", *ABLATE[4:]]
    assert run(*ablate, "--output_file", "one.json") == 0
    tool = ["tools.examples_from_ablation", "one.json", "--config", config_file, "--output_file"]
    assert run(*tool, "more.jsonl") == 0
    rows = [json.loads(line) for line in Path("more.jsonl").read_text().splitlines()]
    judged = {one["query"]: one for one in json.loads(Path("one.json").read_text())["sources"]}
    assert rows
    for row in rows:
        trials = judged[row["query"]]["arms"].values()
        said = {
            i: verdict["outcome"]
            for one in trials
            for i, verdict in zip(one["retrieved"], one["verdicts"], strict=False)
        }
        texts = {Corpus(config_file.parent / "corpus.jsonl").get(i).text: outcome for i, outcome in said.items()}
        assert {texts[one] for one in row["pos"]} == {"usable"}
        assert {texts[one] for one in row["neg"]} == {"unusable"}
    header, *lines = map(json.loads, Path("more.provenance.jsonl").read_text().splitlines())
    assert header["settings"]["ablation"] == "one.json"
    used = {line["source"] for line in lines}
    assert len(used) == len(rows)
    assert run(*ablate, "--exclude_data", "more.provenance.jsonl", "--output_file", "two.json") == 0
    assert not used & {one["source"] for one in json.loads(Path("two.json").read_text())["sources"]}
    capsys.readouterr()
    assert run(*tool, "none.jsonl", "--exclude_data", "more.jsonl") == 1
    assert f"{len(used)} are excluded" in capsys.readouterr().err
    assert run(*tool, "more.jsonl") == 2  # is there already


def test_runs_side_by_side(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, more in (("one", []), ("two", ["--lambda1", "0.3", "--sweep_lambdas", "1,0,0", "0.5,0.25,0.25"])):
        outputs = ["--output_file", f"{name}.json"]
        assert (
            run("rerank_ablation_test", "--config", config_file, *ABLATE, "--single", "diverse", *outputs, *more) == 0
        )
        assert Path(f"{name}.html").exists()
        assert Path(f"{name}_plots/within_budget.png").stat().st_size > 1000
    assert len(json.loads(Path("two.json").read_text())["sweep"]) == 2
    capsys.readouterr()
    assert run("tools.compare_runs", "one.json", "two.json", "--output_file", "both.json") == 0
    printed = capsys.readouterr().out
    assert "4 sources that all runs share; 0 of them with different queries" in printed
    assert "lambda1: 0.85 in one" in printed
    (row,) = json.loads(Path("both.json").read_text())["comparisons"]
    assert (row["arm"], row["baseline"], row["sources"]) == ("two: diverse", "one: diverse", 4)
    assert "two: diverse" in Path("both.html").read_text()
    assert run("tools.compare_runs", "one.json") == run("tools.compare_runs", "one.json", "none.json") == 2


def test_run_without_an_answer_leaves_its_report_and_fails(
    config_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def judge(*_: object) -> Verdict:
        return Verdict(Outcome.ERROR, "no answer")

    monkeypatch.setattr("utils.teachers.offline.OfflineTeacher.judge", judge)
    outputs = ["--single", "diverse", "--output_file", "a.json"]
    assert run("rerank_ablation_test", "--config", config_file, *ABLATE, *outputs) == 1
    printed = capsys.readouterr()
    assert "No conclusion: no source completed (4 failed with an error)." in printed.out
    assert "no arm completed on any of 4 sources" in printed.err
    assert "No conclusion" in Path("a.html").read_text()


def test_several_baselines_and_trec_files(examples_file: Path, tiny_reranker: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_reranker, tmp_path / "other")
    rows = [json.loads(line) for line in examples_file.read_text().splitlines()]
    data = write_rows(tmp_path / "rows.jsonl", [row | {"query": f"{i} {row['query']}"} for i, row in enumerate(rows)])
    test = ["--model_path", tiny_reranker, "--test_data", data, "--trec_dir", "trec", "--output_file", "r.json"]
    baselines = ["--baseline_model", other, "--baseline_model", tiny_reranker]
    assert run("test_reranker", *test, *baselines, "--fail_on_regression") == 3  # BM25 ranks all of them right
    result = json.loads(Path("r.json").read_text())
    assert {row["baseline"] for row in result["comparisons"]} == {"baseline", "baseline_2", "first stage"}
    same = [row for row in result["comparisons"] if row["baseline"] != "first stage"]
    assert all((row["difference"], row["p_corrected"]) == (0, 1) for row in same)
    assert {row["kind"] for row in result["slices"]} == {"passages in the pool", "words of the positive"}
    assert all(
        sum(r["queries"] for r in result["slices"] if r["kind"] == row["kind"]) == 24 for row in result["slices"]
    )
    assert 0 <= result["separation"]["model"]["auc"] <= 1
    files = sorted(path.name for path in Path("trec").iterdir())
    runs = ["baseline.run", "baseline_2.run", "first-stage.run", "model-first-stage.run", "model.run"]
    assert files == [*runs, "qrels.txt"]
    assert "MRR" in Path("r.html").read_text()


def test_another_test_is_not_replaced_unless_named(
    examples_file: Path, tiny_reranker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(tiny_reranker, tmp_path / "other")
    test = ["--test_data", examples_file, "--model_path"]
    assert run("test_reranker", *test, tiny_reranker) == 0
    written = Path("finetune_results.json").read_bytes()
    assert run("test_reranker", *test, other) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: finetune_results.json holds the test of {tiny_reranker} on {examples_file}: name another "
        "--output_file, or this one to replace it"
    )
    assert Path("finetune_results.json").read_bytes() == written
    assert run("test_reranker", *test, f"{tiny_reranker}/.") == 0
    assert run("test_reranker", *test, other, "--output_file", "finetune_results.json") == 0
    assert json.loads(Path("finetune_results.json").read_text())["settings"]["model"] == str(other)


@pytest.mark.parametrize("named", [True, False], ids=["run", "retriever"])
def test_beir_folder_is_tested_on(named: bool, tiny_reranker: Path, config_file: Path, tmp_path: Path) -> None:
    folder, run_file = write_beir(tmp_path / "towns"), write_run(tmp_path / "first.trec")
    first = ["--run", run_file] if named else ["--config", config_file, "--depth", "10"]
    test = ["--model_path", tiny_reranker, "--test_data", folder, *first, "--output_file", "r.json"]
    assert run("test_reranker", *test, "--trec_dir", "trec") == 0
    result = RerankerTestResult.from_json(json.loads(Path("r.json").read_text()))
    assert (result.main_metric, result.queries, result.first_stage) == ("nDCG@10", 8, "first.trec" if named else "tiny")
    assert list(result.metrics[0].values) == [
        "model",
        "model + first stage",
        "first stage",
        "BM25",
        "first stage + BM25",
    ]
    (folder / "qrels.trec").write_text(
        "".join(f"{q} 0 {d} {grade}\n" for q, d, grade in (
            line.split() for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]
        ))
    )  # fmt: skip
    for order, name in (("model", "model"), ("model + first stage", "model-first-stage"), ("BM25", "BM25")):
        command = [sys.executable, "-m", "ir_measures", "--places", "9", folder / "qrels.trec", f"trec/{name}.run"]
        done = subprocess.run([*command, "nDCG@10"], capture_output=True, text=True, check=True)
        assert float(done.stdout.split("\t")[1]) == pytest.approx(result.value(order), abs=1e-8)


def test_served_folder_is_the_trained_one_or_not(
    examples_file: Path, still_model: Path, tiny_reranker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verify = ["--model_path", tiny_reranker, "--test_data", examples_file]
    assert run("tools.verify_served", *verify, "--folder", still_model) == 0
    assert "It is served faithfully" in capsys.readouterr().out
    other = save_tiny_bert(tmp_path / "other", head=True, seed=1)
    assert run("tools.verify_served", *verify, "--folder", other, "--output_file", "served.json") == 3
    assert "It is not served faithfully. Probable cause: " in capsys.readouterr().out
    result = json.loads(Path("served.json").read_text())
    assert (result["faithful"], result["queries"], result["pairs"]) == (False, 8, 96)
    assert run("tools.verify_served", *verify, "--url", "http://127.0.0.1:9") == 1
    assert run("tools.verify_served", *verify) == run("tools.verify_served", *verify, "--folder", "none") == 2
    assert run("tools.verify_served", *verify, "--url", "http://127.0.0.1:9", "--request_fields", "[]") == 2


def test_sampled_ids_are_the_sources(config_file: Path, corpus_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    sample = ["--config", config_file, "--num", "5", "--min_length", "0", "--seed", "3"]
    assert run("tools.sample_doc_ids", *sample) == 0
    ids = Path("sampled_doc_ids.txt").read_text().split()
    assert len(set(ids)) == 5
    assert run("tools.sample_doc_ids", *sample) == 2  # is there already
    assert run("tools.sample_doc_ids", *sample[:5], "99999", "--output", "none.txt") == 2  # no document is so long
    assert not Path("none.txt").exists()
    assert run("tools.sample_doc_ids", *sample, "--overwrite") == 0
    assert Path("sampled_doc_ids.txt").read_text().split() == ids
    ablate = ["--config", config_file, "--candidates", "3", "--single", "diverse", "--output_file", "a.json"]
    with corpus_file.open("a") as corpus, Path("sampled_doc_ids.txt").open("a") as listed:
        corpus.write('{"id": "bare", "contents": "nothing has a name here"}\n')
        listed.write("bare\n")
    assert run("rerank_ablation_test", *ablate, "--doc_ids", "sampled_doc_ids.txt") == 0
    sources = [row["source"] for row in json.loads(Path("a.json").read_text())["sources"]]
    assert sources == [i for i in ids if i in sources]
    assert f"{6 - len(sources)} of 6 sources have no entity" in caplog.text


def test_worse_model_fails_on_regression(tiny_reranker: Path, caplog: pytest.LogCaptureFixture) -> None:
    river, miners = "lies on a river", "was founded by miners"
    for name, pos, neg in (("right", river, miners), ("wrong", miners, river)):
        rows = [
            {"query": f"what of {a}?", "pos": [f"{a} {pos}."], "neg": [f"{b} {neg}." for b in "abc"]}
            for a in "defghijklmnopqrst"
        ]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        train = ["--model_path", tiny_reranker, "--train_data", f"{name}.jsonl", "--output_dir", name, "--epochs", "8"]
        assert run("train_reranker", *train, "--learning_rate", "3e-3", "--batch_size", "8") == 0
    test = ["--test_data", "right.jsonl", "--output_file", "r.json", "--fail_on_regression"]
    assert run("test_reranker", "--model_path", "right", "--baseline_model", "wrong", *test) == 0
    assert run("test_reranker", "--model_path", "wrong", "--baseline_model", "right", *test) == 3
    assert "regression" in caplog.text
    test[-1] = "--fail_unless_better"
    assert run("test_reranker", "--model_path", "right", "--baseline_model", "wrong", *test) == 0
    assert run("test_reranker", "--model_path", "right", "--baseline_model", "wrong", "right", *test) == 3
    assert "no significant gain" in caplog.text


# Each changes one thing of a run that works, and is told in one line that has these words.
BAD: dict[str, tuple[str, Callable[[dict], list[object]], str]] = {
    "no configuration": ("generate", lambda f: ["--config", "none.yaml"], "configuration none.yaml not found"),
    "unknown key": ("generate", lambda f: put(f, "config", "lamda1: 1"), "did you mean 'lambda1'"),
    "no corpus": ("generate", lambda f: put(f, "config", "corpus_path: none.jsonl"), "none.jsonl not found"),
    "corpus is a folder": (
        "generate",
        lambda f: put(f, "config", "corpus_path: ."),
        "holds no document",
    ),
    "text is a list": ("ablate", lambda f: put(f, "corpus", '{"id": "x", "contents": ["y"]}'), 'line 25: "contents"'),
    "no encoder": ("generate", lambda f: put(f, "config", "model2path: {tiny: none}"), "none not found"),
    "corpus not JSON": ("generate", lambda f: put(f, "corpus", "{oops"), "line 25: not JSON"),
    "corpus without id": ("generate", lambda f: put(f, "corpus", '{"contents": "x"}'), 'line 25: "id" is missing'),
    "corpus without text": ("generate", lambda f: put(f, "corpus", '{"id": "x"}'), 'line 25: "contents" is missing'),
    "corpus repeats": ("generate", lambda f: put(f, "corpus", '{"id": 1, "contents": "x"}'), "line 25: id"),
    "empty corpus": ("generate", lambda f: put(f, "corpus", None), "holds no document"),
    "negative λ": ("generate", lambda f: ["--lambda1", "-1"], "lambda"),
    "λ all zero": ("ablate", lambda f: ["--lambda1", "0", "--lambda2", "0", "--lambda3", "0"], "lambda"),
    "no base model": ("ablate", lambda f: put(f, "config", "reranker_path: none"), "none not found"),
    "no document ids": ("ablate", lambda f: ["--doc_ids", "none.txt"], "none.txt not found"),
    "baseline that is no arm": ("ablate", lambda f: ["--baseline", "dense"], "invalid choice"),
    "weights that are none": ("ablate", lambda f: ["--sweep_lambdas", "1,2"], "three weights"),
    "reranker's weight": ("generate", lambda f: ["--rerank_weight", "1.5"], "--rerank_weight: 1.5 must be from 0 to 1"),
    "reranker's weights": ("ablate", lambda f: ["--sweep_rerank_weight", "0", "nan"], "nan must be from 0 to 1"),
    "reranker's weight in the file": ("ablate", lambda f: put(f, "config", "rerank_weight: 2"), "from 0 to 1, not 2"),
    "nothing to sweep": ("ablate", lambda f: ["--single", "standard", "--sweep_lambdas"], "changes none of standard"),
    "no negative": (
        "test",
        lambda f: put(f, "data", None) + put(f, "data", '{"query": "q", "pos": ["p"]}'),
        "nothing to rank",
    ),
    "unknown arm": ("ablate", lambda f: ["--single", "dense"], "invalid choice"),
    "run of rows": ("test", lambda f: ["--run", "first.trec"], "needs a BEIR folder"),
    "no model": ("test", lambda f: ["--model_path", "none"], "none not found"),
    "model is no model": ("test", lambda f: ["--model_path", f["corpus"].parent], "has no config.json"),
    "no test data": ("test", lambda f: ["--test_data", "none.jsonl"], "none.jsonl not found"),
    "row without query": ("test", lambda f: put(f, "data", '{"pos": ["p"]}'), 'line 25: "query"'),
    "pos is no list": ("test", lambda f: put(f, "data", '{"query": "q", "pos": "p"}'), 'line 25: "pos"'),
    "empty text": ("test", lambda f: put(f, "data", '{"query": "q", "pos": [""]}'), 'line 25: "pos"'),
    "no training data": ("train", lambda f: ["--train_data", "none.jsonl"], "none.jsonl not found"),
    "training row": ("train", lambda f: put(f, "data", '{"query": "q", "pos": ["p"], "neg": [1]}'), 'line 25: "neg"'),
    "base not there": ("train", lambda f: ["--model_path", "./models/bge-reranker-v2-m3"], "download"),
    "output not empty": ("train", lambda f: ["--output_dir", f["corpus"].parent], "--overwrite_output_dir"),
}


def put(files: dict[str, Path], name: str, line: str | None) -> list[object]:
    """Add a line to a file, or empty it; asks for no other flag."""
    if line is None:
        files[name].write_text("")
    else:
        key = line.partition(":")[0] if name == "config" else None
        kept = [old for old in files[name].read_text().splitlines() if key is None or not old.startswith(key)]
        if key == "model2path":
            kept = [old for old in kept if not old.startswith("  ")] + [f"method2index: {{tiny: {files['index']}}}"]
            kept.remove("method2index:")
        files[name].write_text("\n".join([*kept, line, ""]))
    return []


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_2(
    case: str,
    config_file: Path,
    corpus_file: Path,
    examples_file: Path,
    tiny_reranker: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    files = {"config": config_file, "corpus": corpus_file, "data": examples_file, "index": tmp_path / "tiny.index"}
    good = {
        "generate": ["contrastive_data_generator", "--config", config_file, *GENERATE],
        "ablate": ["rerank_ablation_test", "--config", config_file, "--min_length", "0", "--ft_model", "absent"],
        "test": ["test_reranker", "--model_path", tiny_reranker, "--test_data", examples_file],
        "train": ["train_reranker", "--model_path", tiny_reranker, "--train_data", examples_file],
    }
    script, spoil, told = BAD[case]
    more = spoil(files)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    name, *argv = good[script]
    assert run(str(name), *argv, *more) == 2
    error = capfd.readouterr().err
    assert told in error
    assert len(error.strip().splitlines()) == 1
    assert "Traceback" not in error
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and ".lock" not in path.name}
    assert {path: content for path, content in after.items() if path in before} == before
    assert not [path for path in after if path not in before and path.suffix in (".json", ".jsonl")]


PRINTS = """
import sys
from utils import cli
from utils.errors import RunError
from utils.progress import log

def main(_):
    log.warning("an endpoint said \\x1b[2J")
    for _ in range(int(sys.argv[1])):
        print("\\x1b[31mλ é" * 100)
    log.warning("done")
    if sys.argv[2:]:
        raise RunError("it said \\x1b[2J" + "x" * 10_000)
    return 3

cli.run(main)
"""


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell's line in which ``$RUN`` prints as a script does; it exits with the code of that."""
    line = f'set -o pipefail; run() {{ \'{sys.executable}\' -c "$CODE" "$@"; }}; {command}'
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS), "CODE": PRINTS} | environment
    return subprocess.run(["bash", "-c", line], env=environment, capture_output=True, check=False)


@pytest.mark.parametrize("lines", [1, 5000], ids=["after the end", "in the middle"])
def test_output_that_is_closed_early_ends_no_run(lines: int) -> None:
    done = shell(f"run {lines} | true")
    assert (done.returncode, done.stderr) == (3, b"WARNING an endpoint said \\x1b[2J\nWARNING done\n")
    assert shell(f"run {lines} 2>&1 | true").returncode == 3
    assert shell(f"run {lines} >&- 2>&-").returncode == 3


def test_control_characters_and_letters_unknown_to_the_terminal_are_escaped() -> None:
    done = shell("run 1 fail", PYTHONIOENCODING="latin-1")
    assert done.returncode == 1
    assert done.stdout.startswith(b"\\x1b[31m\\u03bb \xe9")
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"error: it said \\x1b[2Jx" in done.stderr
    assert len(done.stderr) < 3000
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("limit", ["nan", "inf", "-1"])
def test_a_limit_that_is_never_reached_is_refused(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("contrastive_data_generator", "--max_cost", limit) == 2
    assert "must be a number of at least 0" in capsys.readouterr().err


def test_provenance_beside_a_new_output_is_not_replaced(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = Path("more.provenance.jsonl")
    kept.write_text("paid for\n")
    for tool in (["tools.mine_negatives", "--config", config_file], ["tools.examples_from_ablation", "one.json"]):
        assert run(*tool, "--output_file", "more.jsonl") == 2
        assert "more.provenance.jsonl already exists" in capsys.readouterr().err
        assert kept.read_text() == "paid for\n"
