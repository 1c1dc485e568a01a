"""Every command of the README and the pages runs: with miniature models and data under the names that it gives."""

from __future__ import annotations

import importlib
import json
import shlex
import shutil
from pathlib import Path

import pytest

from miniature import write_beir, write_run
from test_docs import commands, script_of
from trials import result_of, sources
from utils import cli
from utils.files import write_json
from utils.labelling.record import JudgedSource, Trial
from utils.schema import BridgeEntity, Outcome, Verdict
from utils.scoring import open_reranker

# What suits the miniature: its documents are short.
MORE = {
    "contrastive_data_generator": "--min_length 0",
    "rerank_ablation_test": "--min_length 0",
    "tools.sample_doc_ids": "--min_length 0",
    "train_reranker": "--report_to none --query_max_len 16 --passage_max_len 16",
    "tools.distil_base": "--num_queries 8",
    "tools.export_reranker": "--min_tau 0 --tolerance 100",  # its weights are too small for eight bits
}
SEVERAL_MACHINES = ("deepspeed ", "torchrun ")


@pytest.fixture
def folder(
    tmp_path: Path, config_file: Path, examples_file: Path, tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A checkout's folders, with what the pages assume: models, data, configurations, results."""
    scripts = tmp_path / "checkout" / "train_reranker"
    scripts.mkdir(parents=True)
    monkeypatch.chdir(scripts)
    for place in ("../config_lib", "config_lib", "data", "ablation_results"):
        Path(place).mkdir()
    for place in ("my.yaml", "../config_lib/extract_config_wikifulldoc.yaml", "config_lib/example_config.yaml"):
        shutil.copy(config_file, place)
    shutil.copy(config_file, "../config_lib/demo_config.yaml")
    for place in ("../models/demo-reranker", "../models/bge-reranker-v2-m3", "models/bge-reranker-v2-m3"):
        shutil.copytree(tiny_reranker, place)
    rows = [json.loads(line) for line in examples_file.read_text().splitlines()]
    for name in ("data/train_data", "data/test_data", "data/mined", "data/scored", "rows"):
        scored = [row | {"pos_scores": [1.0], "neg_scores": [0.5, 0.0, -1.0]} for row in rows]
        lines = map(json.dumps, scored if name == "data/scored" else rows)
        Path(f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for name in ("before", "after"):
        write_json(Path(f"ablation_results/{name}.json"), result_of(sources(base=[1, 2, 3]), ["base"]).to_json())
    judged = Trial(["2", "3"], [Verdict(Outcome.UNUSABLE, "no"), Verdict(Outcome.USABLE, "yes")])
    one = JudgedSource("1", BridgeEntity("Lake Merrow", "lake", "", "What is Lake Merrow?"), {"base": judged})
    write_json(Path("ablation_results/results.json"), result_of([one], ["base"]).to_json())
    write_beir(Path("scifact"))
    write_run(Path("first_stage.trec"))
    Path("sampled_doc_ids.txt").write_text("1\n2\n3\n", encoding="utf-8")
    return scripts


@pytest.mark.parametrize("command", [one for one in commands() if not one.startswith(SEVERAL_MACHINES)])
def test_command_runs(command: str, folder: Path, tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, argv = script_of(command)
    if script == "tools.export_reranker":
        pytest.importorskip("onnxruntime", reason="pip install -r requirements-onnx.txt")
    argv += shlex.split(MORE.get(script, ""))
    module = importlib.import_module(script)
    for named in (cli, module):
        monkeypatch.setattr(named, "DEFAULT_CONFIG", folder.parent / "config_lib" / "demo_config.yaml", raising=False)
    if script == "tools.verify_served":
        shutil.copytree(tiny_reranker, "output_onnx")
        monkeypatch.setattr(module, "RerankEndpoint", lambda *_: open_reranker(tiny_reranker, half=False))
    for place in ("output", "output_new"):
        if script != "train_reranker":
            shutil.copytree(tiny_reranker, place)
    for flag in ("--output", "--output_file"):
        if flag in argv:
            Path(argv[argv.index(flag) + 1]).unlink(missing_ok=True)
    if "--test_fraction" in argv:
        for written in ("train_data", "test_data"):
            Path(f"data/{written}.jsonl").unlink()
    with pytest.raises(SystemExit) as ended:
        cli.run(module.main, argv)
    assert ended.value.code == 0
