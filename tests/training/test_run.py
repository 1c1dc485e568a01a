"""Training: what it writes, that it is the same however it is run, and what it answers to bad input."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import train_reranker
from utils import cli
from utils.errors import EXIT_UNUSABLE_INPUT, InputError, RunError
from utils.files import SCRIPTS
from utils.models.lengths import Lengths
from utils.schema import ContrastiveExample
from utils.training import groups, launch, run
from utils.training.job import prepare
from utils.training.settings import TrainingSettings

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = ["--learning_rate", "1e-3", "--query_max_len", "32", "--passage_max_len", "32", "--save_steps", "0"]
QUICK += ["--eval_fraction", "0", "--report_to", "none"]
# Comparisons need it: processes, chunks and libraries agree to the last digits in full precision only.
QUICK += ["--no_mixed_precision"]


def train(model: Path, data: Path, output: Path, *flags: str) -> Path:
    argv = ["--model_path", str(model), "--train_data", str(data), "--output_dir", str(output)]
    assert train_reranker.main([*argv, *QUICK, "--num_gpus", "1", *flags]) == 0
    return output


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def largest_change(one: Path, other: Path) -> float:
    first, second = weights(one), weights(other)
    # A softmax over a group does not see a constant: this bias has no gradient but rounding's.
    del first["classifier.bias"], second["classifier.bias"]
    assert first.keys() == second.keys()
    return max(float((values - second[name]).abs().max()) for name, values in first.items())


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# --- what a training writes


def test_folder_scores_alike_in_three_libraries(
    tiny_reranker: Path, examples_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(
        tiny_reranker, examples_file, tmp_path / "out", "--epochs", "1", "--batch_size", "5", "--save_steps", "2"
    )
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"model: {folder}"
    assert "test_reranker.py" in printed[-1]
    # 24 rows in batches of five are five steps; checkpoints at 2 and 4, none beside the final model.
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "checkpoint-2", "checkpoint-4", "config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "training.json",
    ]  # fmt: skip
    assert (folder / "tokenizer.json").read_bytes() == (tiny_reranker / "tokenizer.json").read_bytes()

    import torch
    from FlagEmbedding import FlagReranker
    from sentence_transformers import CrossEncoder
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    pairs = [("what of arden?", "Arden lies on a river."), ("what of elgin?", "Harlech holds a market " * 9)]
    flag = FlagReranker(str(folder), use_fp16=False, devices="cpu").compute_score(pairs)
    cross = CrossEncoder(str(folder), activation_fn=torch.nn.Identity(), device="cpu").predict(pairs)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        inputs = tokenizer([list(pair) for pair in pairs], padding=True, return_tensors="pt")
        plain = model(**inputs).logits.flatten().tolist()
    assert model.dtype == torch.float32
    assert flag == pytest.approx(plain, abs=1e-4)
    assert cross.tolist() == pytest.approx(plain, abs=1e-4)


def test_same_seed_gives_same_bytes(tiny_reranker: Path, examples_file: Path, tmp_path: Path) -> None:
    def run(name: str, seed: str) -> bytes:
        folder = train(tiny_reranker, examples_file, tmp_path / name, "--seed", seed, "--epochs", "1")
        return (folder / "model.safetensors").read_bytes()

    assert run("a", "1") == run("b", "1") != run("c", "2")


def test_training_learns(tiny_reranker: Path, tmp_path: Path) -> None:
    rows = [{"query": "what of arden?", "pos": ["a river"], "neg": ["the market"]}] * 8
    data = write_rows(tmp_path / "train.jsonl", rows)
    flags = ("--train_group_size", "2", "--epochs", "20", "--batch_size", "8", "--learning_rate", "1e-2")
    folder = train(tiny_reranker, data, tmp_path / "out", *flags)

    from FlagEmbedding import FlagReranker

    model = FlagReranker(str(folder), use_fp16=False, devices="cpu")
    right, wrong = model.compute_score([("what of arden?", "a river"), ("what of arden?", "the market")])
    assert right > wrong + 1


def test_rows_without_negatives_train(tiny_reranker: Path, examples_file: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in examples_file.read_text().splitlines()]
    for row in rows[::2]:
        del row["neg"]
    data = write_rows(tmp_path / "train.jsonl", rows)
    job = prepare(TrainingSettings(model_path=str(tiny_reranker), train_data=[str(data)]))
    assert job.facts.short == 12
    assert all(len(row.neg) >= 3 and not set(row.neg) & set(row.pos) for row in job.examples)
    train(tiny_reranker, data, tmp_path / "out", "--epochs", "1")


def test_distillation_uses_the_scores(tiny_reranker: Path, examples_file: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in examples_file.read_text().splitlines()]
    plain = train(tiny_reranker, examples_file, tmp_path / "plain", "--epochs", "1")
    for row in rows:
        row |= {"neg": row["neg"][:1], "pos_scores": [0.5], "neg_scores": [0.25]}
    data = write_rows(tmp_path / "scored.jsonl", rows)
    distilled = train(tiny_reranker, data, tmp_path / "out", "--epochs", "1", "--knowledge_distillation", "True")
    assert (plain / "model.safetensors").read_bytes() != (distilled / "model.safetensors").read_bytes()


def test_distillation_leaves_out_rows_whose_negatives_are_held_out(tiny_reranker: Path, tmp_path: Path) -> None:
    scores = {"pos_scores": [0.9], "neg_scores": [0.1]}
    rows = [{"query": f"what of {i}?", "pos": [f"town {i}"], "neg": [f"lake {i % 60}"]} | scores for i in range(300)]
    data = write_rows(tmp_path / "train.jsonl", rows)
    job = prepare(TrainingSettings(str(tiny_reranker), [str(data)], knowledge_distillation=True))
    assert len(job.held_out) >= 20
    assert all(row.neg_scores for row in job.examples)
    assert len(job.examples) + len(job.held_out) + job.facts.dropped == 300


def test_one_negative_is_enough_to_be_repeated(tiny_reranker: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "train.jsonl", [{"query": "what of arden?", "pos": ["a river"], "neg": ["a lake"]}])
    job = prepare(TrainingSettings(str(tiny_reranker), [str(data)], negative_fill="repeat"))
    assert (job.facts.short, job.examples[0].neg) == (1, ["a lake"])


def test_overwriting_replaces_a_training_and_no_more(tiny_reranker: Path, examples_file: Path, tmp_path: Path) -> None:
    folder = train(tiny_reranker, examples_file, tmp_path / "out", "--epochs", "1", "--save_steps", "4")
    (folder / "notes.txt").write_text("mine")
    before = (folder / "model.safetensors").read_bytes()
    assert (folder / "checkpoint-4").is_dir()
    train(tiny_reranker, examples_file, folder, "--epochs", "2", "--overwrite_output_dir")
    assert (folder / "model.safetensors").read_bytes() != before
    assert (folder / "notes.txt").read_text() == "mine"
    assert not list(folder.glob("checkpoint-*"))


# --- the same training, however it is run


@pytest.fixture(scope="module")
def reference(still_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data file and the model that one plain process makes of it, four rows a step."""
    folder = tmp_path_factory.mktemp("reference")
    rows = [
        {"query": f"what of {w}?", "pos": [f"{w} lies here"], "neg": [f"{w} {i} was far" for i in range(5)]}
        for w in ("arden", "belmont", "corwen", "dunmore", "elgin", "falmouth", "girvan", "harlech")
    ]
    data = write_rows(folder / "train.jsonl", rows)
    return data, train(still_model, data, folder / "out", "--batch_size", "4")


