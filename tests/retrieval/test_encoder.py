"""How a retrieval model is used, against sentence-transformers over tiny folders of every kind."""

from __future__ import annotations

import json
import logging
import re
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
from utils.retrieval.encoder import PASSAGE, POOLINGS, QUERY, Encoder
from utils.retrieval.mmr import Lambdas
from utils.retrieval.recipe import BGE_CHINESE, BGE_ENGLISH, BGE_TASK, E5_TASK, known, read_recipe
from utils.retrieval.retriever import open_retrieval

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = [
    "a lake",
    "The Harbour town lies on a River and holds a market each week",
    "salt and slate " * 40,
    "x",
]
Make = Callable[..., Path]


@pytest.fixture
def st_folder(tiny_encoder: Path, tmp_path: Path) -> Make:
    """Makes a folder with sentence-transformers' files around the tiny encoder, as older ones are."""

    def make(
        pooling: dict[str, Any] | None = None,
        prompts: dict[str, Any] | None = None,
        length: dict[str, Any] | None = None,
        modules: tuple[str, ...] = ("Transformer", "Pooling"),
        name: str = "model",
    ) -> Path:
        folder = Path(shutil.copytree(tiny_encoder, tmp_path / name))
        listed = [
            {"idx": i, "name": str(i), "path": f"{i}_{m}" if i else "", "type": f"sentence_transformers.models.{m}"}
            for i, m in enumerate(modules)
        ]
        write(folder / "modules.json", listed)
        write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32} | (pooling or {}))
        write(folder / "sentence_bert_config.json", {"max_seq_length": 512, "do_lower_case": False} | (length or {}))
        if prompts is not None:
            write(folder / "config_sentence_transformers.json", prompts)
        return folder

    return make


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def assert_like_sentence_transformers(folder: Path, **prompts: str) -> None:
    """Compare all texts as queries and as passages; ``prompts`` are the names of the prompts that it is to take."""
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(folder), device="cpu")
    ours = Encoder(folder, half=False)
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
def test_pooling_is_the_folder_s(st_folder: Make, pooling: dict[str, Any]) -> None:
    assert_like_sentence_transformers(st_folder(pooling))


@pytest.mark.parametrize("mode", ["cls", "mean", "max", "lasttoken", "weightedmean"])
def test_prompt_is_the_folder_s_and_pooled_only_where_it_says_so(st_folder: Make, mode: str) -> None:
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
def test_prompts_go_to_their_texts(st_folder: Make, prompts: dict, default: str | None, names: dict[str, str]) -> None:
    folder = st_folder(prompts={"prompts": prompts, "default_prompt_name": default})
    assert_like_sentence_transformers(folder, **names)


@pytest.mark.parametrize("length", [{"max_seq_length": 12}, {"max_seq_length": None}, {"do_lower_case": True}])
def test_length_and_case_are_the_folder_s(st_folder: Make, length: dict[str, Any]) -> None:
    assert_like_sentence_transformers(st_folder(length=length))


def test_lower_case_counts_where_the_tokenizer_minds_it(st_folder: Make) -> None:
    fingerprints = {}
    for minds in (False, True):
        for lower in (False, True):
            folder = st_folder(length={"do_lower_case": lower}, name=f"{minds}-{lower}")
            if minds:
                file = folder / "tokenizer_config.json"
                write(file, json.loads(file.read_text()) | {"do_lower_case": False})
            fingerprints[minds, lower] = Encoder(folder).fingerprint
            assert_like_sentence_transformers(folder)
    assert fingerprints[False, True] == fingerprints[False, False]
    assert fingerprints[True, True] != fingerprints[True, False]


