"""Pooling, prompts, length and steps as the folder says, else as the family does; what cannot be applied is refused."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from utils.errors import InputError
from utils.files import write_json
from utils.retrieval.encoder import Encoder
from utils.retrieval.model_conventions import (
    BGE_CHINESE,
    BGE_ENGLISH,
    BGE_TASK,
    E5_TASK,
    Conventions,
    EncoderOptions,
    family_of,
    read_conventions,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


def conventions_of(folder: Path, method: str = "", **options: str) -> Conventions:
    return read_conventions(folder, EncoderOptions(method, **options))  # type: ignore[arg-type]


def test_configuration_goes_before_folder_before_name(st_folder: Callable, caplog: pytest.LogCaptureFixture) -> None:
    prompts = {"prompts": {"query": "ask: "}}
    folder = st_folder({"pooling_mode": "max"}, prompts, name="e5-base")
    assert conventions_of(folder)[:3] == ("max", "ask: ", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    own = {"pooling": "lasttoken", "instruction": "", "passage_instruction": "text: "}
    assert conventions_of(folder, **own)[:3] == ("last", "", "text: ")
    assert "the configuration says last pooling, the model's folder max" in caplog.text
    (folder / "config_sentence_transformers.json").unlink()
    assert conventions_of(folder)[:3] == ("max", "query: ", "passage: ")


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
def test_family_follows_from_the_name(
    tiny_encoder: Path, tmp_path: Path, name: str, pooling: str, query: str, passage: str
) -> None:
    folder = tmp_path / name
    folder.mkdir(parents=True)
    assert conventions_of(folder)[:3] == (pooling, query, passage)


@pytest.mark.parametrize("name", ["share5", "ste5", "e5x", "bges", "minilm", "gtex", "", "e 55", "me5"])
def test_part_of_a_word_is_not_a_family(name: str) -> None:
    assert family_of(name) is None


def test_names_go_from_the_card_to_the_configuration(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "contriever")
    assert conventions_of(folder, "e5").query == ""
    write_json(folder / "config.json", {"_name_or_path": "/somewhere/BAAI_bge-small-zh/"})
    assert conventions_of(folder, "e5").query == BGE_CHINESE
    (folder / "README.md").write_text("---\nlanguage: en\n---\n\n# gte-base\n")
    assert conventions_of(folder, "e5").pooling == "mean"
    (folder / "README.md").write_text("---\nmodel-index:\n- name: bge-base-en\n---\n# gte-base\n")
    assert conventions_of(folder, "e5").query == BGE_ENGLISH
    (folder / "README.md").write_text("\ufeff---\n# for e5\ndate: 2024-13-45\n---\n# bge-base-en\n", encoding="utf-8")
    assert conventions_of(folder, "e5").query == BGE_ENGLISH
    (folder / "README.md").write_text("---\na: [\n---\n```python\n# for e5, add this\n```\n# e5\n")
    assert conventions_of(folder, "e5").query == BGE_CHINESE
    other = folder_of(tmp_path / "store")
    assert conventions_of(other, "models/bge-small-zh").query == BGE_CHINESE
    assert conventions_of(folder_of(folder_of(folder_of(tmp_path / "models--x--e5-a") / "snapshots") / "1a2b")).query


@pytest.mark.parametrize(
    ("modules", "named"),
    [
        (("Transformer", "WeightedLayerPooling", "Pooling"), "WeightedLayerPooling"),
        (("StaticEmbedding",), "StaticEmbedding"),
        (("Transformer", "Pooling", "LSTM"), "LSTM"),
    ],
)
def test_step_that_cannot_be_applied_is_refused(st_folder: Callable, modules: tuple[str, ...], named: str) -> None:
    assert_refused(st_folder(modules=modules), rf"modules\.json: module \d, .*{named}, cannot be applied here")


def test_custom_module_is_refused(st_folder: Callable) -> None:
    folder = st_folder()
    write_json(folder / "modules.json", [{"idx": 0, "path": "", "type": "custom_st.Transformer"}])
    assert_refused(folder, "module 0, custom_st.Transformer, cannot be applied here")


@pytest.mark.parametrize("file", ["modules.json", "1_Pooling/config.json", "sentence_bert_config.json"])
@pytest.mark.parametrize("content", ["{", '"text"', ""])
def test_damaged_file_is_refused(st_folder: Callable, file: str, content: str) -> None:
    folder = st_folder()
    (folder / file).write_text(content)
    assert_refused(folder, f"has a {re.escape(Path(file).name)} that is not")


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
def test_value_of_another_type_is_refused(st_folder: Callable, file: str, key: str, value: Any) -> None:
    folder = st_folder()
    write_json(folder / file, {key: value})
    assert_refused(folder, f"{re.escape(file)}: {key} cannot be {re.escape(repr(value))}")


def test_prompt_that_is_not_text_is_refused(st_folder: Callable) -> None:
    assert_refused(st_folder(prompts={"prompts": {"query": 5}}), "query cannot be 5")


def assert_refused(folder: Path, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as refused:
        Encoder(folder)
    assert "\n" not in str(refused.value)


def folder_of(path: Path) -> Path:
    path.mkdir()
    return path
