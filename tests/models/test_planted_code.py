"""Code that comes in a model's folder never runs, whatever asks for it, unless --trust_remote_code says so."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import test_reranker as testing_script
from utils import cli
from utils.errors import InputError
from utils.models.folders import TRUST_CODE
from utils.models.loading import BASE, RERANKER, load_model
from utils.retrieval.encoder import Encoder, open_dense

MODEL = """
from transformers import BertConfig, BertForSequenceClassification

class OwnConfig(BertConfig):
    model_type = "own"

class OwnModel(BertForSequenceClassification):
    config_class = OwnConfig
"""
TOKENIZER = "from transformers import PreTrainedTokenizerFast\nclass Own(PreTrainedTokenizerFast): pass\n"
MODELS = {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.OwnModel"}


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | changes))


def own_architecture(model: Path, code: str, bomb: Bomb) -> None:
    (model / "own.py").write_text(code + MODEL)
    edit(model / "config.json", model_type="own", auto_map=MODELS)


def known_architecture(model: Path, code: str, bomb: Bomb) -> None:
    (model / "own.py").write_text(code + MODEL)
    edit(model / "config.json", auto_map=MODELS)


def tokenizer(model: Path, code: str, bomb: Bomb) -> None:
    (model / "own.py").write_text(code + TOKENIZER)
    edit(model / "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", "own.Own"]})


def first_module(model: Path, code: str, bomb: Bomb) -> None:
    (model / "own.py").write_text(code)
    (model / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "own.Transformer"}]))


def pickled_weights(model: Path, code: str, bomb: Bomb) -> None:
    weights: dict[str, Any] = load_file(model / "model.safetensors") | {"bomb": bomb}
    (model / "model.safetensors").unlink()
    torch.save(weights, model / "pytorch_model.bin")


def plain_pickle(model: Path, code: str, bomb: Bomb) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps({"bomb": bomb}))


def pickled_layer(model: Path, code: str, bomb: Bomb) -> None:
    st = "sentence_transformers.models"
    listed = [{"type": f"{st}.Transformer", "path": ""}, {"type": f"{st}.Pooling", "path": "1_Pooling"}]
    (model / "modules.json").write_text(json.dumps([*listed, {"type": f"{st}.Dense", "path": "2_Dense"}]))
    (model / "2_Dense").mkdir()
    edit(model / "2_Dense" / "config.json", in_features=32, out_features=8)
    torch.save({"linear.weight": bomb}, model / "2_Dense" / "pytorch_model.bin")


def kernel(model: Path, code: str, bomb: Bomb) -> None:
    edit(model / "config.json", _attn_implementation={"": "someone/kernel"})


# What asks for code, and what is said of it: a warning where transformers has the architecture, else an error.
PLANTS: dict[Callable[[Path, str, Bomb], None], str] = {
    own_architecture: "needs code of its own (auto_map in its config.json): read it",
    known_architecture: "its own code (auto_map) does not run",
    tokenizer: "its own code (auto_map) does not run",
    first_module: "module 0, own.Transformer, cannot be applied here: name",
    pickled_weights: "holds more than weights: download it again, or give its weights as model.safetensors",
    plain_pickle: "holds more than weights",
    pickled_layer: "2_Dense has a .bin that is damaged, or holds more than weights",
    kernel: "asks for code from elsewhere (someone/kernel in its config.json): remove that key",
}


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Say yes to all questions, and keep the modules that transformers copies."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setenv(TRUST_CODE, "")


def refusal(load: Callable[[], object]) -> str:
    """Return the one line with which a folder is refused, "" if it is not."""
    try:
        load()
    except InputError as error:
        return str(error)
    return ""


def planted(plant: Callable[[Path, str, Bomb], None], model: Path, mark: Path) -> Path:
    plant(model, f"open({str(mark)!r}, 'w')\n", Bomb(f"touch {mark}"))
    return model


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_no_code_runs_though_stdin_says_yes(
    plant: Any, tiny_reranker: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = planted(plant, Path(shutil.copytree(tiny_reranker, tmp_path / "model")), tmp_path / "ran")
    said = []
    for load in (lambda: load_model(model, RERANKER), lambda: load_model(model, BASE), lambda: Encoder(model)):
        said.append(refusal(load))
        assert not (tmp_path / "ran").exists()
    assert PLANTS[plant] in "\n".join([*said, caplog.text])
    assert all(str(model) in line for line in said if line)


@pytest.mark.parametrize("plant", [own_architecture, known_architecture, tokenizer], ids=lambda plant: plant.__name__)
def test_the_flag_lets_it_run(plant: Any, tiny_reranker: Path, examples_file: Path, tmp_path: Path) -> None:
    model = planted(plant, Path(shutil.copytree(tiny_reranker, tmp_path / "model")), tmp_path / "ran")
    argv = ["--model_path", str(model), "--test_data", str(examples_file), "--output_file", str(tmp_path / "t.json")]
    codes = []
    for flags in ([], ["--trust_remote_code"], []):
        with pytest.raises(SystemExit) as ended:
            cli.run(testing_script.main, [*argv, *flags])
        codes.append((ended.value.code, (tmp_path / "ran").exists()))
        (tmp_path / "ran").unlink(missing_ok=True)
    refused = 2 if plant is own_architecture else 0
    assert codes == [(refused, False), (0, True), (refused, False)]


def test_the_flag_lets_no_pickle_run(tiny_reranker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUST_CODE, "1")
    model = planted(pickled_weights, Path(shutil.copytree(tiny_reranker, tmp_path / "model")), tmp_path / "ran")
    with pytest.raises(InputError, match="more than weights"):
        load_model(model, RERANKER)
    planted(pickled_layer, model, tmp_path / "ran")
    with pytest.raises(InputError, match="more than weights"):
        open_dense(model / "2_Dense")
    assert not (tmp_path / "ran").exists()
    torch.load(model / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "ran").exists()