def test_further_steps_are_applied(st_folder: Make) -> None:
    import torch
    from sentence_transformers.base.modules.dense import Dense

    torch.manual_seed(3)
    folder = st_folder(modules=("Transformer", "Pooling", "Normalize", "Dense", "Normalize"))
    Dense(32, 16).save(str(folder_of(folder / "3_Dense")))
    assert_like_sentence_transformers(folder)
    encoder = Encoder(folder)
    assert encoder.dimension == 16
    Dense(32, 16).save(str(folder / "3_Dense"))
    assert Encoder(folder).fingerprint != encoder.fingerprint


def folder_of(path: Path) -> Path:
    path.mkdir()
    return path


def test_transformer_in_a_folder_of_its_own(st_folder: Make) -> None:
    folder = st_folder({"pooling_mode": "cls"})
    inner = folder_of(folder / "0_Transformer")
    for file in [
        *folder.glob("*.safetensors"),
        folder / "config.json",
        *folder.glob("tokenizer*"),
        *folder.glob("sent*"),
    ]:
        shutil.move(file, inner)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write(folder / "modules.json", modules)
    assert_like_sentence_transformers(folder)


@pytest.mark.parametrize(
    ("modules", "named"),
    [
        (("Transformer", "WeightedLayerPooling", "Pooling"), "WeightedLayerPooling"),
        (("StaticEmbedding",), "StaticEmbedding"),
        (("Transformer", "Pooling", "LSTM"), "LSTM"),
    ],
)
def test_step_that_cannot_be_applied_is_told(st_folder: Make, modules: tuple[str, ...], named: str) -> None:
    assert_told(st_folder(modules=modules), rf"modules\.json: module \d, .*{named}, cannot be applied here")


def test_custom_module_is_told(st_folder: Make) -> None:
    folder = st_folder()
    write(folder / "modules.json", [{"idx": 0, "path": "", "type": "custom_st.Transformer"}])
    assert_told(folder, "module 0, custom_st.Transformer, cannot be applied here")


@pytest.mark.parametrize("file", ["modules.json", "1_Pooling/config.json", "sentence_bert_config.json"])
@pytest.mark.parametrize("content", ["{", '"text"', ""])
def test_damaged_file_is_told(st_folder: Make, file: str, content: str) -> None:
    folder = st_folder()
    (folder / file).write_text(content)
    assert_told(folder, f"has a {re.escape(Path(file).name)} that is not")


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("1_Pooling/config.json", "pooling_mode", 3),
        ("sentence_bert_config.json", "max_seq_length", "512"),
        ("sentence_bert_config.json", "max_seq_length", [1]),
        ("config_sentence_transformers.json", "prompts", ["query: "]),
        ("config_sentence_transformers.json", "prompts", "query: "),
        ("config_sentence_transformers.json", "default_prompt_name", ["query"]),
    ],
)
def test_value_of_another_kind_is_told(st_folder: Make, file: str, key: str, value: Any) -> None:
    folder = st_folder()
    write(folder / file, {key: value})
    assert_told(folder, f"{re.escape(file)}: {key} cannot be {re.escape(repr(value))}")


def test_prompt_that_is_no_text_is_told(st_folder: Make) -> None:
    assert_told(st_folder(prompts={"prompts": {"query": 5}}), "query cannot be 5")


def test_layer_for_another_pooling_is_told(st_folder: Make) -> None:
    from safetensors.torch import save_file
    from torch.nn import Linear

    folder = st_folder({"pooling_mode": ["cls", "mean"]}, modules=("Transformer", "Pooling", "Dense"))
    write(folder / "2_Dense" / "config.json", {"in_features": 32, "out_features": 16})
    save_file({f"linear.{k}": v for k, v in Linear(32, 16).state_dict().items()}, folder / "2_Dense/model.safetensors")
    assert_told(folder, r"takes 32 numbers, but cls\+mean pooling gives 64")


def test_missing_transformer_is_told(st_folder: Make) -> None:
    folder = st_folder()
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write(folder / "modules.json", modules)
    assert_told(folder, "0_Transformer was not found: download it again")


