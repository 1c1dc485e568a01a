"""Scoring: the lengths that a folder carries, what goes before them, and that four libraries agree on them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import train_reranker
from utils.config import load_config
from utils.scoring import CachedScorer, open_reranker, reranker_options

pytestmark = pytest.mark.usefixtures("one_thread")
LONG = "the market of belmont lies on a river and was founded by miners who held a fair each week " * 4
PAIRS = [("what of arden?", f"a river {LONG}"), ("what of elgin?", f"{LONG} a market"), ("elgin", "a short one")]


@pytest.fixture(scope="module")
def trained(tiny_reranker: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny reranker trained at 40 tokens, 16 of them the query's."""
    folder = tmp_path_factory.mktemp("trained")
    rows = [{"query": f"what of {n}?", "pos": [f"a river {n}"], "neg": [f"the market {n}"]} for n in range(8)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["--model_path", tiny_reranker, "--train_data", folder / "train.jsonl", "--output_dir", folder / "out"]
    argv += ["--query_max_len", "16", "--passage_max_len", "24", "--eval_fraction", "0", "--report_to", "none"]
    argv += ["--epochs", "1", "--learning_rate", "1e-2", "--num_gpus", "1", "--save_steps", "0"]
    assert train_reranker.main([str(part) for part in argv]) == 0
    return folder / "out"


def test_four_libraries_score_alike_at_the_lengths_of_the_folder(trained: Path) -> None:
    from FlagEmbedding import FlagReranker
    from sentence_transformers import CrossEncoder
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    ours = open_reranker(trained, half=False).score(PAIRS)
    cross = CrossEncoder(str(trained), activation_fn=torch.nn.Identity(), device="cpu").predict(PAIRS)
    tokenizer = AutoTokenizer.from_pretrained(trained)
    model = AutoModelForSequenceClassification.from_pretrained(trained).eval()
    with torch.no_grad():
        inputs = tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True, truncation=True, return_tensors="pt")
        plain = model(**inputs).logits.flatten().tolist()
    assert inputs["input_ids"].shape[1] == 40
    # FlagReranker reads no length from a folder: its own default is 512, whatever the model.
    flag = FlagReranker(str(trained), use_fp16=False, devices="cpu", max_length=tokenizer.model_max_length)
    for scores in (cross.tolist(), plain, flag.compute_score(PAIRS)):
        assert ours == pytest.approx(scores, abs=1e-5)
    assert ours != pytest.approx(open_reranker(trained, half=False, max_length=512).score(PAIRS), abs=1e-4)


def test_lengths_survive_a_round_trip_through_transformers(trained: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    AutoTokenizer.from_pretrained(trained).save_pretrained(tmp_path)
    AutoModelForSequenceClassification.from_pretrained(trained).save_pretrained(tmp_path)
    assert open_reranker(tmp_path).lengths == open_reranker(trained).lengths == (16, 24)


def test_a_flag_or_key_goes_before_the_folder_and_is_reported(
    trained: Path, config_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert open_reranker(trained).lengths == open_reranker(trained, max_length=40).lengths == (16, 24)
    config = load_config(config_file)
    assert open_reranker(trained, reranker_options(config)).lengths == (16, 24)
    assert "trained at" not in caplog.text
    assert open_reranker(trained, max_length=256).lengths == (16, 240)
    assert (
        f"model {trained} was trained at 40 tokens (query: 16), scored at 256 (query: 16) as --max_length"
        in caplog.text
    )
    caplog.clear()
    options = reranker_options(replace(config, query_max_length=512, passage_max_length=8192))
    assert open_reranker(trained, options).lengths == (384, 128)  # what the positions allow
    assert "scored at 512 (query: 384) as" in caplog.text
    assert "passage_max_length" in caplog.text


def test_folders_without_lengths_are_scored_as_before(
    tiny_reranker: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert open_reranker(tiny_reranker).lengths == (384, 128)
    assert open_reranker(tiny_reranker, max_length=40).lengths == (30, 10)
    folder = Path(shutil.copytree(tiny_reranker, tmp_path / "model"))
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert open_reranker(folder, max_length=512).lengths == (48, 16)  # the tokenizer's own limit
    assert "trained at" not in caplog.text


def test_pairs_are_scored_once(tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = open_reranker(tiny_reranker, half=False)
    expected = reranker.score(PAIRS)
    asked: list[int] = []
    monkeypatch.setattr(reranker, "score", lambda pairs, desc: asked.append(len(pairs)) or expected[: len(pairs)])
    cached = CachedScorer(reranker)
    assert cached.score([*PAIRS, PAIRS[0]]).tolist() == [*expected, expected[0]]
    assert cached.score(PAIRS[::-1]).tolist() == expected[::-1].tolist()
    assert asked == [3, 0]