def test_accumulated_batches_equal_one(reference: tuple[Path, Path], still_model: Path, tmp_path: Path) -> None:
    data, expected = reference
    flags = ("--batch_size", "2", "--gradient_accumulation_steps", "2", "--gradient_checkpointing")
    assert largest_change(train(still_model, data, tmp_path / "out", *flags), expected) <= 1e-4


@pytest.fixture(scope="module")
def deepspeed_reference(
    reference: tuple[Path, Path], still_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The model that DeepSpeed makes of the same data in one process."""
    environment = dict(os.environ)
    output = tmp_path_factory.mktemp("deepspeed") / "out"
    folder = train(still_model, reference[0], output, "--batch_size", "4", "--use_deepspeed")
    assert dict(os.environ) == environment
    return folder


def test_deepspeed_in_one_process(
    reference: tuple[Path, Path], deepspeed_reference: Path, still_model: Path, tmp_path: Path
) -> None:
    data, expected = reference
    # DeepSpeed's own scheduler starts a step later than the Trainer's; with the latter all is the same.
    config = json.loads((SCRIPTS / "ds_stage0.json").read_text())
    del config["scheduler"]
    (tmp_path / "ds.json").write_text(json.dumps(config))
    flags = ("--use_deepspeed", "--ds_config", str(tmp_path / "ds.json"), "--batch_size", "2")
    folder = train(still_model, data, tmp_path / "out", *flags, "--gradient_accumulation_steps", "2")
    assert largest_change(folder, expected) <= 1e-4
    assert largest_change(deepspeed_reference, still_model) > 5e-4
    # The process can go on to another training, without DeepSpeed.
    assert largest_change(train(still_model, data, tmp_path / "plain", "--batch_size", "4"), expected) <= 0


def test_half_precision_is_saved_in_full(reference: tuple[Path, Path], still_model: Path, tmp_path: Path) -> None:
    import torch

    folder = train(
        still_model, reference[0], tmp_path / "out", "--no_mixed_precision", "false", "--bf16", "--use_deepspeed"
    )
    assert {values.dtype for values in weights(folder).values()} == {torch.float32}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("fast", [True, False])
def test_precision_is_what_the_device_is_fast_at(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from utils.training import arguments

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(arguments, "half_precision", lambda _: torch.bfloat16 if fast else None)
    assert arguments.precision(TrainingSettings()) == {"bf16": fast, "fp16": False}
    assert arguments.precision(TrainingSettings(bf16=True)) == {"bf16": True, "fp16": False}
    for full in (TrainingSettings(no_mixed_precision=True), TrainingSettings(use_deepspeed=True)):
        assert not any(arguments.precision(full).values())


def test_longest_pairs_fit_models_that_count_positions_after_the_padding(tiny_reranker: Path, tmp_path: Path) -> None:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    model = tmp_path / "model"
    shutil.copytree(tiny_reranker, model)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = RobertaConfig(
        vocab_size=len(json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]),
        max_position_embeddings=66, pad_token_id=1, type_vocab_size=2, num_labels=1, **size,
    )  # fmt: skip
    RobertaForSequenceClassification(config).save_pretrained(model)
    rows = [{"query": "a b c " * 30, "pos": ["d e " * 90], "neg": ["f g " * 90]}] * 4
    flags = ("--train_group_size", "2", "--query_max_len", "512", "--passage_max_len", "8196", "--epochs", "1")
    train(model, write_rows(tmp_path / "train.jsonl", rows), tmp_path / "out", *flags)


def test_two_processes(reference: tuple[Path, Path], still_model: Path, tmp_path: Path) -> None:
    data, expected = reference
    folder = tmp_path / "out"
    command = [sys.executable, str(SCRIPTS / "train_reranker.py"), "--model_path", str(still_model)]
    command += ["--train_data", str(data), "--output_dir", str(folder), *QUICK, "--num_gpus", "2", "--batch_size", "2"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, timeout=300
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in printed] == ["model", "next"]
    assert "processes 2" in done.stderr
    told = done.stderr.replace("\r", "\n").splitlines()
    assert all(line.startswith(("INFO ", "training:")) for line in told if line), done.stderr
    assert largest_change(folder, expected) <= 1e-4


# --- devices


@pytest.mark.parametrize(
    ("visible", "num_gpus", "processes"), [(0, None, 1), (0, 2, 2), (4, None, 4), (4, 1, 1), (4, 2, 2)]
)
def test_processes_are_counted(
    monkeypatch: pytest.MonkeyPatch, visible: int, num_gpus: int | None, processes: int
) -> None:
    for name in launch.LAUNCHERS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: visible)
    assert launch.count_processes(num_gpus) == processes
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(InputError, match="unset them"):  # left over from something else
        launch.count_processes(2)
    for name in launch.LAUNCHERS_VARIABLES:
        monkeypatch.setenv(name, "1")  # one of a launcher's processes launches no more
    assert launch.count_processes(num_gpus) == 1


def test_more_gpus_than_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in launch.LAUNCHERS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(InputError, match="--num_gpus 3"):
        launch.count_processes(3)


# --- lengths and groups


def test_pairs_are_encoded_as_flagembedding_does(tiny_reranker: Path) -> None:
    from FlagEmbedding.abc.finetune.reranker import AbsRerankerDataArguments, AbsRerankerTrainDataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_reranker)
    theirs = AbsRerankerTrainDataset.__new__(AbsRerankerTrainDataset)
    theirs.tokenizer = tokenizer
    theirs.args = AbsRerankerDataArguments(train_data=[], query_max_len=16, passage_max_len=24)
    passages = ["Arden lies on a river.", "Belmont holds a market each week. " * 9]
    ours = groups.encode_pairs(tokenizer, "what of arden?", passages, Lengths(16, 24))
    assert ours == [dict(theirs.create_one_example("what of arden?", p)) for p in passages]
    assert len(ours[1]["input_ids"]) == 40


def test_long_query_leaves_the_passage_its_room(tiny_reranker: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_reranker)
    (pair,) = groups.encode_pairs(tokenizer, "a b c d e " * 20, ["z " * 90], Lengths(16, 24))
    kept = tokenizer.decode(pair["input_ids"]).split("[SEP]")
    assert len(pair["input_ids"]) == 40
    assert kept[0].split() == ["[CLS]", *"abcdeabcdeabcdea"]
    assert kept[1].split() == ["z"] * 21


ROW = ContrastiveExample("q", ["p0", "p1"], ["n0", "n1", "n2", "n3"], [10.0, 11.0], [0.0, 1.0, 2.0, 3.0])


def test_groups_keep_scores_beside_their_passages() -> None:
    scores = {"p0": 10.0, "p1": 11.0, "n0": 0.0, "n1": 1.0, "n2": 2.0, "n3": 3.0}
    for seed in range(20):
        passages, drawn = groups.draw_group(ROW, 4, random.Random(seed))
        assert passages[0] in ROW.pos
        assert len(set(passages[1:])) == 3
        assert set(passages[1:]) <= set(ROW.neg)
        assert drawn == [scores[passage] for passage in passages]


def test_few_negatives_are_repeated_evenly() -> None:
    passages, _ = groups.draw_group(ROW._replace(neg=["n0", "n1"], neg_scores=None), 6, random.Random(0))
    assert sorted(passages[1:].count(n) for n in ("n0", "n1")) == [2, 3]


def test_draws_depend_on_seed_epoch_and_row_alone(tiny_reranker: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_reranker)

    def items(seed: int, epoch: int, order: list[int]) -> list[Any]:
        dataset = groups.TrainingGroups([ROW] * 8, tokenizer, Lengths(16, 16), 3, seed)
        dataset.set_epoch(epoch)
        drawn = {row: dataset[row] for row in order}
        return [drawn[row] for row in range(8)]

    forwards, backwards = list(range(8)), list(range(7, -1, -1))
    assert items(1, 0, forwards) == items(1, 0, backwards)
    assert items(1, 0, forwards) != items(1, 1, forwards)
    assert items(1, 0, forwards) != items(2, 0, forwards)
    assert len({str(item) for item in items(1, 0, forwards)}) > 1


# --- the command line


def parse(argv: list[str]) -> TrainingSettings:
    return train_reranker.parse_settings(argv)[0]


def test_both_spellings_parse() -> None:
    new = parse(["--epochs", "3", "--batch_size", "16", "--use_deepspeed", "--ds_config", "d.json", "--fp16"])
    old = parse(
        [
            *("--num_train_epochs", "3", "--per_device_train_batch_size=16", "--use_deepspeed", "True"),
            *("--deepspeed_config", "d.json", "--fp16", "true", "--knowledge_distillation", "False"),
        ]
    )
    assert new == old
    assert parse([]) == TrainingSettings()
    assert parse(["--no-gradient_checkpointing"]).gradient_checkpointing is False


BAD_INPUTS = {
    "no model": (["--model_path", "./models/none"], "download BAAI/bge-reranker-v2-m3 (hf"),
    "no model in our folder": (["--model_path", "models/bge-reranker-v2-m3"], "hf download BAAI/bge-reranker-v2-m3 --"),
    "no model of this name": (["--model_path", "BAAI/bge-reranker-base"], "hf download BAAI/bge-reranker-base"),
    "no whole model": (["--model_path", "{full}/.."], "no config.json and no weights and no tokenizer"),
    "no data": (["--train_data", "none.jsonl"], "training data none.jsonl is not there"),
    "no query": (["--train_data", "{bad}"], 'bad.jsonl, line 1: "query" must be'),
    "no scores": (["--knowledge_distillation"], "row 1: --knowledge_distillation needs"),
    "no such config": (["--use_deepspeed", "--ds_config", "none.json"], "DeepSpeed configuration none.json"),
    "config not JSON": (["--use_deepspeed", "--ds_config", "{data}"], "train.jsonl is not readable as JSON"),
    "filled output": (["--output_dir", "{full}"], "is not empty: choose another --output_dir"),
    "output a file": (["--output_dir", "{data}"], "is a file: choose another --output_dir"),
    "output in a file": (["--output_dir", "{data}/out", "--num_gpus", "1"], "cannot be written"),
    "output over the model": (["--output_dir", "{model}", "--overwrite_output_dir"], "holds the model"),
    "batch of none": (["--batch_size", "0", "--epochs", "0"], "--batch_size must be at least 1; --epochs must be"),
    "no number": (["--weight_decay", "nan"], "--weight_decay must be at least 0"),
    "no name of data": (["--train_data", ""], "training data  is not there"),
    "no name of a folder": (["--output_dir", ""], "--output_dir must name a folder"),
    "two precisions": (["--fp16", "--bf16"], "only one of --fp16, --bf16"),
    "groups too large": (["--train_group_size", "99"], "too few passages to fill groups of 99"),
    "ZeRO's stage 3": (["--use_deepspeed", "--ds_config", "{zero3}"], "zero_optimization.stage must be 0, 1 or 2"),
    "DeepSpeed's numbers as texts": (
        ["--use_deepspeed", "--ds_config", "{texts}"],
        'gradient_accumulation_steps must be "auto" or a number, not "8"',
    ),
    "DeepSpeed without a batch": (["--use_deepspeed", "--ds_config", "{bare}"], 'train_batch_size must be "auto"'),
    "resumed over a finished model": (
        ["--output_dir", "{finished}", "--resume"],
        "a finished model and no",
    ),
    "resumed over the model": (["--output_dir", "{model}", "--resume"], "holds the model to start from"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_one_line_and_exit_2(
    case: str,
    tiny_reranker: Path,
    examples_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    full = tmp_path / "full"
    full.mkdir()
    (full / "model.safetensors").write_text("precious")
    bad = write_rows(tmp_path / "bad.jsonl", [{"pos": ["a"], "neg": ["b"]}])
    batches = '"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto"'
    (tmp_path / "zero3.json").write_text(f'{{{batches}, "zero_optimization": {{"stage": 3}}}}')
    (tmp_path / "texts.json").write_text(f'{{{batches}, "gradient_accumulation_steps": "8"}}')
    (tmp_path / "bare.json").write_text('{"zero_optimization": {"stage": 0}}')
    finished = Path(shutil.copytree(tiny_reranker, tmp_path / "finished"))
    (finished / "README.md").write_text("a model card")
    names = {"data": examples_file, "bad": bad, "full": full, "model": tiny_reranker, "finished": finished}
    names |= {name: tmp_path / f"{name}.json" for name in ("zero3", "texts", "bare")}
    flags, expected = BAD_INPUTS[case]
    argv = ["--model_path", str(tiny_reranker), "--train_data", str(examples_file)]
    argv += [flag.format(**names) for flag in flags]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    with pytest.raises(SystemExit) as stop:
        cli.run(train_reranker.main, argv)
    told = capsys.readouterr()
    assert stop.value.code == EXIT_UNUSABLE_INPUT
    assert expected in told.err
    assert told.err.startswith("error: ")
    assert len(told.err.splitlines()) == 1
    assert told.out == ""
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_memory_that_runs_out_is_told(
    tiny_reranker: Path, examples_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def exhaust(job: object) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(run, "_fit", exhaust)
    with pytest.raises(RunError, match="lower --passage_max_len"):
        train(tiny_reranker, examples_file, tmp_path / "out")
