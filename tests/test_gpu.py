"""What only a GPU can show: scores, vectors, rankings and trainings there, and memory that runs out."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from miniature import FACTS, TOWNS
from trainings import evaluations, river_rows, train_and_kill, train_evaluated, weights, write_rows
from utils.config import load_config
from utils.corpus.documents import Corpus
from utils.files import SCRIPTS
from utils.retrieval.arms import ARMS, BASE, FINE_TUNED
from utils.retrieval.corpus_vectors import encode_blocks
from utils.retrieval.encoder import PASSAGE, POOLER, POOLINGS, Encoder, EncoderOptions
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import open_retrieval
from utils.scoring import open_reranker
from utils.training.groups import Group, collate
from utils.training.launch import environment
from utils.training.micro_batches import MemoryBudget, MicroBatchScorer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GPU = "cuda:0"
# Of the scores' range, or between vectors of length 1: the largest distance from the CPU's in full precision, by
# models whose weights are random and large.
TOLERANCES = {"fp32": 1e-4, "bf16": 0.15, "fp16": 0.02}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PAIRS = [(f"what of {town}?", f"{town} {fact}. " * times) for town in TOWNS for times, fact in enumerate(FACTS, 1)]


@pytest.fixture(scope="module")
def reranker_folder(tiny_reranker: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny reranker with weights large enough to give different pairs different scores."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("gpu") / "reranker"
    model = AutoModelForSequenceClassification.from_pretrained(tiny_reranker)
    with torch.no_grad():
        for values in model.parameters():
            values.mul_(10 if values.dim() > 1 else 1)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_reranker).save_pretrained(folder)
    return folder


@pytest.fixture(params=DTYPES)
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The precision of what is opened in the test: fp16 is that of GPUs without bf16."""
    if request.param == "fp16":
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    return request.param


@pytest.fixture
def small_memory() -> Iterator[Callable[[float], None]]:
    """Limits what torch may take of the GPU's memory to what it has taken and so many MiB more."""

    def limit(more: float) -> None:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + more * 2**20) / total)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_scores_are_those_of_the_cpu(reranker_folder: Path, precision: str) -> None:
    on_gpu = open_reranker(reranker_folder, half=precision != "fp32")
    assert on_gpu.device == GPU
    assert next(on_gpu.model.parameters()).dtype == DTYPES[precision]
    expected = open_reranker(reranker_folder, half=False, device="cpu").score(PAIRS)
    assert len(set(expected)) == len(PAIRS)
    np.testing.assert_allclose(on_gpu.score(PAIRS), expected, rtol=0, atol=TOLERANCES[precision] * np.ptp(expected))


@pytest.mark.parametrize("pooling", [*POOLINGS, POOLER, "cls+max"])
def test_vectors_are_those_of_the_cpu(tiny_encoder: Path, precision: str, pooling: str) -> None:
    half = precision != "fp32"
    on_gpu = Encoder(tiny_encoder, EncoderOptions(pooling=pooling, half=half))
    on_cpu = Encoder(tiny_encoder, EncoderOptions(pooling=pooling, half=False), ["cpu"])
    assert (on_gpu.device, on_gpu.model.dtype) == (GPU, DTYPES[precision])
    texts = [passage for _, passage in PAIRS]
    vectors, expected = on_gpu.encode(texts, PASSAGE), on_cpu.encode(texts, PASSAGE)
    assert np.linalg.norm(vectors - expected, axis=1).max() <= TOLERANCES[precision]


def test_arms_rank_as_on_the_cpu(config_file: Path, reranker_folder: Path) -> None:
    config = load_config(config_file).override(retrieval_use_fp16=False)
    corpus, lists = Corpus(config.corpus), []
    sources = [document for document, _ in zip(corpus, range(4), strict=False)]
    for device in (GPU, "cpu"):
        index = {"tiny": str(config_file.with_name(f"{device}.index"))}
        rerankers = dict.fromkeys((BASE, FINE_TUNED), open_reranker(reranker_folder, half=False, device=device))
        placed = config.override(retrieval_devices=device, method2index=index)
        retriever = open_retrieval(placed, corpus, Lambdas.scaled(0.85, 0.05, 0.1), rerankers)
        found = retriever.retrieve([*ARMS], [source.title for source in sources], sources, 5)
        lists.append([{arm: [one.document.id for one in ranked] for arm, ranked in arms.items()} for arms in found])
    assert lists[0] == lists[1]


def test_several_devices_encode_a_corpus(tiny_encoder: Path, corpus_file: Path) -> None:
    corpus, options = Corpus(corpus_file), EncoderOptions(half=False)
    vectors = []
    for devices in (["cpu"], [GPU, "cpu"]):
        encoder = Encoder(tiny_encoder, options, devices)
        blocks = [range(start, min(start + 4, len(corpus))) for start in range(0, len(corpus), 4)]
        vectors.append(np.concatenate([*encode_blocks(corpus, encoder, blocks)]))
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)


@pytest.mark.parametrize(("visible", "devices"), [("", ["cpu"]), ("0", [GPU])])
def test_the_environment_decides_what_is_visible(visible: str, devices: list[str]) -> None:
    code = "from utils import cli; cli.use_gpus('0')\nfrom utils.models.devices import *; print(visible_devices())"
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS), "CUDA_VISIBLE_DEVICES": visible}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(devices)


