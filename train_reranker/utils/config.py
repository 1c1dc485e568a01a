"""Configuration: HopWeaver's (FlashRAG's) YAML keys to one typed, immutable object."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

from utils.errors import InputError
from utils.files import ROOT, find_input

DEFAULT_CONFIG = ROOT / "config_lib" / "demo_config.yaml"

# Keys of HopWeaver and FlashRAG that serve other parts of those systems: accepted, so that their files work here.
IGNORED = frozenset(
    [
        "data_dir",
        "save_dir",
        "output_dir",
        "dataset_name",
        "split",
        "test_sample_num",
        "random_sample",
        "save_intermediate_data",
        "save_note",
        "retrieval_topk",
        "retrieval_cache_path",
        "save_retrieval_cache",
        "use_retrieval_cache",
        "use_reranker",
        "rerank_model_name",
        "rerank_model_path",
        "rerank_pooling_method",
        "rerank_topk",
        "rerank_max_length",
        "rerank_batch_size",
        "rerank_use_fp16",
        "generator_max_input_len",
        "generator_batch_size",
        "generator_model_path",
        "generator_lora_path",
        "framework",
        "use_fid",
        "polisher_model",
        "filter_model",
        "model2lora",
        "metrics",
        "metric_setting",
        "save_metric_score",
        "bm25_backend",
        "index_path",
        "use_sentence_transformer",
        "multi_retriever_setting",
        "use_multi_retriever",
        "vllm_gpu_memory_utilization",
        "gpu_memory_utilization",
        "seed_list",
        "disable_save",
        "silent_retrieval",
    ]
)

# What counts texts, tokens or windows.
_COUNTS = frozenset(
    [
        "retrieval_query_max_length",
        "retrieval_batch_size",
        "query_max_length",
        "passage_max_length",
        "reranker_batch_size",
        "rerank_pool_factor",
        "max_document_tokens",
        "max_document_windows",
    ]
)

VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class Config:
    """Everything a YAML file can say, with its default; the documentation of each key is in example_config.yaml.

    Lengths are in tokens, batch sizes in texts. Mappings and lists are read-only.
    """

    path: Path = DEFAULT_CONFIG

    # Retrieval
    corpus_path: str | None = None
    retrieval_method: str = "e5"
    model2path: Mapping[str, Any] = field(default_factory=dict)
    model2pooling: Mapping[str, Any] = field(default_factory=dict)
    method2index: Mapping[str, Any] = field(default_factory=dict)
    method2corpus: Mapping[str, Any] = field(default_factory=dict)
    retrieval_pooling_method: str | None = None
    instruction: str | None = None
    passage_instruction: str | None = None
    retrieval_query_max_length: int = 512
    retrieval_batch_size: int = 256
    retrieval_use_fp16: bool = True
    retrieval_devices: Any = None
    vector_store: str = "faiss"
    faiss_index_factory: str = "Flat"
    faiss_search_params: str | None = None
    faiss_gpu: bool = False
    milvus_uri: str | None = None
    milvus_token: str | None = field(default=None, repr=False)
    milvus_index: Mapping[str, Any] = field(default_factory=lambda: {"index_type": "FLAT"})
    milvus_search_params: Mapping[str, Any] = field(default_factory=dict)
    gpu_id: str | None = None
    seed: int = 2025
    lambda1: float = 0.85
    lambda2: float = 0.05
    lambda3: float = 0.1

    # Reranking
    reranker_path: str = "./models/bge-reranker-v2-m3"
    query_max_length: int | None = None
    passage_max_length: int | None = None
    reranker_batch_size: int = 16
    reranker_normalize: bool = False
    reranker_devices: Any = None
    rerank_pool_factor: int = 1

    # Teacher
    generator_model: str = "offline"
    entity_extractor_model: str | None = None
    question_generator_model: str | None = None
    generation_params: Mapping[str, Any] = field(default_factory=dict)
    price_per_million_tokens: Mapping[str, Any] = field(default_factory=dict)
    min_segment_words: int = 20
    max_document_tokens: int = 6000
    max_document_windows: int = 4
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)  # holds the keys

    @property
    def corpus(self) -> Path:
        """The corpus file of the retrieval method: ``method2corpus`` where it names one, else ``corpus_path``.

        Raises:
            InputError: neither names one, or the file is not there.
        """
        name = self.method2corpus.get(self.retrieval_method) or self.corpus_path
        if not name:
            raise InputError(f"{self.path}: no corpus for {self.retrieval_method}; set corpus_path to a JSONL file")
        return find_input(
            name,
            f"{self.path}: corpus",
            "make the demo's with `make data`, or put a JSONL of id, title and contents there (models/README.md)",
        )

    @property
    def encoder_path(self) -> Path:
        """The folder of the retrieval model: ``retrieval_method`` looked up in ``model2path``, else itself a path.

        Raises:
            InputError: the folder is not there.
        """
        name = self.model2path.get(self.retrieval_method) or self.retrieval_method
        return find_input(
            name, f"{self.path}: retrieval model", "download it to this folder, models/README.md says how"
        )

    def devices(self, key: str) -> list[str] | None:
        """Return what ``retrieval_devices`` or ``reranker_devices`` names, as torch does; None where it is not set."""
        named = getattr(self, key)
        if named is None:
            return None
        devices = [str(d).strip() for d in (named if isinstance(named, list) else str(named).split(","))]
        return [f"cuda:{device}" if device.isdigit() else device for device in devices]

    @property
    def pooling(self) -> str | None:
        """How token vectors become one, a name in ``encoder.POOLINGS``; None where that is left to the model."""
        return self.retrieval_pooling_method or self.model2pooling.get(self.retrieval_method) or None

    @property
    def index_path(self) -> str | None:
        """Where the index is or goes, as the file says it; None puts it beside the corpus."""
        return self.method2index.get(self.retrieval_method) or None


def load_config(path: str | Path = DEFAULT_CONFIG) -> Config:
    """Read a YAML configuration.

    ``${NAME}`` in a value stands for an environment variable; in the ``<provider>_setting`` blocks it is looked up
    only when that provider is used, so that a file may hold settings for providers whose key is not at hand.

    Raises:
        InputError: no such file, no YAML mapping, an unknown key (the nearest known one is offered), a value of the
            wrong type or out of range, or a variable that is not set.
    """
    import yaml

    found = find_input(path, "configuration", "config_lib/ holds examples; name one with --config")
    try:
        values = yaml.safe_load(found.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{found} cannot be read ({error.strerror}); name a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        # The error's own text quotes the line, which may hold a key.
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = problem or "nested too deeply, or not in UTF-8"
        raise InputError(f"{found}{line}: not YAML ({problem}); fix the line") from None
    if not isinstance(values, dict):
        raise InputError(f"{found}: a YAML mapping of keys to values is wanted; see config_lib/example_config.yaml")
    settings = {k: v or {} for k, v in values.items() if str(k).endswith("_setting") and k not in IGNORED}
    if wrong := [key for key, section in settings.items() if not isinstance(section, dict)]:
        raise InputError(f"{found}: {wrong[0]} must be a mapping of api_key, base_url and the like")
    known = {k: v for k, v in values.items() if k not in IGNORED and k not in settings}
    _refuse_unknown(known, found)
    typed = {key: _typed(found, key, value) for key, value in known.items() if value is not None}
    for key, value in typed.items():
        if type(value) is int and key in _COUNTS and value < 1:
            raise InputError(f"{found}: {key} must be at least 1, not {value}")
        if type(value) is float and not math.isfinite(value):
            raise InputError(f"{found}: {key} must be a finite number, not {value}")
    return Config(path=found, settings=MappingProxyType(settings), **typed)


def expand(value: Any, where: str) -> Any:
    """Return ``value`` with ``${NAME}`` replaced by environment variables, in texts at any depth.

    Raises:
        InputError: a variable is not set; begins with ``where``.
    """
    if isinstance(value, Mapping):
        return {key: expand(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item, where) for item in value]
    if not isinstance(value, str):
        return value

    def look_up(match: re.Match[str]) -> str:
        name = match[1]
        if name not in os.environ:
            raise InputError(f"{where}: ${{{name}}} is not set; export {name}=… first")
        return os.environ[name]

    return VARIABLE.sub(look_up, value)


def _refuse_unknown(values: Mapping[str, Any], path: Path) -> None:
    """Raise one InputError that tells all unknown keys, each with the nearest known one."""
    names = {f.name for f in fields(Config)} - {"path", "settings"}
    complaints = []
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(str(key), names | IGNORED, n=1, cutoff=0)
            complaints.append(f"unknown key {key!r}, did you mean {near[0]!r}?")
    if complaints:
        raise InputError(f"{path}: {'; '.join(complaints)}")


def _typed(path: Path, key: str, value: Any) -> Any:
    """Check one value against the field's type, expand its variables, and make mappings read-only."""
    value = expand(value, f"{path}: {key}")
    wanted = str(get_type_hints(Config)[key])
    checks: dict[str, tuple[type, ...]] = {
        "bool": (bool,),
        "int": (int,),
        "float": (int, float),
        "Mapping": (dict,),
        "str": (str, int, float),
    }
    for name, types in checks.items():
        if name in wanted:
            if not isinstance(value, types) or (isinstance(value, bool) and name != "bool"):
                raise InputError(f"{path}: {key} must be of type {name.lower()}, not {value!r}")
            break
    if isinstance(value, dict):
        return MappingProxyType(value)
    return str(value) if "str" in wanted else value
