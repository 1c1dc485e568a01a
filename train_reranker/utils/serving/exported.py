"""Exports of a trained folder: written as ONNX by torch, and scored like the folder by onnxruntime or OpenVINO."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from utils.errors import InputError
from utils.files import find_input
from utils.models.folders import find_model, tokenizer_files
from utils.models.loading import PROBES, RERANKER, load_model, load_tokenizer
from utils.scoring import Reranker, ScoringOptions

if TYPE_CHECKING:
    import numpy as np
    import torch

Run = Callable[[Mapping[str, "np.ndarray"]], "np.ndarray"]  # a graph: inputs by name, to logits

GRAPHS = ("*.onnx", "onnx/*.onnx", "openvino_model.xml", "openvino/*.xml")
ONNX = "onnx/model.onnx"  # where sentence-transformers, TEI and the hub's other tools look for it
LARGEST_FILE = 2**31  # bytes; larger ONNX models keep their weights in a file of their own


def find_graph(path: str | Path) -> Path | None:
    """Return the ONNX or OpenVINO graph that a path is, or that its folder holds; None where it is a model's folder.

    Raises:
        InputError: nothing is there, or several graphs are.
    """
    found = find_input(path, "model", "name the folder that is served, or its .onnx or .xml file")
    if found.is_file():
        return found
    graphs = sorted(graph for pattern in GRAPHS for graph in found.glob(pattern))
    if len(graphs) > 1:
        names = ", ".join(str(graph.relative_to(found)) for graph in graphs)
        raise InputError(f"model {path} has several graphs ({names}): name one of these files")
    return graphs[0] if graphs else None


def open_served(path: str | Path, batch_size: int = ScoringOptions.batch_size) -> Reranker:
    """Return the reranker of a folder with an ONNX or OpenVINO graph, else of a folder for transformers, in float32."""
    graph, options = find_graph(path), ScoringOptions(batch_size=batch_size, half=False)
    return ExportedReranker(graph, options) if graph else Reranker(find_model(path), options)


class ExportedReranker(Reranker):
    """A graph that scores as its folder's tokenizer says, on the CPU."""

    def __init__(self, graph: Path, options: ScoringOptions) -> None:
        """Load a graph, and the tokenizer and configuration beside it or one folder above."""
        self.path = graph.parent if (graph.parent / "config.json").exists() else graph.parent.parent
        self.tokenizer, config = load_tokenizer(self.path)
        self.normalize, self.device, self.half = False, "cpu", None
        names, run = _open_openvino(graph) if graph.suffix == ".xml" else _open_onnx(graph)
        self.model = _Graph(graph, names, run, config)
        self._settle_lengths(options, config)


class _Graph:
    """A graph that is called as a model of transformers is."""

    def __init__(self, path: Path, names: Sequence[str], run: Run, config: Any) -> None:
        self._path, self._names, self._run, self.config = path, names, run, config

    def __call__(self, **inputs: torch.Tensor) -> Any:
        import torch

        ids = inputs["input_ids"]
        inputs.setdefault("attention_mask", torch.ones_like(ids))
        inputs.setdefault("token_type_ids", torch.zeros_like(ids))
        if unknown := sorted(set(self._names) - inputs.keys()):
            raise InputError(f"{self._path} asks for {unknown[0]}, which no tokenizer gives: export it again")
        scores = self._run({name: inputs[name].numpy() for name in self._names})
        if scores.size != len(ids):
            raise InputError(
                f"{self._path} returns {scores.shape} for {len(ids)} pairs, where a reranker has one score each: "
                "export it with its head (AutoModelForSequenceClassification, task text-classification)"
            )
        return SimpleNamespace(logits=torch.from_numpy(scores))


def _need(package: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        raise InputError(f"{package} is not installed: pip install -r requirements-onnx.txt") from None


def _open_onnx(graph: Path) -> tuple[list[str], Run]:
    runtime = _need("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # its warnings are about graphs, which nobody here wrote
    try:
        session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has a class for each kind of broken file
        raise InputError(f"{graph} cannot be loaded ({error}): export it again") from None
    return [one.name for one in session.get_inputs()], lambda inputs: session.run(None, dict(inputs))[0]


def _open_openvino(graph: Path) -> tuple[list[str], Run]:
    openvino = _need("openvino")
    try:
        model = openvino.Core().compile_model(graph, "CPU")
    except RuntimeError as error:
        raise InputError(f"{graph} cannot be loaded ({error}): export it again") from None
    return [one.get_any_name() for one in model.inputs], lambda inputs: model(dict(inputs))[0]


def export_onnx(model_path: str | Path, output: Path, int8: bool) -> None:
    """Write the ONNX graph of a reranker's folder, with its configuration and tokenizer, into a new folder.

    With ``int8``, the weights of matrix products are quantized channel by channel, and activations as they come.

    Raises:
        InputError: the folder is no reranker, or torch cannot export its architecture.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        _need(package)
    folder = find_model(model_path)
    tokenizer, model, _ = load_model(folder, RERANKER)
    inputs = dict(tokenizer([one for one, _ in PROBES], [two for _, two in PROBES], padding=True, return_tensors="pt"))
    large = sum(weights.nbytes for weights in model.state_dict().values()) >= LARGEST_FILE
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as place:
        unfinished = Path(place, "export")
        graph = unfinished / ONNX
        graph.parent.mkdir(parents=True)
        try:
            _export(model, inputs, graph, large)
        except Exception as error:  # of the exporter, which has many kinds
            reason = str(error).strip().partition("\n")[0]
            raise InputError(f"torch cannot export {folder} to ONNX ({reason}): serve the folder itself") from None
        if int8:
            _quantize(graph, large)
        for file in {folder / "config.json", *tokenizer_files(folder, tokenizer)}:
            shutil.copy(file, unfinished)
        unfinished.rename(output)


def _export(model: Any, inputs: dict[str, torch.Tensor], graph: Path, large: bool) -> None:
    import torch

    dynamic = torch.export.Dim.DYNAMIC
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses packages that nothing here needs
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # about its own calls
        torch.onnx.export(
            model, kwargs=inputs, f=graph, input_names=list(inputs), output_names=["logits"], dynamo=True,
            dynamic_shapes={name: {0: dynamic, 1: dynamic} for name in inputs}, external_data=large, verbose=False,
        )  # fmt: skip


def _quantize(graph: Path, large: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    full = graph.rename(graph.with_stem("full"))
    logging.getLogger().setLevel(logging.ERROR)  # it recommends a step that the exporter has done
    quantize_dynamic(
        full, graph, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8,
        use_external_data_format=large,
    )  # fmt: skip
    for file in graph.parent.glob("full*"):
        file.unlink()
