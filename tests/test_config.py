"""Reading configurations, HopWeaver's among them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from utils import cli
from utils.config import DEFAULT_CONFIG, expand, load_config
from utils.errors import InputError


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_every_configuration_of_the_project_loads() -> None:
    for path in DEFAULT_CONFIG.parent.glob("*.yaml"):
        load_config(path)


def test_demo_is_offline_and_documented_defaults_hold() -> None:
    config = load_config()
    assert config.generator_model == "offline"
    assert (config.lambda1, config.lambda2, config.lambda3) == (0.85, 0.05, 0.1)
    assert (config.rerank_pool_factor, config.rerank_weight) == (1, 1)


def test_example_documents_every_key() -> None:
    from dataclasses import fields

    from utils.config import Config

    text = (DEFAULT_CONFIG.parent / "example_config.yaml").read_text()
    keys = set(yaml.safe_load(text))
    assert {field.name for field in fields(Config)} - {"path", "settings"} <= keys


def test_hopweaver_keys_work_unchanged(tmp_path: Path) -> None:
    path = write(
        tmp_path / "hopweaver.yaml",
        """
        model2path: {e5: ret_model/e5-base-v2}
        openai_setting:
        model2pooling: {e5: mean, dpr: cls}
        method2index: {e5: index/e5_Flat.index, bm25: "", contriever: ~}
        method2corpus: {e5: wiki.jsonl}
        data_dir: dataset/
        gpu_id: "0"
        split: ["test"]
        retrieval_method: e5
        faiss_gpu: False
        retrieval_query_max_length: 4096
        retrieval_cache_path: ~
        generation_params: {do_sample: False, temperature: 0, max_tokens: 4096}
        generator_model: gpt-4
        polisher_model: gpt-4
        openai_setting: {api_key: "${NOT_SET_ANYWHERE}", base_url: "http://127.0.0.1:9/v1"}
        """,
    )
    config = load_config(path)
    assert config.generator_model == "gpt-4"
    assert config.gpu_id == "0"
    assert config.settings["openai_setting"]["base_url"] == "http://127.0.0.1:9/v1"
    with pytest.raises(InputError, match=r"\$\{NOT_SET_ANYWHERE\} is not set; export"):
        expand(config.settings["openai_setting"], "openai_setting")


def test_broken_file_does_not_show_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    for text in ("openai_setting:\n  api_key: 'sk-secret", "openai_setting:\n\tapi_key: sk-secret", "a: sk-secret: b"):
        path.write_text(text)
        with pytest.raises(InputError, match="not YAML") as told:
            load_config(path)
        assert "secret" not in str(told.value)


def test_key_never_shows(tmp_path: Path) -> None:
    config = load_config(write(tmp_path / "c.yaml", "openai_setting: {api_key: sk-secret}"))
    assert "sk-secret" not in repr(config)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("retreival_method: e5", "did you mean 'retrieval_method'?"),
        ("lamda1: 1\nsed: 3", "did you mean 'seed'?"),
        ("seed: many", "seed must be of type int, not 'many'"),
        ("lambda1: .nan", "lambda1 must be a finite number, not nan"),
        ("rerank_weight: 1.5", "rerank_weight must be from 0 to 1, not 1.5"),
        ("rerank_weight: -1", "rerank_weight must be from 0 to 1, not -1"),
        ("rerank_weight: .nan", "rerank_weight must be a finite number, not nan"),
        ("max_document_windows: 0", "max_document_windows must be at least 1, not 0"),
        ("retrieval_batch_size: -1", "retrieval_batch_size must be at least 1, not -1"),
        ("[" * 3000, "nested too deeply"),
        ("faiss_gpu: 1", "faiss_gpu must be of type bool"),
        ("model2path: e5", "model2path must be of type mapping"),
        ("- a\n- b", "a YAML mapping of keys"),
        ("a: [", "not YAML"),
        ("corpus_path: ${NOT_SET_ANYWHERE}", "${NOT_SET_ANYWHERE} is not set"),
        ("seed: 9223372036854775808", "seed holds a number beyond 2^63"),
        ("openai_setting: {timeout: 1" + "0" * 400 + "}", "openai_setting holds a number beyond 2^63"),
        ("seed: " + "9" * 5000, "not YAML"),
        ('reranker_path: "a \\ud83d"', "reranker_path holds half a character, such as \\ud83d alone"),
        ("milvus_index: !!binary aGk=", "milvus_index holds a value of type bytes"),
        ("milvus_index: {a: !!timestamp 2024-01-01}", "milvus_index holds a value of type date"),
        ("milvus_index: !!set {a, b}", "milvus_index holds a value of type set"),
        ("model2path: {e5: {a: b}}", "model2path.e5 must be text, not dict"),
        ("metrics: &a [*a]", "metrics holds more than 10000 values"),
        (
            "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(40)),
            "more than 10000 values",
        ),
        (
            "a0: &a0 {x: 1}\n" + "".join(f"a{i + 1}: &a{i + 1} {{<<: [*a{i}, *a{i}]}}\n" for i in range(40)),
            "too many merged keys",
        ),
        ("# a corpus\n" * 50_000, "are no configuration"),
    ],
)
def test_unusable_configuration_is_told_in_a_line(tmp_path: Path, text: str, problem: str) -> None:
    path = write(tmp_path / "bad.yaml", text)
    with pytest.raises(InputError) as told:
        load_config(path)
    assert problem in str(told.value)
    assert str(path) in str(told.value)
    assert "\n" not in str(told.value)


def test_variables_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORPORA", "/somewhere")
    config = load_config(write(tmp_path / "c.yaml", "corpus_path: ${CORPORA}/c.jsonl"))
    assert config.corpus_path == "/somewhere/c.jsonl"


def test_user_s_gpus_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    cli.use_gpus("0")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    cli.use_gpus("0")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


def test_dates_are_text(tmp_path: Path) -> None:
    text = "openai_setting: {api_version: 2024-10-21, model_revision: 2024-13-45}"
    section = load_config(write(tmp_path / "c.yaml", text)).settings["openai_setting"]
    assert section == {"api_version": "2024-10-21", "model_revision": "2024-13-45"}
