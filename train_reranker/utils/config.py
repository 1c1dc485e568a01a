"""Configuration: from HopWeaver's (FlashRAG's) YAML keys and the flags to one typed, immutable object."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

from utils.errors import InputError
from utils.files import ROOT, encodable, find_input
from utils.redaction import remember_in, remember_variable

DEFAULT_CONFIG = ROOT / "config_lib" / "demo_config.yaml"

# Keys of HopWeaver and FlashRAG for other parts of those systems: accepted, so that their files work here.
IGNORED = frozenset([
    "data_dir", "save_dir", "output_dir", "dataset_name", "split", "test_sample_num", "random_sample",
    "save_intermediate_data", "save_note", "retrieval_topk", "retrieval_cache_path", "save_retrieval_cache",
    "use_retrieval_cache", "use_reranker", "rerank_model_name", "rerank_model_path", "rerank_pooling_method",
    "rerank_topk", "rerank_max_length", "rerank_batch_size", "rerank_use_fp16", "generator_max_input_len",
    "generator_batch_size", "generator_model_path", "generator_lora_path", "framework", "use_fid",
    "polisher_model", "filter_model", "model2lora", "metrics", "metric_setting", "save_metric_score",
    "bm25_backend", "index_path", "use_sentence_transformer", "multi_retriever_setting", "use_multi_retriever",
    "vllm_gpu_memory_utilization", "gpu_memory_utilization", "seed_list", "disable_save", "silent_retrieval",
])  # fmt: skip

# The smallest value of keys that count texts, tokens or windows.
SMALLEST = {
    "retrieval_query_max_length": 1, "retrieval_batch_size": 1, "query_max_length": 1, "passage_max_length": 1,
    "reranker_batch_size": 1, "rerank_pool_factor": 1, "max_document_windows": 1, "max_document_tokens": 200,
}  # fmt: skip

LONGEST = 500_000  # characters of a configuration
MOST_VALUES = 10_000  # of a configuration, which has about a hundred
LARGEST = 2**63 - 1  # of its numbers
VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class Config:
    """All keys with their defaults; example_config.yaml documents each.

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
    rerank_weight: float = 1.0

    # Teacher
    generator_model: str = "offline"
    entity_extractor_model: str | None = None
    question_generator_model: str | None = None
    generation_params: Mapping[str, Any] = field(default_factory=dict)
    price_per_million_tokens: Mapping[str, Any] = field(default_factory=dict)
    min_segment_words: int = 20
    evidence: str = "strict"
    offline_queries: str = "questions"
    max_document_tokens: int = 6000
    max_document_windows: int = 4
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)  # holds the keys

    def override(self, **flags: Any) -> Config:
        """Return the configuration with the flags that were given: those that are not None go before the file."""
        return replace(self, **{key: value for key, value in flags.items() if value is not None})

    @property
    def corpus(self) -> Path:
        """The corpus file, from ``method2corpus`` or ``corpus_path``; InputError if neither names a file."""
        name = self.method2corpus.get(self.retrieval_method) or self.corpus_path
        if not name:
            raise InputError(f"{self.path}: no corpus for {self.retrieval_method}; set corpus_path to a JSONL file")
        remedy = "make the demo's with `make data`, or put a JSONL of id, title and contents there (models/README.md)"
        return find_input(name, f"{self.path}: corpus", remedy)

    @property
    def encoder_path(self) -> Path:
        """The retrieval model's folder, from ``model2path`` or itself a path; InputError if it is not found."""
        name = self.model2path.get(self.retrieval_method) or self.retrieval_method
        return find_input(name, f"{self.path}: retrieval model", "download it there (models/README.md says how)")

    def devices(self, key: str) -> list[str] | None:
        """Return ``retrieval_devices`` or ``reranker_devices`` as a list of torch's names; None if it is not set."""
        named = getattr(self, key)
        if named is None:
            return None
        devices = [str(d).strip() for d in (named if isinstance(named, list) else str(named).split(","))]
        return [f"cuda:{device}" if device.isdigit() else device for device in devices]

    @property
    def pooling(self) -> str | None:
        """The encoder's pooling, a name in ``encoder.POOLINGS``; None leaves it to the model's folder."""
        return self.retrieval_pooling_method or self.model2pooling.get(self.retrieval_method) or None

    @property
    def index_path(self) -> str | None:
        """The index's path; None puts it beside the corpus."""
        return self.method2index.get(self.retrieval_method) or None


