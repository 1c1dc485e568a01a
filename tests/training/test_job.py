"""Inputs and the output folder: what becomes of the rows, what is refused in one line, what may be resumed."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

import train_reranker
from trainings import train, train_evaluated, write_rows
from utils import cli
from utils.errors import EXIT_UNUSABLE_INPUT, InputError
from utils.models.lengths import Lengths
from utils.training.job import prepare
from utils.training.settings import TrainingSettings

pytestmark = pytest.mark.usefixtures("one_thread")


def test_rows_without_negatives_train(tiny_reranker: Path, examples_file: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in examples_file.read_text().splitlines()]
    for row in rows[::2]:
        del row["neg"]
    data = write_rows(tmp_path / "train.jsonl", rows)
    job = prepare(TrainingSettings(model_path=str(tiny_reranker), train_data=[str(data)]))
    assert job.facts.short == 12
    assert all(len(row.neg) >= 3 and not set(row.neg) & set(row.pos) for row in job.examples)
    train(tiny_reranker, data, tmp_path / "out", "--epochs", "1")


def test_distillation_tells_how_many_rows_have_no_scores(tiny_reranker: Path, tmp_path: Path) -> None:
    scores = {"pos_scores": [0.9], "neg_scores": [0.1]}
    rows = [{"query": f"what of {i}?", "pos": [f"town {i}"], "neg": [f"lake {i}"]} | scores for i in range(8)]
    data = write_rows(tmp_path / "train.jsonl", [*rows, {"query": "what of 8?", "pos": ["town 8"]}])
    job = prepare(TrainingSettings(str(tiny_reranker), [str(data)], knowledge_distillation=True))
    assert f"{data}: 1 of 9 rows have no scores: they learn from their labels alone" in job.facts.notes
    assert all(len(row.neg) == 3 for row in job.examples)


def test_one_negative_is_enough_to_be_repeated(tiny_reranker: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "train.jsonl", [{"query": "what of arden?", "pos": ["a river"], "neg": ["a lake"]}])
    job = prepare(TrainingSettings(str(tiny_reranker), [str(data)], negative_fill="repeat"))
    assert (job.facts.short, job.examples[0].neg) == (1, ["a lake"])


@pytest.mark.parametrize(
    ("changes", "passage", "expected"),
    [
        ({}, 128, (32, 128)),
        ({"model_max_length": 64}, 128, (32, 32)),  # the tokenizer's limit
        ({"model_max_length": 64}, None, (32, 32)),
        (Lengths(16, 24).tokenizer_settings(), 128, (32, 128)),  # trained at 40 tokens, which limits nothing
        (Lengths(16, 24).tokenizer_settings(), 9999, (32, 480)),
        (Lengths(16, 24).tokenizer_settings(), None, (32, 24)),
    ],
)
def test_lengths_obey_the_limits_of_the_base(
    changes: dict[str, int], passage: int | None, expected: tuple[int, int],
    tiny_reranker: Path, examples_file: Path, tmp_path: Path,
) -> None:  # fmt: skip
    model = Path(shutil.copytree(tiny_reranker, tmp_path / "model"))
    settings = json.loads((model / "tokenizer_config.json").read_text()) | changes
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    job = prepare(TrainingSettings(str(model), [str(examples_file)], query_max_len=32, passage_max_len=passage))
    assert job.lengths == expected


BAD_INPUTS = {
    "no model": (["--model_path", "./models/none"], "download BAAI/bge-reranker-v2-m3 (hf"),
    "no model in our folder": (["--model_path", "models/bge-reranker-v2-m3"], "hf download BAAI/bge-reranker-v2-m3 --"),
    "no model of this name": (["--model_path", "BAAI/bge-reranker-base"], "hf download BAAI/bge-reranker-base"),
    "no whole model": (["--model_path", "{full}/.."], "no config.json and no weights and no tokenizer"),
    "no data": (["--train_data", "none.jsonl"], "training data none.jsonl not found"),
    "no query": (["--train_data", "{bad}"], 'bad.jsonl, line 1: "query" must be'),
    "scores that are no numbers": (
        ["--train_data", "{nan}", "--knowledge_distillation"],
        'nan.jsonl, line 2: "pos_scores" must hold one number for each text of "pos", all finite',
    ),
    "no scores": (
        ["--knowledge_distillation"],
        "train.jsonl: no row has the scores that --knowledge_distillation learns from",
    ),
    "no such config": (["--use_deepspeed", "--ds_config", "none.json"], "DeepSpeed configuration none.json"),
    "config not JSON": (["--use_deepspeed", "--ds_config", "{data}"], "train.jsonl is not readable as JSON"),
    "filled output": (["--output_dir", "{full}"], "is not empty: choose another --output_dir"),
    "output a file": (["--output_dir", "{data}"], "is a file: choose another --output_dir"),
    "output in a file": (["--output_dir", "{data}/out", "--num_gpus", "1"], "train.jsonl is a file: choose another"),
    "output over the model": (["--output_dir", "{model}", "--overwrite_output_dir"], "holds the model"),
    "batch of none": (["--batch_size", "0", "--epochs", "0"], "--batch_size must be at least 1; --epochs must be"),
    "no number": (["--weight_decay", "nan"], "--weight_decay must be at least 0"),
    "no name of data": (["--train_data", ""], "training data  not found"),
    "no name of a folder": (["--output_dir", ""], "--output_dir must name a folder"),
    "no share": (["--mix_with_base", "most"], "--mix_with_base must be at least 0 and below 1, or auto"),
    "no share but the base's": (["--mix_with_base", "1"], "--mix_with_base must be at least 0 and below 1, or auto"),
    "nothing to choose a share by": (["--mix_with_base", "auto"], "auto needs queries to choose by: give --eval_data"),
    "no labels at all": (["--soft_labels_only"], "--soft_labels_only needs --knowledge_distillation"),
    "no weight to stay close": (["--keep_close_to", "{model}"], "--keep_close_to needs --keep_close"),
    "nothing to stay close to": (["--keep_close", "1", "--keep_close_to", "none"], "model none not found"),
    "output over what to stay close to": (
        ["--keep_close", "1", "--keep_close_to", "{finished}", "--output_dir", "{finished}", "--overwrite_output_dir"],
        "holds the reranker to stay close to",
    ),
    "pushed away": (["--keep_close", "-1"], "--keep_close must be at least 0"),
    "no guard": (["--guard_data", "none"], "guard data none not found"),
    "guard without qrels": (["--guard_data", "{beir}"], "has no qrels/*.tsv"),
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
    nan = [
        {"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [value], "neg_scores": [0]} for value in (1, math.nan)
    ]
    write_rows(tmp_path / "nan.jsonl", nan)
    bad = write_rows(tmp_path / "bad.jsonl", [{"pos": ["a"], "neg": ["b"]}])
    batches = '"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto"'
    (tmp_path / "zero3.json").write_text(f'{{{batches}, "zero_optimization": {{"stage": 3}}}}')
    (tmp_path / "texts.json").write_text(f'{{{batches}, "gradient_accumulation_steps": "8"}}')
    (tmp_path / "bare.json").write_text('{"zero_optimization": {"stage": 0}}')
    finished = Path(shutil.copytree(tiny_reranker, tmp_path / "finished"))
    (finished / "README.md").write_text("a model card")
    beir = tmp_path / "beir"
    beir.mkdir()
    for name in ("corpus", "queries"):
        write_rows(beir / f"{name}.jsonl", [{"_id": "1", "text": "a river"}])
    names = {
        "beir": beir,
        "data": examples_file,
        "bad": bad,
        "nan": tmp_path / "nan.jsonl",
        "full": full,
        "model": tiny_reranker,
        "finished": finished,
    }
    names |= {name: tmp_path / f"{name}.json" for name in ("zero3", "texts", "bare")}
    flags, expected = BAD_INPUTS[case]
    argv = ["--model_path", str(tiny_reranker), "--train_data", str(examples_file)]
    argv += [flag.format(**names) for flag in flags]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    with pytest.raises(SystemExit) as stop:
        cli.run(train_reranker.main, argv)
    reported = capsys.readouterr()
    assert stop.value.code == EXIT_UNUSABLE_INPUT
    assert expected in reported.err
    assert reported.err.startswith("error: ")
    assert len(reported.err.splitlines()) == 1
    assert reported.out == ""
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


# --bf16 and --no_mixed_precision exclude each other.
FP32 = ("--no_mixed_precision", "--resume")
UNDO = {"--bf16": ("--no_mixed_precision", "false")}


def test_overwriting_replaces_a_training_and_no_more(tiny_reranker: Path, examples_file: Path, tmp_path: Path) -> None:
    folder = train(tiny_reranker, examples_file, tmp_path / "out", "--epochs", "1", "--save_steps", "4")
    (folder / "notes.txt").write_text("mine")
    before = (folder / "model.safetensors").read_bytes()
    assert (folder / "checkpoint-4").is_dir()
    train(tiny_reranker, examples_file, folder, "--epochs", "2", "--overwrite_output_dir")
    assert (folder / "model.safetensors").read_bytes() != before
    assert (folder / "notes.txt").read_text() == "mine"
    assert not list(folder.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("flags", "reported"),
    [
        (["--num_gpus", "2"], "processes 1, not 2"),
        (["--batch_size", "8"], "--batch_size 16, not 8"),
        (["--gradient_accumulation_steps", "2"], "--gradient_accumulation_steps 1, not 2"),
        (["--learning_rate", "1e-3"], "--learning_rate 0.003, not 0.001"),
        (
            ["--train_group_size", "3", "--warmup_ratio", "0"],
            "--warmup_ratio 0.1, not 0.0; --train_group_size 4, not 3",
        ),
        (["--eval_fraction", "0.2"], "held-out rows with the digest"),
        (["--passage_max_len", "24"], r"lengths \[16, 16\], not \[16, 24\]"),
        (["--bf16"], "precision fp32, not bf16"),
    ],
)
def test_resuming_with_what_changes_the_training_is_refused(
    flags: list[str], reported: str, tiny_reranker: Path, data: Path, interrupted: Path
) -> None:
    with pytest.raises(InputError, match=f"was started with .*{reported}"):
        train_evaluated(
            tiny_reranker, data, interrupted, "--no_mixed_precision", "--resume", *flags, *UNDO.get(flags[0], ())
        )


def test_a_model_is_compared_by_content_and_not_by_path(
    tiny_reranker: Path, data: Path, interrupted: Path, tmp_path: Path
) -> None:
    model, output = (
        Path(shutil.copytree(tiny_reranker, tmp_path / "moved")),
        shutil.copytree(interrupted, tmp_path / "out"),
    )
    flags = ["--no_mixed_precision", "--resume", "--dry_run"]
    assert train_evaluated(model, data, output, *flags) == 0
    with (model / "tokenizer.json").open("a") as file:
        file.write(" ")
    with pytest.raises(InputError, match="was started with model with the digest"):
        train_evaluated(model, data, output, *flags)


def test_checkpoint_of_another_folder_is_compared_with_its_own_settings(
    tiny_reranker: Path, data: Path, interrupted: Path, tmp_path: Path
) -> None:
    flags = ("--no_mixed_precision", "--seed", "1", "--resume", str(interrupted / "checkpoint-8"))
    with pytest.raises(InputError, match="was started with --seed 42, not 1"):
        train_evaluated(tiny_reranker, data, tmp_path / "other", *flags)


@pytest.mark.parametrize("fast", [True, False])
def test_precision_is_what_the_device_is_fast_at(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from utils.training import job

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(job, "half_precision", lambda _: torch.bfloat16 if fast else None)
    assert job.precision(TrainingSettings()) == {"bf16": fast, "fp16": False}
    assert job.precision(TrainingSettings(bf16=True)) == {"bf16": True, "fp16": False}
    for full in (TrainingSettings(no_mixed_precision=True), TrainingSettings(use_deepspeed=True)):
        assert not any(job.precision(full).values())