def test_batches_shrink_where_memory_runs_out(
    reranker_folder: Path,
    tiny_encoder: Path,
    small_memory: Callable[[float], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    pairs = [(query, passage * 20) for query, passage in PAIRS * 20]
    reranker = open_reranker(reranker_folder, half=False, max_length=256, batch_size=len(pairs))
    encoder = Encoder(tiny_encoder, EncoderOptions(half=False, batch_size=4 * len(pairs)))
    texts = [passage for _, passage in pairs]
    expected = reranker.score(pairs), encoder.encode(texts, PASSAGE)
    assert "out of memory" not in caplog.text
    small_memory(60)
    np.testing.assert_allclose(reranker.score(pairs), expected[0], atol=1e-4)
    assert "out of memory: from here on, batches hold at most" in caplog.text
    caplog.clear()
    np.testing.assert_allclose(encoder.encode(texts, PASSAGE), expected[1], atol=1e-4)
    assert "out of memory: from here on, batches hold at most" in caplog.text


def gradients(folder: Path, device: str, memory: MemoryBudget) -> tuple[torch.Tensor, list[Any]]:
    """Scores of 256 pairs of up to 128 tokens, and the gradients of their listwise loss."""
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(1)
    lengths = torch.randint(8, 128, (256,)).tolist()
    pairs = [{"input_ids": torch.randint(5, 60, (n,)).tolist(), "token_type_ids": [0] * n} for n in lengths]
    batch = collate([Group(pairs)])["pair"]
    batch |= {key: values.to(device) for key, values in batch.items() if key != "lengths"}
    model = AutoModelForSequenceClassification.from_pretrained(folder).to(device).eval()
    scores = MicroBatchScorer(model, {"input_ids": 0, "token_type_ids": 0}, memory)(batch)
    torch.nn.functional.cross_entropy(scores.view(-1, 4), torch.zeros(64, dtype=torch.long, device=device)).backward()
    return scores.detach().cpu(), [p.grad.cpu() for p in model.parameters() if p.grad is not None]


def test_a_step_goes_on_where_memory_runs_out(
    reranker_folder: Path, small_memory: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    expected, theirs = gradients(reranker_folder, "cpu", MemoryBudget(4096))
    gradients(reranker_folder, GPU, MemoryBudget(256))  # what the libraries keep for themselves is not to be short
    small_memory(60)
    memory = MemoryBudget(256 * 128)
    scores, found = gradients(reranker_folder, GPU, memory)
    assert "activations are computed again" in caplog.text
    assert memory.max_tokens < 256 * 128
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)
    for ours, other in zip(found, theirs, strict=True):
        torch.testing.assert_close(ours, other, atol=1e-3 * float(other.abs().max()) + 1e-6, rtol=0)


@pytest.mark.parametrize("half", [False, True])
def test_recomputation_draws_the_same_dropout(reranker_folder: Path, half: bool) -> None:
    from transformers import AutoModelForSequenceClassification

    pairs = [{"input_ids": [*range(5, 5 + n)]} for n in range(8, 40, 4)]
    batch = collate([Group(pairs)])["pair"] | {"input_ids": collate([Group(pairs)])["pair"]["input_ids"].to(GPU)}
    model = AutoModelForSequenceClassification.from_pretrained(reranker_folder).to(GPU).train()
    results = []
    for keep in (True, False):
        torch.manual_seed(3)
        with environment(False, deterministic=True):  # one kernel of attention for both
            with torch.autocast("cuda", torch.bfloat16, enabled=half):
                scores = MicroBatchScorer(model, {"input_ids": 0}, MemoryBudget(80, keep))(batch)
            results.append((scores.detach(), torch.autograd.grad(scores.square().sum(), model.classifier.weight)[0]))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=0)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", river_rows(240))


ZERO = {"zero_optimization": {"stage": 2}, "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto"}
MODES = {
    "bf16": ["--bf16", "--keep_close", "1", "--mix_with_base", "auto"],
    "fp16": ["--fp16"],
    "fp32": ["--no_mixed_precision", "--max_tokens_per_micro_batch", "256"],
    "DeepSpeed, bf16": ["--use_deepspeed"],
    "DeepSpeed, fp16": ["--use_deepspeed", "--fp16"],
    "ZeRO 2, bf16": ["--use_deepspeed", "--ds_config", "zero.json"],
}


@pytest.mark.parametrize("mode", MODES)
def test_a_killed_training_leaves_what_an_undisturbed_one_does(
    mode: str, tiny_reranker: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = [*MODES[mode], "--deterministic"]
    (tmp_path / "zero.json").write_text(json.dumps(ZERO))
    assert train_evaluated(tiny_reranker, data, tmp_path / "whole", *flags) == 0
    state = json.loads((tmp_path / "whole" / "checkpoint-12" / "trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert all(map(math.isfinite, losses))
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    killed = train_and_kill(tiny_reranker, data, tmp_path / "killed", *flags)
    assert train_evaluated(tiny_reranker, data, killed, *flags, "--resume") == 0
    assert {values.dtype for values in weights(killed).values()} == {torch.float32}
    assert evaluations(killed) == evaluations(tmp_path / "whole")
    assert (killed / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("script", ["train_reranker", "test_reranker"])
def test_a_model_too_large_for_the_gpu_is_one_line(
    script: str, tiny_reranker: Path, examples_file: Path, tmp_path: Path
) -> None:
    code = f"import torch; torch.cuda.set_per_process_memory_fraction(0.0)\nimport {script}; from utils import cli\n"
    argv = {
        "train_reranker": ["--train_data", str(examples_file), "--output_dir", str(tmp_path / "out")],
        "test_reranker": ["--test_data", str(examples_file)],
    }[script]
    command = [sys.executable, "-c", f"{code}cli.run({script}.main)", "--model_path", str(tiny_reranker), *argv]
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: out of memory")
    assert "Traceback" not in done.stderr