def load_config(path: str | Path = DEFAULT_CONFIG) -> Config:
    """Read a YAML configuration.

    ``${NAME}`` in a value is an environment variable. In the ``<provider>_setting`` sections it is looked up only when
    that provider is used, so that a file may name keys that are not set. InputError if the file is no YAML mapping,
    a key is unknown, a value has the wrong type or is out of range, or a variable is not set.
    """
    import yaml

    found = find_input(path, "configuration", "config_lib/ holds examples; name one with --config")
    try:
        with found.open(encoding="utf-8") as file:
            text = file.read(LONGEST + 1)
        if len(text) > LONGEST:
            raise InputError(f"{found}: more than {LONGEST} characters are no configuration; name another file")
        values = yaml.load(text, _loader())
    except OSError as error:
        raise InputError(f"{found} cannot be read ({error.strerror}); name a YAML file") from None
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: not in UTF-8, or a number of many digits
        # The error's own text quotes the line, which may contain an API key.
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = problem or "nested too deeply, not in UTF-8, or a number that there is not"
        raise InputError(f"{found}{line}: not YAML ({problem}); fix the line") from None
    if not isinstance(values, dict):
        raise InputError(f"{found}: expected a YAML mapping of keys to values; see config_lib/example_config.yaml")
    for key, value in values.items():
        _check_values(key, f"{found}: a key")
        _check_values(value, f"{found}: {key}")
    remember_in(values)  # before an error can show them
    settings = {k: v or {} for k, v in values.items() if str(k).endswith("_setting") and k not in IGNORED}
    if wrong := [key for key, section in settings.items() if not isinstance(section, dict)]:
        raise InputError(f"{found}: {wrong[0]} must be a mapping of api_key, base_url and the like")
    known = {k: v for k, v in values.items() if k not in IGNORED and k not in settings}
    _refuse_unknown(known, found)
    typed = {key: _typed(found, key, value) for key, value in known.items() if value is not None}
    remember_in(typed)  # with variables expanded
    for key, value in typed.items():
        if type(value) is int and value < SMALLEST.get(key, value):
            raise InputError(f"{found}: {key} must be at least {SMALLEST[key]}, not {value}")
        if type(value) is float and not math.isfinite(value):
            raise InputError(f"{found}: {key} must be a finite number, not {value}")
        if key == "rerank_weight" and not 0 <= value <= 1:
            raise InputError(f"{found}: {key} must be from 0 to 1, not {value}")
    return Config(path=found, settings=MappingProxyType(settings), **typed)


def expand(value: Any, where: str) -> Any:
    """Replace ``${NAME}`` by environment variables in a value's texts, at any depth; InputError if one is not set."""
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
        return remember_variable(name)

    return VARIABLE.sub(look_up, value)


def _loader() -> Any:
    """Return YAML's safe loader that leaves dates as text and bounds what merge keys (``<<``) make of aliases."""
    import yaml

    class Loader(yaml.SafeLoader):
        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            super().flatten_mapping(node)
            if len(node.value) > MOST_VALUES:
                raise yaml.constructor.ConstructorError(problem="too many merged keys", problem_mark=node.start_mark)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith(":timestamp")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return Loader


def _check_values(value: Any, where: str) -> None:
    """Raise InputError for values that are no text, number, list or mapping, or too many, aliases followed."""
    unseen, count = [value], 0
    while unseen:
        one = unseen.pop()
        kind = type(one).__name__
        if kind not in ("NoneType", "bool", "int", "float", "str", "list", "dict"):
            raise InputError(f"{where} holds a value of type {kind}; put it in quotes")
        if kind == "str" and not one.isascii() and one != encodable(one):
            raise InputError(f"{where} holds half a character, such as \\ud83d alone; write the whole one")
        if kind == "int" and abs(one) > LARGEST:
            raise InputError(f"{where} holds a number beyond 2^63; use a smaller one")
        inner = [*one, *one.values()] if kind == "dict" else one if kind == "list" else ()
        unseen += inner
        count += 1 + len(inner)
        if count > MOST_VALUES:
            raise InputError(f"{where} holds more than {MOST_VALUES} values, aliases (*name) followed; write fewer")


def _refuse_unknown(values: Mapping[str, Any], path: Path) -> None:
    """Report all unknown keys in one InputError, each with the nearest known one."""
    names = {f.name for f in fields(Config)} - {"path", "settings"}
    nearest = {key: difflib.get_close_matches(str(key), names | IGNORED, n=1, cutoff=0)[0] for key in values}
    unknown = [f"unknown key {key!r}, did you mean {near!r}?" for key, near in nearest.items() if key not in names]
    if unknown:
        raise InputError(f"{path}: {'; '.join(unknown)}")


def _typed(path: Path, key: str, value: Any) -> Any:
    """Check one value against the field's type, expand its variables, and make mappings read-only."""
    value = expand(value, f"{path}: {key}")
    wanted = str(get_type_hints(Config)[key])
    checks: dict[str, Any] = {"bool": bool, "int": int, "float": int | float, "Mapping": dict, "str": str | int | float}
    name = next((name for name in checks if name in wanted), "")
    if name and (not isinstance(value, checks[name]) or (isinstance(value, bool) and name != "bool")):
        raise InputError(f"{path}: {key} must be of type {name.lower()}, not {value!r:.100}")
    if isinstance(value, dict):
        for name, item in value.items() if "2" in key else ():  # from a method to its model, pooling, index or corpus
            if not isinstance(item, str | None):
                raise InputError(f"{path}: {key}.{name} must be text, not {type(item).__name__}")
        return MappingProxyType(value)
    return str(value) if "str" in wanted else value
