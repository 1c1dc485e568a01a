"""The folder of a model: where it is looked for, and what its fingerprint depends on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from utils.errors import InputError
from utils.models.folders import find_model, stored_tensors, tokenizer_files, weights_fingerprint


@pytest.mark.parametrize(
    ("path", "repository"),
    [("BAAI/bge-reranker-base", "BAAI/bge-reranker-base"), ("models/none", "BAAI/bge-reranker-v2-m3")],
)
def test_a_missing_model_says_what_to_download_to_where(path: str, repository: str) -> None:
    remedy = rf"hf download {repository} --local-dir .*models/{repository.partition('/')[2]}\)"
    with pytest.raises(InputError, match=f"model {path} not found: .*{remedy}"):
        find_model(path)


def test_fingerprint_is_of_weights_and_vocabulary_and_not_of_lengths(tiny_reranker: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_reranker, tmp_path / "moved"))
    before = weights_fingerprint(tiny_reranker)
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"model_max_length": 40}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert weights_fingerprint(folder) == before
    with (folder / "tokenizer.json").open("a") as file:
        file.write(" ")
    assert weights_fingerprint(folder) != before


def test_truncated_weights_have_no_types(tiny_reranker: Path, tmp_path: Path) -> None:
    weights = (tiny_reranker / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(weights[:-1])
    tensors = stored_tensors(tiny_reranker / "model.safetensors")
    assert tensors
    assert {kind for kind, _ in tensors} == {"F32"}
    assert stored_tensors(tmp_path / "cut.safetensors") is None


def test_tokenizer_files_leave_out_weights_and_configuration(tiny_reranker: Path) -> None:
    assert {file.name for file in tokenizer_files(tiny_reranker)} == {"tokenizer.json", "tokenizer_config.json"}
