"""Models of every kind that users bring: each scores as transformers scores single pairs, or is refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import rerank_ablation_test
import test_reranker as testing_script
import train_reranker
from architectures import ARCHITECTURES, PAIRS, SMALL, bert_like, qwen3, scored_alone
from miniature import save_tokenizer
from utils import cli
from utils.errors import EXIT_UNUSABLE_INPUT, InputError
from utils.models.lengths import Lengths
from utils.models.loading import BASE, ENCODER, RERANKER, load_model
from utils.retrieval.encoder import PASSAGE, Encoder, EncoderOptions
from utils.scoring import open_reranker
from utils.training.groups import Group, collate, encode_pairs
from utils.training.micro_batches import MemoryBudget
from utils.training.settings import TrainingSettings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_batches_score_as_single_pairs_do(architecture: Callable[[str], Path], name: str) -> None:
    folder = architecture(name)
    alone = scored_alone(folder)
    assert np.ptp(alone) > 1e-3  # or all padding would be as good
    assert open_reranker(folder, half=False).score(PAIRS) == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_micro_batches_score_as_single_pairs_do(architecture: Callable[[str], Path], name: str) -> None:
    from utils.training.trainer import GroupedCrossEncoder

    folder = architecture(name)
    tokenizer, model, fresh = load_model(folder, BASE)
    assert fresh == []
    pairs = [p for query, passage in PAIRS for p in encode_pairs(tokenizer, query, [passage], Lengths(120, 130))]
    for multiple in (1, 8):
        scorer = GroupedCrossEncoder(
            model, tokenizer, TrainingSettings(), MemoryBudget(10**6, multiple=multiple)
        ).scorer
        scores = scorer(collate([Group(pairs)])["pair"]).detach().flatten().numpy()
        assert scores == pytest.approx(scored_alone(folder), abs=1e-5)


def test_texts_that_spell_the_end_token_are_scored(architecture: Callable[[str], Path]) -> None:
    from utils.training.trainer import GroupedCrossEncoder

    folder = architecture("T5, without a limit")
    pairs = [*PAIRS, ("who ?", "the </s> mill was </s> by a river")]  # as HTML strikes text out
    alone = scored_alone(folder, pairs)
    assert open_reranker(folder, half=False).score(pairs) == pytest.approx(alone, abs=1e-5)
    tokenizer, model, _ = load_model(folder, BASE)
    encoded = [p for query, passage in pairs for p in encode_pairs(tokenizer, query, [passage], Lengths(120, 130))]
    scorer = GroupedCrossEncoder(model, tokenizer, TrainingSettings(), MemoryBudget(10**6)).scorer
    scores = scorer(collate([Group(encoded)])["pair"])
    assert scores.detach().flatten().numpy() == pytest.approx(alone, abs=1e-5)
    scores.sum().backward()
    assert all(w.grad is None or w.grad.isfinite().all() for w in model.parameters())


# --- a trained folder


def train(model: Path, data: Path, output: Path, *flags: str) -> int:
    argv = ["--model_path", model, "--train_data", data, "--output_dir", output, "--epochs", "1", "--batch_size", "6"]
    argv += ["--query_max_len", "16", "--passage_max_len", "32", "--num_gpus", "1", "--eval_fraction", "0"]
    argv += ["--report_to", "none", "--no_mixed_precision", "--learning_rate", "1e-3", *flags]
    return train_reranker.main([str(part) for part in argv])


@pytest.mark.parametrize(
    "name", ["Qwen3 whose configuration names no padding", "PhoBERT, whose tokenizer is Python", "XLNet, on the left"]
)
def test_a_trained_folder_holds_the_bases_own_files(
    architecture: Callable[[str], Path], examples_file: Path, tmp_path: Path, name: str
) -> None:
    (name,) = (known for known in ARCHITECTURES if known.startswith(name))
    base = Path(shutil.copytree(architecture(name), tmp_path / "base"))
    (base / "special_tokens_map.json").write_text("{ }")
    (base / "README.md").write_text("not the tokenizer's")
    # As an older library wrote it, with a key of which a newer one knows another name.
    config = json.loads((base / "config.json").read_text())
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.40.0"
    (base / "config.json").write_text(json.dumps(config))

    assert train(base, examples_file, tmp_path / "out") == 0
    files = {file.name for file in base.iterdir()} - {"config.json", "model.safetensors", "README.md"}
    assert files >= {"special_tokens_map.json", "tokenizer_config.json"}
    for file in files - {"tokenizer_config.json"}:
        assert (tmp_path / "out" / file).read_bytes() == (base / file).read_bytes()
    settings = json.loads((base / "tokenizer_config.json").read_text())
    lengths = {"model_max_length": 48, "query_max_length": 16}
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text()) == settings | lengths
    trained = json.loads((tmp_path / "out" / "config.json").read_text())
    if config.get("pad_token_id") is None:  # batches need one
        assert trained.pop("pad_token_id") == 0
        config.pop("pad_token_id", None)
    assert trained == config
    alone = scored_alone(tmp_path / "out")
    assert alone != pytest.approx(scored_alone(base), abs=1e-3)
    whole = open_reranker(tmp_path / "out", half=False, query_max_length=120, max_length=250)
    assert whole.score(PAIRS) == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("name", ["Llama without a padding token", "GPT-2 with a padding token beyond its table"])
def test_a_trained_folder_says_how_to_pad_where_its_base_does_not(
    architecture: Callable[[str], Path], examples_file: Path, tmp_path: Path, name: str
) -> None:
    from sentence_transformers import CrossEncoder

    assert train(architecture(name), examples_file, tmp_path / "out") == 0
    theirs = CrossEncoder(str(tmp_path / "out"), device="cpu", activation_fn=torch.nn.Identity()).predict(PAIRS)
    assert theirs == pytest.approx(scored_alone(tmp_path / "out"), abs=1e-5)


def test_shared_weights_resume(architecture: Callable[[str], Path], examples_file: Path, tmp_path: Path) -> None:
    base, out = architecture("T5, without a limit"), tmp_path / "out"
    assert train(base, examples_file, out, "--save_steps", "2") == 0
    whole = (out / "model.safetensors").read_bytes()
    (out / "README.md").unlink()
    assert train(base, examples_file, out, "--save_steps", "2", "--resume") == 0
    assert (out / "model.safetensors").read_bytes() == whole


def test_a_fresh_head_is_reported_and_seeded(
    tiny_encoder: Path, examples_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        assert train(tiny_encoder, examples_file, folder) == 0
    assert "has no trained head (classifier.bias, classifier.weight)" in caplog.text
    assert len({(folder / "model.safetensors").read_bytes() for folder in folders}) == 1


# --- encoders


def masked_language_model(folder: Path, tiny_encoder: Path) -> Path:
    """Save a BERT with the head that its training used, and without a pooler."""
    from transformers import BertConfig, BertForMaskedLM

    shutil.copytree(tiny_encoder, folder)
    torch.manual_seed(3)
    BertForMaskedLM(BertConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


def test_an_encoder_needs_no_pooler_that_it_does_not_use(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = masked_language_model(tmp_path / "mlm", tiny_encoder)
    vectors = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        vectors.append(
            Encoder(folder, EncoderOptions(method="mlm", half=False)).encode(["a river", "the market"], PASSAGE)
        )
    assert np.array_equal(*vectors)
    with pytest.raises(InputError, match=r"has no weights for pooler\.dense"):
        Encoder(folder, EncoderOptions(method="mlm", pooling="pooler"))


@pytest.mark.parametrize("task", [ENCODER, RERANKER, BASE])
def test_weights_that_fit_nothing_are_refused(tiny_reranker: Path, tmp_path: Path, task: str) -> None:
    folder = Path(shutil.copytree(tiny_reranker, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    save_file({f"student.{name}": values for name, values in weights.items()}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"has no weights for .*embeddings.*: its weights and its config\.json"):
        load_model(folder, task)


# --- one line, the same in all scripts


def edit_config(**changes: Any) -> Callable[[Path], object]:
    def edit(model: Path) -> None:
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | changes))

    return edit


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def edit(model: Path) -> None:
        weights = load_file(model / "model.safetensors")
        change(weights)
        save_file(weights, model / "model.safetensors")

    return edit


def only_weights(name: str, content: bytes) -> Callable[[Path], object]:
    def edit(model: Path) -> None:
        (model / "model.safetensors").unlink()
        (model / name).write_bytes(content)

    return edit


def moved_to(place: str) -> Callable[[Path], object]:
    def move(model: Path) -> None:
        whole = model.with_name("whole")
        model.rename(whole)
        (model / place).parent.mkdir(parents=True)
        whole.rename(model / place)

    return move


def old_sentence_transformer(model: Path) -> None:
    moved_to("0_Transformer")(model)
    (model / "modules.json").write_text("[]")


def replaced_by(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def replace(model: Path) -> None:
        shutil.rmtree(model)
        make(model)

    return replace


def two_labels(model: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    BertForSequenceClassification(BertConfig.from_pretrained(model, num_labels=2)).save_pretrained(model)


def language_model(model: Path) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    qwen3(model)
    Qwen3ForCausalLM(Qwen3Config.from_pretrained(model)).save_pretrained(model)


def without_a_mask(model: Path) -> None:
    """An architecture that mixes all tokens, padding among them, and takes no mask."""
    from transformers import FNetConfig, FNetForSequenceClassification

    size = save_tokenizer(
        model, ["<pad>", "<unk>", "<s>", "</s>"], "<s> $A </s> $B </s>", pad_token="<pad>", model_max_length=64,
        model_input_names=["input_ids"],
    )  # fmt: skip
    FNetForSequenceClassification(FNetConfig(vocab_size=size, num_labels=1, **SMALL)).save_pretrained(model)


def link_to_nothing(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").symlink_to("../blobs/0a1b")


def missing_shard(model: Path) -> None:
    from transformers import BertForSequenceClassification

    BertForSequenceClassification.from_pretrained(model).save_pretrained(model, max_shard_size="20KB")
    (model / "model.safetensors").unlink(missing_ok=True)
    sorted(model.glob("*-of-*.safetensors"))[1].unlink()


def more_tokens(model: Path) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["beyond"] = 100_000
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))


def a_file(model: Path) -> None:
    weights = (model / "model.safetensors").read_bytes()
    shutil.rmtree(model)
    model.write_bytes(weights)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:12ab\nsize 1234\n"
CUSTOM = {"model_type": "unheard", "auto_map": {"AutoConfig": "c.C", "AutoModelForSequenceClassification": "m.M"}}
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (a_file, "is a file: give the folder"),
    "an adapter": (lambda m: (m / "config.json").rename(m / "adapter_config.json"), "is an adapter (adapter_config"),
    "ONNX alone": (only_weights("model.onnx", b"\x08"), "has no weights: give the folder of a complete model"),
    "no tokenizer": (lambda m: (m / "tokenizer.json").unlink(), "has no tokenizer"),
    "a hub's cache": (moved_to("snapshots/0a1b"), "has no config.json and no weights and no tokenizer: give /"),
    "checkpoints alone": (moved_to("checkpoint-20"), "model/checkpoint-20"),
    "an old sentence-transformer": (old_sentence_transformer, "give what SentenceTransformer(folder).save(other)"),
    "a configuration that is cut": (
        lambda m: (m / "config.json").write_text('{"mod'),
        "a config.json that is not valid JSON",
    ),
    "a configuration that is a list": (lambda m: (m / "config.json").write_text("[]"), "that is not a JSON object"),
    "an unknown architecture": (edit_config(model_type="unheard"), "cannot be loaded (The checkpoint you are trying"),
    "code of its own": (edit_config(**CUSTOM), "needs code of its own (auto_map in its config.json)"),
    "quantized weights": (edit_config(quantization_config={"quant_method": "gptq"}), "is quantized (gptq)"),
    "weights in 8 bits": (
        edit_weights(lambda w: w.update({name: (values * 50).to(torch.int8) for name, values in w.items()})),
        "is quantized (model.safetensors holds I8)",
    ),
    "weights in an 8-bit float": (
        edit_weights(lambda w: w.update({name: values.to(torch.float8_e4m3fn) for name, values in w.items()})),
        "is quantized (model.safetensors holds F8_E4M3)",
    ),
    "an LFS pointer": (only_weights("model.safetensors", POINTER), "has a Git LFS pointer in place of model.safe"),
    "an LFS pointer to .bin": (only_weights("pytorch_model.bin", POINTER), "in place of pytorch_model.bin: run git"),
    "an LFS pointer to words": (lambda m: (m / "tokenizer.json").write_bytes(POINTER), "in place of tokenizer.json"),
    "empty weights": (only_weights("model.safetensors", b""), "has a truncated model.safetensors"),
    "empty .bin": (only_weights("pytorch_model.bin", b""), "cannot be loaded"),
    "cut .bin": (only_weights("pytorch_model.bin", b"PK\x03\x04" + b"x" * 99), "cannot be loaded"),
    "cut weights": (
        lambda m: (m / "model.safetensors").write_bytes((m / "model.safetensors").read_bytes()[:-9]),
        "has a truncated model.safetensors",
    ),
    "a missing shard": (missing_shard, "-of-"),
    "an empty tokenizer": (lambda m: (m / "tokenizer.json").write_text("{}"), "cannot be loaded"),
    "tokenizer settings that are cut": (
        lambda m: (m / "tokenizer_config.json").write_text('{"model_max'),
        "a tokenizer_config.json that is not valid JSON",
    ),
    "no room for a pair": (
        lambda m: (m / "tokenizer_config.json").write_text('{"model_max_length": 2}'),
        "takes no more than 2 tokens (model_max_length",
    ),
    "a link to nothing": (link_to_nothing, "has no weights"),
    "padding that changes scores": (replaced_by(without_a_mask), "gives texts in a batch other outputs than alone"),
    "two labels": (two_labels, "has 2 labels (classifier.bias), where a reranker has one score"),
    "a language model": (replaced_by(language_model), "is a language model (Qwen3ForCausalLM)"),
    "other shapes": (edit_config(intermediate_size=48), "in shape (64,), but its config.json asks for (48,)"),
    "other token types": (edit_config(type_vocab_size=1), "token_type_embeddings.weight in shape (2, 32), but its"),
    "more layers than weights": (edit_config(num_hidden_layers=3), "has no weights for bert.encoder.layer.2."),
    "weights that are not finite": (
        edit_weights(lambda w: w["bert.pooler.dense.bias"].fill_(np.nan)),
        "weights that are not finite (bert.pooler.dense.bias)",
    ),
    "tokens beyond the table": (more_tokens, "its tokenizer gives 'beyond' the id 100000"),
    "token types beyond the table": (
        replaced_by(lambda m: bert_like(m, type_vocab_size=1)),
        'gives the type 1: set "model_input_names"',
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_model_that_cannot_be_used_is_one_line_the_same_in_all_scripts(
    fault: str,
    tiny_reranker: Path,
    examples_file: Path,
    config_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = Path(shutil.copytree(tiny_reranker, tmp_path / "model"))
    spoil, expected = REFUSED[fault]
    spoil(model)
    config_file.write_text(yaml.safe_dump(yaml.safe_load(config_file.read_text()) | {"reranker_path": str(model)}))
    commands: list[tuple[Callable[..., Any], list[object]]] = [
        (train_reranker.main, ["--model_path", model, "--train_data", examples_file, "--num_gpus", "1"]),
        (testing_script.main, ["--model_path", model, "--test_data", examples_file]),
        (rerank_ablation_test.main, ["--config", config_file, "--single", "zs"]),
    ]
    commands[0][1].extend(["--output_dir", tmp_path / "out"])
    commands[1][1].extend(["--output_file", tmp_path / "test.json"])
    commands[2][1].extend(["--output_file", tmp_path / "ablation.json"])
    lines = set()
    for script, argv in commands:
        with pytest.raises(SystemExit) as stop:
            cli.run(script, [*map(str, argv), "--quiet"])
        assert stop.value.code == EXIT_UNUSABLE_INPUT
        lines.add("".join(line for line in capsys.readouterr().err.splitlines(True) if line[:7] != "WARNING"))
    (line,) = lines
    assert line.startswith(f"error: model {model} ")
    assert expected in line
    assert line.count("\n") == 1
