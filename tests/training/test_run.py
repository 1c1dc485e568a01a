"""A training: what it writes, and that it is the same however it is run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from miniature import WORDS
from trainings import QUICK, largest_change, train, weights, write_rows
from utils.errors import InputError, RunError
from utils.files import SCRIPTS, locked
from utils.scoring import open_reranker
from utils.training import run
from utils.training.job import prepare
from utils.training.settings import TrainingSettings

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_distillation_uses_the_scores(tiny_reranker: Path, examples_file: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in examples_file.read_text().splitlines()]
    plain = train(tiny_reranker, examples_file, tmp_path / "plain", "--epochs", "1")
    for row in rows:
        row |= {"neg": row["neg"][:1], "pos_scores": [0.5], "neg_scores": [0.25]}
    data = write_rows(tmp_path / "scored.jsonl", rows)
    distilled = train(tiny_reranker, data, tmp_path / "out", "--epochs", "1", "--knowledge_distillation", "True")
    assert (plain / "model.safetensors").read_bytes() != (distilled / "model.safetensors").read_bytes()


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
    reported = done.stderr.replace("\r", "\n").splitlines()
    assert all(line.startswith(("INFO ", "training:")) for line in reported if line), done.stderr
    assert largest_change(folder, expected) <= 1e-4


def test_out_of_memory_is_one_line(
    tiny_reranker: Path, examples_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def exhaust(job: object) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(run, "_fit", exhaust)
    with pytest.raises(RunError, match="lower --passage_max_len"):
        train(tiny_reranker, examples_file, tmp_path / "out")


def test_what_cannot_be_deterministic_is_one_line(
    tiny_reranker: Path, examples_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def fit(job: object) -> Any:
        assert torch.are_deterministic_algorithms_enabled()
        raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but you set")

    monkeypatch.setattr(run, "_fit", fit)
    with pytest.raises(InputError, match="--deterministic: this device has no such cumsum_cuda_kernel: leave it out"):
        train(tiny_reranker, examples_file, tmp_path / "out", "--deterministic")
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_second_training_in_a_folder_is_refused(
    processes: str, tiny_reranker: Path, examples_file: Path, tmp_path: Path
) -> None:
    for flag in ("--resume", "--overwrite_output_dir"):
        with (
            locked(tmp_path / "out"),
            pytest.raises(
                InputError, match=rf"another run \(process {os.getpid()}\) is writing {tmp_path / 'out'}: wait"
            ),
        ):
            train(tiny_reranker, examples_file, tmp_path / "out", flag, "--num_gpus", processes)
    assert not list(tmp_path.glob("*out*"))


def test_what_another_run_has_left_since_the_check_is_not_overwritten(
    tiny_reranker: Path, examples_file: Path, tmp_path: Path
) -> None:
    argv = {"model_path": str(tiny_reranker), "train_data": [str(examples_file)], "output_dir": str(tmp_path / "out")}
    sizes = {"query_max_len": 32, "passage_max_len": 32, "report_to": "none", "eval_fraction": 0}
    new, resumed = (prepare(TrainingSettings(**argv, **sizes, resume=resume)) for resume in (False, True))
    train(tiny_reranker, examples_file, tmp_path / "out", "--epochs", "1", "--save_steps", "2")
    with pytest.raises(InputError, match="is not empty"):
        run.run(new)
    with pytest.raises(InputError, match="another run has just written to"):
        run.run(resumed)


def test_a_student_follows_its_teacher_more_closely_than_with_labels_alone(still_model: Path, tmp_path: Path) -> None:
    """The teacher tells the negatives apart, the labels do not; on words that were not trained on."""
    from scipy.stats import spearmanr

    facts = {
        "lies on a river": 3.0,
        "holds a market each week": 1.0,
        "has a storm": -1.0,
        "was founded by miners": -3.0,
    }

    def row(town: str) -> dict[str, Any]:
        pos, *neg = (f"{town} {fact}" for fact in facts)
        scores = [*facts.values()]
        return {
            "query": f"what of {town}?",
            "pos": [pos],
            "neg": neg,
            "pos_scores": scores[:1],
            "neg_scores": scores[1:],
        }

    towns = [f"{one} {other}" for one in WORDS[:6] for other in WORDS[6:12]]
    data = write_rows(tmp_path / "train.jsonl", [row(town) for town in towns])
    pairs = [(f"what of {town}?", f"{town} {fact}") for town in WORDS[12:] for fact in facts]
    soft, found = ["--knowledge_distillation", "--soft_labels_only"], []
    for number in range(3):
        flags = ["--epochs", "20", "--batch_size", "6", "--learning_rate", "5e-3", *soft[:number]]
        student = train(still_model, data, tmp_path / str(number), *flags)
        found.append(spearmanr(open_reranker(student).score(pairs), [*facts.values()] * len(WORDS[12:])).statistic)
    labels, both, scores = found
    assert labels + 0.03 < both < scores
    assert scores > 0.9