def test_what_is_no_file_has_no_part_in_the_fingerprint(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_encoder, tmp_path / "model"))
    (folder / "pytorch_model.bin").symlink_to("nothing")
    (folder / "openvino.bin").mkdir()
    assert Encoder(folder, half=False).fingerprint == Encoder(tiny_encoder, half=False).fingerprint


@pytest.mark.parametrize("weights", [None, b"cut"])
def test_damaged_layer_is_told(st_folder: Make, weights: bytes | None) -> None:
    folder = st_folder(modules=("Transformer", "Pooling", "Dense"))
    write(folder / "2_Dense" / "config.json", {"in_features": 32, "out_features": 16, "bias": True})
    if weights:
        (folder / "2_Dense" / "model.safetensors").write_bytes(weights)
    assert_told(folder, "2_Dense cannot be loaded")


def test_activation_of_unknown_origin_is_told(st_folder: Make) -> None:
    folder = st_folder(modules=("Transformer", "Pooling", "Dense"))
    values = {"in_features": 32, "out_features": 16, "activation_function": "mine.Swirl"}
    write(folder / "2_Dense" / "config.json", values)
    assert_told(folder, "such a layer cannot be applied here")


def assert_told(folder: Path, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as told:
        Encoder(folder)
    assert "\n" not in str(told.value)


# --- names


@pytest.mark.parametrize(
    ("name", "pooling", "query", "passage"),
    [
        ("e5-base-v2", "mean", "query: ", "passage: "),
        ("intfloat/multilingual-e5-small", "mean", "query: ", "passage: "),
        ("multilingual-e5-large-instruct", "mean", E5_TASK, ""),
        ("e5-mistral-7b-instruct", "last", E5_TASK, ""),
        ("bge-base-en-v1.5", "cls", BGE_ENGLISH, ""),
        ("BAAI_bge-small-zh", "cls", BGE_CHINESE, ""),
        ("bge_large_zh_v1.5", "cls", BGE_CHINESE, ""),
        ("models--BAAI--bge-large-zh-v1.5", "cls", BGE_CHINESE, ""),
        ("bge", "cls", BGE_ENGLISH, ""),
        ("bge-m3", "cls", "", ""),
        ("bge-multilingual-gemma2", "last", BGE_TASK, ""),
        ("gte-base", "mean", "", ""),
        ("gte_sentence-embedding_multilingual-base", "cls", "", ""),
        ("gte-large-en-v1.5", "cls", "", ""),
        ("gte-Qwen2-7B-instruct", "last", E5_TASK, ""),
        ("contriever-msmarco", "mean", "", ""),
        ("nomic-embed-text-v1.5", "mean", "search_query: ", "search_document: "),
        ("snowflake-arctic-embed-m-v1.5", "cls", BGE_ENGLISH, ""),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", "cls", "query: ", ""),
        ("mxbai-embed-large-v1", "cls", BGE_ENGLISH, ""),
    ],
)
def test_family_is_told_by_the_folder_s_name(
    tiny_encoder: Path, tmp_path: Path, name: str, pooling: str, query: str, passage: str
) -> None:
    folder = tmp_path / name
    folder.mkdir(parents=True)
    assert read_recipe(folder)[:3] == (pooling, query, passage)


@pytest.mark.parametrize("name", ["share5", "ste5", "e5x", "bges", "minilm", "gtex", "", "e 55", "me5"])
def test_part_of_a_word_is_no_family(name: str) -> None:
    assert known(name) is None


def test_names_go_from_the_card_to_the_configuration(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "contriever")
    assert read_recipe(folder, "e5").query == ""
    write(folder / "config.json", {"_name_or_path": "/somewhere/BAAI_bge-small-zh/"})
    assert read_recipe(folder, "e5").query == BGE_CHINESE
    (folder / "README.md").write_text("---\nlanguage: en\n---\n\n# gte-base\n")
    assert read_recipe(folder, "e5").pooling == "mean"
    (folder / "README.md").write_text("---\nmodel-index:\n- name: bge-base-en\n---\n# gte-base\n")
    assert read_recipe(folder, "e5").query == BGE_ENGLISH
    (folder / "README.md").write_text("\ufeff---\n# for e5\ndate: 2024-13-45\n---\n# bge-base-en\n", encoding="utf-8")
    assert read_recipe(folder, "e5").query == BGE_ENGLISH
    (folder / "README.md").write_text("---\na: [\n---\n```python\n# for e5, add this\n```\n# e5\n")
    assert read_recipe(folder, "e5").query == BGE_CHINESE
    other = folder_of(tmp_path / "store")
    assert read_recipe(other, "models/bge-small-zh").query == BGE_CHINESE
    assert read_recipe(folder_of(folder_of(folder_of(tmp_path / "models--x--e5-a") / "snapshots") / "1a2b")).query


def test_configuration_goes_before_folder_before_name(st_folder: Make, caplog: pytest.LogCaptureFixture) -> None:
    prompts = {"prompts": {"query": "ask: "}}
    folder = st_folder({"pooling_mode": "max"}, prompts, name="e5-base")
    assert read_recipe(folder)[:3] == ("max", "ask: ", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    own = {"pooling": "lasttoken", "instruction": "", "passage_instruction": "text: "}
    assert read_recipe(folder, **own)[:3] == ("last", "", "text: ")
    assert "the configuration says last pooling, the model's folder max" in caplog.text
    (folder / "config_sentence_transformers.json").unlink()
    assert read_recipe(folder)[:3] == ("max", "query: ", "passage: ")


def test_yaml_reaches_the_encoder(config_file: Path) -> None:
    def opened(**keys: Any) -> Any:
        config_file.write_text(yaml.safe_dump(values | keys))
        config = load_config(config_file)
        return open_retrieval(config, Corpus(config.corpus), Lambdas(1, 0, 0))

    values = yaml.safe_load(config_file.read_text())
    plain = opened()
    said = opened(instruction="ask: ", passage_instruction="text: ", model2pooling={"tiny": "cls"})
    assert said.encoder.recipe[:3] == ("cls", "ask: ", "text: ")
    assert opened(retrieval_pooling_method="max", model2pooling={"tiny": "cls"}).encoder.recipe.pooling == "max"
    assert opened(model2pooling={"tiny": None}).encoder.recipe.pooling == "mean"
    # A run may not go on with other instructions, and an index not with other vectors.
    assert plain.settings["encoder"] != said.settings["encoder"]
    assert "instruction" not in plain.settings
    assert said.settings["instruction"] == "ask: "


def test_fingerprint_follows_what_vectors_depend_on(tiny_encoder: Path) -> None:
    plain = Encoder(tiny_encoder)
    assert Encoder(tiny_encoder, pooling="mean", instruction="ask: ", method="x").fingerprint == plain.fingerprint
    others = [{"pooling": "cls"}, {"passage_instruction": "text: "}, {"max_length": 40}, {"method": "e5"}]
    fingerprints = [Encoder(tiny_encoder, **other).fingerprint for other in others]  # type: ignore[arg-type]
    assert len({plain.fingerprint, *fingerprints}) == 5


def test_fingerprint_of_plain_folders_is_what_it_was(tiny_encoder: Path) -> None:
    import hashlib

    from utils.models.folders import weights_fingerprint

    described = "\0".join([weights_fingerprint(tiny_encoder), "mean", "passage: ", "512"])
    assert Encoder(tiny_encoder, method="e5").fingerprint == hashlib.sha256(described.encode()).hexdigest()


# --- limits


def test_length_is_the_tokenizer_s_at_most(st_folder: Make, tiny_encoder: Path, tmp_path: Path) -> None:
    assert Encoder(st_folder(length={"max_seq_length": 9999}), max_length=9999).max_length == 512
    short = Path(shutil.copytree(tiny_encoder, tmp_path / "short"))
    file = short / "tokenizer_config.json"
    write(file, json.loads(file.read_text()) | {"model_max_length": 20})
    encoder = Encoder(short, max_length=9999)
    assert encoder.max_length == 20
    assert len(encoder.encode(["lake " * 100], QUERY)) == 1


@pytest.mark.parametrize(("length", "instruction"), [(0, ""), (-3, ""), (2, ""), (8, "the river of the lake lies")])
def test_length_without_room_for_a_text_is_told(tiny_encoder: Path, length: int, instruction: str) -> None:
    with pytest.raises(InputError, match=f"retrieval_query_max_length {length}: .* raise it"):
        Encoder(tiny_encoder, max_length=length, instruction=instruction)
    Encoder(tiny_encoder, max_length=3)


def test_model_that_gives_no_numbers_is_told(tiny_encoder: Path) -> None:
    encoder = Encoder(tiny_encoder)
    for value in (float("nan"), float("inf"), 0.0):
        for weight in encoder.model.encoder.layer[-1].output.LayerNorm.parameters():
            weight.data.fill_(value)
        with pytest.raises(RunError, match=r"no vector for 2 of 2 texts, such as 'a lake': set retrieval_use_fp16"):
            encoder.encode(["a lake", "salt"], PASSAGE)


@pytest.mark.parametrize("pooling", [*POOLINGS, "pooler", "cls+max"])
def test_pooling_is_its_definition(tiny_encoder: Path, pooling: str) -> None:
    import torch

    encoder = Encoder(tiny_encoder, pooling=pooling, half=False)
    texts = ["a lake", "the harbour town lies on a river and holds a market each week"]
    with torch.inference_mode():
        for text, vector in zip(texts, encoder.encode(texts, PASSAGE), strict=True):
            output = encoder.model(**encoder.tokenizer(text, return_tensors="pt"))
            hidden = output.last_hidden_state[0]
            places = torch.arange(1, len(hidden) + 1).unsqueeze(1)
            expected = {
                "mean": hidden.mean(0),
                "cls": hidden[0],
                "max": hidden.max(0).values,
                "last": hidden[-1],
                "mean_sqrt_len_tokens": hidden.sum(0) / len(hidden) ** 0.5,
                "weightedmean": (hidden * places).sum(0) / places.sum(),
                "pooler": output.pooler_output[0],
                "cls+max": torch.cat([hidden[0], hidden.max(0).values]),
            }[pooling].numpy()
            np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)


@pytest.mark.parametrize("pooling", ["median", "cls+median", "pooler+cls", ""])
def test_unknown_pooling_is_told(tiny_encoder: Path, pooling: str) -> None:
    if not pooling:
        assert Encoder(tiny_encoder, method="e5", pooling=pooling).recipe.pooling == "mean"
        return
    with pytest.raises(InputError, match=r"pooling of e5: '(median|pooler)' is unknown; let model2pooling"):
        Encoder(tiny_encoder, method="e5", pooling=pooling)


def test_encoder_of_t5_is_used_without_its_decoder(tmp_path: Path) -> None:
    from transformers import T5Config, T5Model

    from miniature import t5

    t5(tmp_path / "t5")
    T5Model(T5Config.from_pretrained(tmp_path / "t5")).save_pretrained(tmp_path / "t5")
    write(tmp_path / "t5" / "1_Pooling" / "config.json", {"pooling_mode": "mean", "word_embedding_dimension": 32})
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    listed = [
        {"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{m}"}
        for i, (p, m) in enumerate(modules)
    ]
    write(tmp_path / "t5" / "modules.json", listed)
    assert_like_sentence_transformers(tmp_path / "t5")


def test_pooler_that_is_missing_is_told(tiny_encoder: Path) -> None:
    encoder = Encoder(tiny_encoder, pooling="pooler")
    encoder.model.pooler = None
    with pytest.raises(InputError, match="has no pooler"):
        encoder.encode(["a lake"], QUERY)
