"""Vectors against sentence-transformers, over tiny folders of every kind, and what their fingerprint covers."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from utils.config import load_config
from utils.corpus.documents import Corpus
from utils.errors import InputError, RunError
from utils.files import write_json
from utils.models.folders import weights_fingerprint
from utils.retrieval.encoder import PASSAGE, POOLINGS, QUERY, Encoder, EncoderOptions, open_dense
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import open_retrieval
from utils.scoring import open_reranker

pytestmark = pytest.mark.usefixtures("one_thread")


TEXTS = ["a lake", "The Harbour town lies on a River and holds a market each week", "salt and slate " * 40, "x"]


def opened(folder: Path, **options: Any) -> Encoder:
    return Encoder(folder, EncoderOptions(**options))


def assert_like_sentence_transformers(folder: Path, **prompts: str) -> None:
    """Compare all texts as queries and as passages; ``prompts`` are the names of the prompts that it is to take."""
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(folder), device="cpu")
    ours = opened(folder, half=False)
    for kind in (QUERY, PASSAGE):
        expected = theirs.encode(TEXTS, prompt_name=prompts.get(kind), normalize_embeddings=True)
        assert ours.encode(TEXTS, kind).shape == expected.shape
        assert (ours.encode(TEXTS, kind) * expected).sum(1).min() >= 0.9999, kind


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
        {"pooling_mode_mean_tokens": True},
        {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False},
        {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False},
        {"pooling_mode_weightedmean_tokens": True},
        {"pooling_mode_mean_sqrt_len_tokens": True},
        {"pooling_mode_cls_token": True, "pooling_mode_mean_sqrt_len_tokens": True},
        {"pooling_mode": "cls"},
        {"pooling_mode": ["max", "lasttoken"]},
        {},
    ],
)
def test_pooling_is_that_of_the_folder(st_folder: Callable, pooling: dict[str, Any]) -> None:
    assert_like_sentence_transformers(st_folder(pooling))


@pytest.mark.parametrize("mode", ["cls", "mean", "max", "lasttoken", "weightedmean"])
def test_prompt_is_that_of_the_folder_and_pooled_only_where_it_says_so(st_folder: Callable, mode: str) -> None:
    prompts = {"prompts": {"query": "find a lake: ", "document": "the text: "}, "default_prompt_name": None}
    for included in (True, False):
        folder = st_folder({"pooling_mode": mode, "include_prompt": included}, prompts, name=f"model-{included}")
        assert_like_sentence_transformers(folder, query="query", passage="document")


@pytest.mark.parametrize(
    ("prompts", "default", "names"),
    [
        ({"query": "a lake: "}, None, {"query": "query"}),
        ({"query": "a lake: ", "document": "", "passage": "salt: "}, None, {"query": "query", "passage": "passage"}),
        ({"corpus": "salt: "}, None, {"passage": "corpus"}),
        ({"river": "the river: "}, "river", {"query": "river", "passage": "river"}),
        ({"query": "", "document": "", "river": "the river: "}, "river", {"query": "river", "passage": "river"}),
        ({"query": "a lake: "}, "query", {"query": "query", "passage": "document"}),  # no query's prompt on passages
        ({"document": "salt: "}, "document", {"query": "query", "passage": "document"}),
        ({"query": "", "document": ""}, None, {}),
        ({}, None, {}),
    ],
)
def test_prompts_go_to_their_texts(
    st_folder: Callable, prompts: dict, default: str | None, names: dict[str, str]
) -> None:
    folder = st_folder(prompts={"prompts": prompts, "default_prompt_name": default})
    assert_like_sentence_transformers(folder, **names)


@pytest.mark.parametrize("length", [{"max_seq_length": 12}, {"max_seq_length": None}, {"do_lower_case": True}])
def test_length_and_case_are_those_of_the_folder(st_folder: Callable, length: dict[str, Any]) -> None:
    assert_like_sentence_transformers(st_folder(length=length))


def test_lower_case_counts_where_the_tokenizer_is_case_sensitive(st_folder: Callable) -> None:
    fingerprints = {}
    for sensitive in (False, True):
        for lower in (False, True):
            folder = st_folder(length={"do_lower_case": lower}, name=f"{sensitive}-{lower}")
            if sensitive:
                file = folder / "tokenizer_config.json"
                write_json(file, json.loads(file.read_text()) | {"do_lower_case": False})
            fingerprints[sensitive, lower] = Encoder(folder).fingerprint
            assert_like_sentence_transformers(folder)
    assert fingerprints[False, True] == fingerprints[False, False]
    assert fingerprints[True, True] != fingerprints[True, False]


def test_further_steps_are_applied(st_folder: Callable) -> None:
    import torch
    from sentence_transformers.base.modules.dense import Dense

    torch.manual_seed(3)
    folder = st_folder(modules=("Transformer", "Pooling", "Normalize", "Dense", "Normalize"))
    (folder / "3_Dense").mkdir()
    Dense(32, 16).save(str(folder / "3_Dense"))
    assert_like_sentence_transformers(folder)
    encoder = Encoder(folder)
    assert encoder.dimension == 16
    Dense(32, 16).save(str(folder / "3_Dense"))
    assert Encoder(folder).fingerprint != encoder.fingerprint


def test_layer_that_was_saved_on_a_gpu_opens_without_one(st_folder: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    folder = st_folder(modules=("Transformer", "Pooling", "Dense"))
    write_json(folder / "2_Dense" / "config.json", {"in_features": 32, "out_features": 16})
    layer = torch.nn.Linear(32, 16)
    with monkeypatch.context() as patch:
        patch.setattr("torch.serialization.location_tag", lambda _: "cuda:0")
        state = {f"linear.{name}": values for name, values in layer.state_dict().items()}
        torch.save(state, folder / "2_Dense" / "pytorch_model.bin")
    assert torch.equal(open_dense(folder / "2_Dense")[0].weight, layer.weight)


def test_transformer_in_a_folder_of_its_own(st_folder: Callable) -> None:
    folder = st_folder({"pooling_mode": "cls"})
    (inner := folder / "0_Transformer").mkdir()
    for pattern in ("*.safetensors", "config.json", "tokenizer*", "sent*"):
        for file in folder.glob(pattern):
            shutil.move(file, inner)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write_json(folder / "modules.json", modules)
    assert_like_sentence_transformers(folder)


def test_encoder_of_t5_is_used_without_its_decoder(tmp_path: Path) -> None:
    from transformers import T5Config, T5Model

    from miniature import t5

    t5(tmp_path / "t5")
    T5Model(T5Config.from_pretrained(tmp_path / "t5")).save_pretrained(tmp_path / "t5")
    write_json(tmp_path / "t5" / "1_Pooling" / "config.json", {"pooling_mode": "mean", "word_embedding_dimension": 32})
    names = {"": "Transformer", "1_Pooling": "Pooling"}.items()
    kind = "sentence_transformers.models"
    modules = [{"path": at, "type": f"{kind}.{name}", "name": at or "0", "idx": 0} for at, name in names]
    write_json(tmp_path / "t5" / "modules.json", modules)
    assert_like_sentence_transformers(tmp_path / "t5")


def test_missing_transformer_is_refused(st_folder: Callable) -> None:
    folder = st_folder()
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write_json(folder / "modules.json", modules)
    with pytest.raises(InputError, match="0_Transformer was not found: download it again"):
        Encoder(folder)


@pytest.mark.parametrize(
    ("pooling", "weights", "activation", "problem"),
    [
        (["cls", "mean"], "whole", "torch.nn.Tanh", r"takes 32 numbers, but cls\+mean pooling gives 64"),
        ("mean", "missing", "torch.nn.Tanh", "2_Dense cannot be loaded"),
        ("mean", "cut", "torch.nn.Tanh", "2_Dense cannot be loaded"),
        ("mean", "whole", "mine.Swirl", "such a layer cannot be applied here"),
    ],
)
def test_layer_that_cannot_be_applied_is_refused(
    st_folder: Callable, pooling: Any, weights: str, activation: str, problem: str
) -> None:
    from safetensors.torch import save_file
    from torch.nn import Linear

    folder = st_folder({"pooling_mode": pooling}, modules=("Transformer", "Pooling", "Dense"))
    dense = {"in_features": 32, "out_features": 16, "bias": True, "activation_function": activation}
    write_json(folder / "2_Dense" / "config.json", dense)
    file = folder / "2_Dense" / "model.safetensors"
    if weights != "missing":
        save_file({f"linear.{name}": value for name, value in Linear(32, 16).state_dict().items()}, file)
    if weights == "cut":
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(InputError, match=problem):
        Encoder(folder)


@pytest.mark.parametrize("pooling", [*POOLINGS, "pooler", "cls+max"])
def test_pooling_is_its_definition(tiny_encoder: Path, pooling: str) -> None:
    import torch

    encoder = opened(tiny_encoder, pooling=pooling, half=False)
    texts = ["a lake", "the harbour town lies on a river and holds a market each week"]
    with torch.inference_mode():
        for text, vector in zip(texts, encoder.encode(texts, PASSAGE), strict=True):
            output = encoder.model(**encoder.tokenizer(text, return_tensors="pt").to(encoder.device))
            hidden = output.last_hidden_state[0].cpu()
            places = torch.arange(1, len(hidden) + 1).unsqueeze(1)
            expected = {
                "mean": hidden.mean(0),
                "cls": hidden[0],
                "max": hidden.max(0).values,
                "last": hidden[-1],
                "mean_sqrt_len_tokens": hidden.sum(0) / len(hidden) ** 0.5,
                "weightedmean": (hidden * places).sum(0) / places.sum(),
                "pooler": output.pooler_output[0].cpu(),
                "cls+max": torch.cat([hidden[0], hidden.max(0).values]),
            }[pooling].numpy()
            np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)


@pytest.mark.parametrize("pooling", ["median", "cls+median", "pooler+cls", ""])
def test_unknown_pooling_is_refused(tiny_encoder: Path, pooling: str) -> None:
    if not pooling:
        assert opened(tiny_encoder, method="e5", pooling=pooling).conventions.pooling == "mean"
        return
    with pytest.raises(InputError, match=r"pooling of e5: '(median|pooler)' is unknown; let model2pooling"):
        opened(tiny_encoder, method="e5", pooling=pooling)


def test_pooler_that_is_missing_is_refused(tiny_encoder: Path) -> None:
    encoder = opened(tiny_encoder, pooling="pooler")
    encoder.model.pooler = None
    with pytest.raises(InputError, match="has no pooler"):
        encoder.encode(["a lake"], QUERY)


def test_length_is_at_most_that_of_the_tokenizer(st_folder: Callable, tiny_encoder: Path, tmp_path: Path) -> None:
    assert opened(st_folder(length={"max_seq_length": 9999}), max_length=9999).max_length == 512
    short = Path(shutil.copytree(tiny_encoder, tmp_path / "short"))
    file = short / "tokenizer_config.json"
    write_json(file, json.loads(file.read_text()) | {"model_max_length": 20})
    encoder = opened(short, max_length=9999)
    assert encoder.max_length == 20
    assert len(encoder.encode(["lake " * 100], QUERY)) == 1


@pytest.mark.parametrize(("length", "instruction"), [(0, ""), (-3, ""), (2, ""), (8, "the river of the lake lies")])
def test_length_without_room_for_a_text_is_refused(tiny_encoder: Path, length: int, instruction: str) -> None:
    with pytest.raises(InputError, match=f"retrieval_query_max_length {length}: .* raise it"):
        opened(tiny_encoder, max_length=length, instruction=instruction)
    opened(tiny_encoder, max_length=3)


def test_model_whose_vectors_are_not_finite_is_refused(tiny_encoder: Path) -> None:
    encoder = Encoder(tiny_encoder)
    for value in (float("nan"), float("inf"), 0.0):
        for weight in encoder.model.encoder.layer[-1].output.LayerNorm.parameters():
            weight.data.fill_(value)
        with pytest.raises(RunError, match=r"no vector for 2 of 2 texts, such as 'a lake': set retrieval_use_fp16"):
            encoder.encode(["a lake", "salt"], PASSAGE)


def test_yaml_reaches_the_encoder(config_file: Path) -> None:
    def retrieval(**keys: Any) -> Any:
        config_file.write_text(yaml.safe_dump(values | keys))
        config = load_config(config_file)
        return open_retrieval(config, Corpus(config.corpus), Lambdas(1, 0, 0))

    values = yaml.safe_load(config_file.read_text())
    plain = retrieval()
    said = retrieval(instruction="ask: ", passage_instruction="text: ", model2pooling={"tiny": "cls"})
    assert said.encoder.conventions[:3] == ("cls", "ask: ", "text: ")
    assert retrieval(retrieval_pooling_method="max", model2pooling={"tiny": "cls"}).encoder.conventions.pooling == "max"
    assert retrieval(model2pooling={"tiny": None}).encoder.conventions.pooling == "mean"
    # A run cannot resume with other instructions, and an index not with other vectors.
    assert plain.settings["encoder"] != said.settings["encoder"]
    assert "instruction" not in plain.settings
    assert said.settings["instruction"] == "ask: "


def test_fingerprint_follows_what_vectors_depend_on(tiny_encoder: Path) -> None:
    plain = Encoder(tiny_encoder)
    assert opened(tiny_encoder, pooling="mean", instruction="ask: ", method="x").fingerprint == plain.fingerprint
    others = [{"pooling": "cls"}, {"passage_instruction": "text: "}, {"max_length": 40}, {"method": "e5"}]
    fingerprints = [opened(tiny_encoder, **other).fingerprint for other in others]
    assert len({plain.fingerprint, *fingerprints}) == 5


def test_fingerprint_of_plain_folders_is_what_it_was(tiny_encoder: Path) -> None:
    described = "\0".join([weights_fingerprint(tiny_encoder), "mean", "passage: ", "512"])
    assert opened(tiny_encoder, method="e5").fingerprint == hashlib.sha256(described.encode()).hexdigest()


def test_links_and_folders_have_no_part_in_the_fingerprint(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_encoder, tmp_path / "model"))
    (folder / "pytorch_model.bin").symlink_to("nothing")
    (folder / "openvino.bin").mkdir()
    assert Encoder(folder).fingerprint == Encoder(tiny_encoder).fingerprint


def test_encoder_changes_with_its_weights(tiny_encoder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_encoder, tmp_path / "other"))
    assert Encoder(other).fingerprint == Encoder(tiny_encoder).fingerprint
    weights = other / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert Encoder(other).fingerprint != Encoder(tiny_encoder).fingerprint


def test_devices_that_cannot_be_seen_are_refused(tiny_encoder: Path, tiny_reranker: Path) -> None:
    with pytest.raises(InputError, match="retrieval_devices names cuda:7, but only"):
        Encoder(tiny_encoder, devices=["cuda:7"])
    with pytest.raises(InputError, match="reranker_devices names cuda:9, but only"):
        open_reranker(tiny_reranker, device="cuda:9")


def test_encoder_is_no_reranker(tiny_encoder: Path) -> None:
    with pytest.raises(InputError, match="has no weights for classifier"):
        open_reranker(tiny_encoder)
