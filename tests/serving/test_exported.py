"""Exports: the graph scores as its folder does, a wrong tokenizer or a lost head is found, and one line for faults."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from utils.data.judged import JudgedPool
from utils.errors import InputError
from utils.scoring import Reranker
from utils.serving import diagnosis
from utils.serving.agreement import Bounds
from utils.serving.diagnosis import verify
from utils.serving.exported import ONNX, ExportedReranker, _Graph, export_onnx, find_graph, open_served

pytestmark = pytest.mark.usefixtures("one_thread")
BOUNDS = Bounds(tau=0.95, tolerance=0.1)


@pytest.fixture(scope="module")
def exported(sensitive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="pip install -r requirements-onnx.txt")
    folder = tmp_path_factory.mktemp("exported") / "onnx_model"
    export_onnx(sensitive, folder, int8=False)
    return folder


def test_export_scores_as_its_folder(exported: Path, reranker: Reranker, pools: list[JudgedPool]) -> None:
    served = open_served(exported)
    assert isinstance(served, ExportedReranker)
    assert served.lengths == reranker.lengths
    result = verify(reranker, served, pools, BOUNDS, {})
    assert (result.faithful, result.agreeing, result.tau) == (True, 1, pytest.approx(1))
    assert result.largest < 1e-4
    assert sorted(path.name for path in exported.parent.iterdir()) == [exported.name]  # nothing is left over


def test_int8_is_near(
    exported: Path, sensitive: Path, reranker: Reranker, pools: list[JudgedPool], tmp_path: Path
) -> None:
    export_onnx(sensitive, tmp_path / "int8", int8=True)
    assert [path.name for path in (tmp_path / "int8" / "onnx").iterdir()] == ["model.onnx"]
    result = verify(reranker, open_served(tmp_path / "int8"), pools, BOUNDS, {})
    assert 0 < result.largest < 1
    assert result.tau > 0.8


def test_tokenizer_of_the_export_counts(
    exported: Path, reranker: Reranker, pools: list[JudgedPool], tmp_path: Path
) -> None:
    folder = shutil.copytree(exported, tmp_path / "left")
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"truncation_side": "left"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    result = verify(reranker, open_served(folder), pools, BOUNDS, {})
    assert (result.faithful, result.cause) == (False, diagnosis.LEFT)


def test_broken_graph_is_told(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "broken")
    (folder / ONNX).write_bytes(b"no graph")
    with pytest.raises(InputError, match="cannot be loaded"):
        open_served(folder)


def test_openvino_graph_scores_as_its_folder(
    exported: Path, reranker: Reranker, pools: list[JudgedPool], tmp_path: Path
) -> None:
    openvino = pytest.importorskip("openvino", reason="pip install openvino")
    folder = shutil.copytree(exported, tmp_path / "openvino", ignore=shutil.ignore_patterns("onnx"))
    openvino.save_model(openvino.convert_model(exported / ONNX), folder / "openvino_model.xml", compress_to_fp16=False)
    assert verify(reranker, open_served(folder), pools, BOUNDS, {}).faithful


def test_folder_without_a_graph_is_for_transformers(sensitive: Path, tmp_path: Path) -> None:
    assert find_graph(sensitive) is None
    assert type(open_served(sensitive)) is Reranker
    for name in ("model.onnx", "model_int8.onnx"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"several graphs \(model.onnx, model_int8.onnx\)"):
        find_graph(tmp_path)
    assert find_graph(tmp_path / "model.onnx") == tmp_path / "model.onnx"
    with pytest.raises(InputError, match="not found"):
        find_graph(tmp_path / "none")


@pytest.mark.parametrize(
    ("names", "shape", "fault"),
    [(["input_ids"], (2, 5, 32), "export it with its head"), (["pixels"], (2,), "asks for pixels")],
)
def test_graph_that_is_no_reranker(names: list[str], shape: tuple[int, ...], fault: str) -> None:
    import torch

    graph = _Graph(Path("model.onnx"), names, lambda inputs: np.zeros(shape), config=None)
    inputs: dict[str, Any] = {"input_ids": torch.ones(2, 5, dtype=torch.long)}
    with pytest.raises(InputError, match=fault):
        graph(**inputs)
