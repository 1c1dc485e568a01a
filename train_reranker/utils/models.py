"""What encoders and rerankers share: their folders, the devices that they run on, and batches of like length."""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from utils.cli import ROOT, InputError, find

if TYPE_CHECKING:
    import torch

BASE_MODEL = "BAAI/bge-reranker-v2-m3"
# What a model's folder must hold, and by which names.
PARTS = {
    "config.json": ("config.json",),
    "weights": ("model*.safetensors", "pytorch_model*.bin"),
    "tokenizer": ("tokenizer.json", "vocab.*", "*.model"),
}
# What tokenizers are made of, beside the files that a few of their classes name.
TOKENIZER_FILES = (
    "tokenizer*", "*vocab*", "merges*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "*.model",
    "*.codes", "*.tiktoken", "*.py",
)  # fmt: skip
LFS_POINTER = b"version https://git-lfs"

# What a model is loaded for: to make vectors, to score pairs, or to be trained to score pairs.
ENCODER, RERANKER, BASE = "encoder", "reranker", "base"

# Positions of these model types start behind the padding's, so that many of the table's rows are never used.
POSITIONS_AFTER_PADDING = (
    "camembert", "data2vec-text", "ibert", "lilt", "longformer", "luke", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip

# More tokens at once make a CPU no faster and only take memory.
CPU_BATCH_TOKENS = 4096
# Tokens of a pair where neither the positions nor the tokenizer set a limit: those of the training's default lengths.
NO_LIMIT = 1024

PROBE_LENGTH, SHORTEST_PAIR = 32, 16  # tokens

# Pairs of unlike length, which must get the same scores in a batch as alone.
PROBES = (
    ("who built it?", "Nobody knows."),
    ("where does the canal end?", "It runs from the lake past three mills and two villages to the harbour wall."),
    ("when was the bridge opened, and who paid for it?", "In spring."),
)


def find_model(path: str | Path) -> Path:
    """Return the folder of a reranker, or of an encoder to make one of, looked up as all inputs are.

    Raises:
        InputError: it is not there, which says what to download to where, or it lacks a file of a model.
    """
    found = find(path)
    if found is None:
        # A folder of ours before the slash, as in models/name, is no owner of a repository.
        named = re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(path)) and find(Path(path).parent) is None
        repository = str(path) if named else BASE_MODEL
        folder = ROOT / "models" / repository.partition("/")[2]
        raise InputError(
            f"model {path} is not there: fine-tune one with train_reranker.py, or download {repository} "
            f"(hf download {repository} --local-dir {folder}) and name its folder"
        )
    check_files(found)
    architecture = str((read_json(found / "config.json").get("architectures") or [""])[0])
    if architecture.endswith(("ForCausalLM", "GPT2LMHeadModel")):
        raise InputError(
            f"model {found} is a language model ({architecture}), not a reranker with one score: give one saved "
            "for sequence classification (hubs have many such rerankers as …-seq-cls), or an encoder to train"
        )
    return found


def check_files(folder: Path) -> None:
    """Refuse, by its files alone, a folder that holds no whole model.

    Raises:
        InputError: says what is missing or broken, and what to do.
    """
    if fault := _find_fault(folder):
        raise InputError(f"model {folder} {fault}")


def _find_fault(folder: Path) -> str | None:
    if not folder.is_dir():
        return "is a file: give the folder that it is in" if folder.exists() else "was not found: download it again"
    if (folder / "adapter_config.json").is_file():
        return "is an adapter (adapter_config.json): merge it into its base (peft: merge_and_unload), give that folder"
    missing = [what for what, names in PARTS.items() if not _files(folder, names)]
    if missing:
        inner = [file.parent for at in ("*", "snapshots/*") for file in folder.glob(f"{at}/config.json")]
        whole = [place for place in inner if _files(place, PARTS["weights"])]
        remedy = "the folder of a complete model, with *.safetensors or pytorch_model.bin"
        if (folder / "modules.json").is_file():
            remedy = "what SentenceTransformer(folder).save(other) makes of it"
        elif whole:
            remedy = str(max(whole, key=lambda place: (len(place.name), place.name)))
        return f"has no {' and no '.join(missing)}: give {remedy}"
    if method := read_json(folder / "config.json").get("quantization_config"):
        kind = method.get("quant_method") if isinstance(method, dict) else method
        return f"is quantized ({kind}): give its weights in half or full precision"
    weights = next(found for name in PARTS["weights"] if (found := _files(folder, [name])))
    for file in (*weights, *tokenizer_files(folder)):
        with file.open("rb") as content:
            if content.read(len(LFS_POINTER)) == LFS_POINTER:
                return f"has a Git LFS pointer in place of {file.name}: run git lfs pull, or download it again"
        if file.suffix == ".safetensors":
            if (types := stored_types(file)) is None:
                return f"has a truncated {file.name}: download it again"
            if coarse := sorted(kind for kind in types if kind == "I8" or kind.startswith(("F4", "F6_", "F8"))):
                return f"is quantized ({file.name} holds {coarse[0]}): give its weights in half or full precision"
        if file.suffix == ".json" and "vocab" not in file.name:
            read_json(file)
    return None


def _files(folder: Path, names: Iterable[str]) -> list[Path]:
    return sorted({file for name in names for file in folder.glob(name) if file.is_file()})


def stored_types(file: Path) -> set[str] | None:
    """Return the number types in a safetensors file, as it names them; None where it is shorter than it promises."""
    with file.open("rb") as content:
        size = int.from_bytes(content.read(8), "little")
        try:
            header = json.loads(content.read(size))
            tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
            end = max((tensor["data_offsets"][1] for tensor in tensors), default=0)
            types = {str(tensor["dtype"]) for tensor in tensors}
        except (ValueError, OverflowError, MemoryError, AttributeError, LookupError, TypeError):
            return None
    return types if file.stat().st_size == 8 + size + end else None


def read_json(path: Path, kind: type = dict) -> Any:
    """Return the JSON object, or the list of objects, in a file of a model.

    Raises:
        InputError: it holds none.
    """
    told = f"model {path.parent} has a {path.name} that is not"
    try:
        value: Any = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{told} valid JSON ({error}): download it again") from None
    items = value if isinstance(value, list) else []
    if not isinstance(value, kind) or not all(isinstance(item, dict) for item in items):
        raise InputError(f"{told} a JSON {'object' if kind is dict else 'list of objects'}: download it again")
    return value


def tokenizer_files(folder: Path, tokenizer: Any = None) -> list[Path]:
    """Return the files of a model's folder that its tokenizer may be made of, by name and by the tokenizer's word."""
    return _files(folder, [*TOKENIZER_FILES, *getattr(tokenizer, "vocab_files_names", {}).values()])


def visible_devices() -> list[str]:
    """Return all visible GPUs, else the CPU."""
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]


def best_device() -> str:
    """Return the device that models run on: the first visible GPU, else the CPU."""
    return visible_devices()[0]


def half_precision(device: str) -> torch.dtype | None:
    """Return the half-precision type that ``device`` computes fast, or None where that is full precision.

    bf16 where there is hardware for it (also AVX-512-BF16 or AMX on CPUs), fp16 on older GPUs.
    """
    import torch

    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if fast else None


def token_batches(lengths: Sequence[int], max_tokens: int, max_items: int) -> Iterator[list[int]]:
    """Yield positions in batches of like length, longest first: at most ``max_items`` and ``max_tokens`` padded.

    A single item longer than ``max_tokens`` is a batch of its own. Longest first: if a batch does not fit into
    memory, it is the first.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batch: list[int] = []
    for position in order:
        if batch and (len(batch) == max_items or (len(batch) + 1) * lengths[batch[0]] > max_tokens):
            yield batch
            batch = []
        batch.append(int(position))
    if batch:
        yield batch


def check_devices(devices: Sequence[str], key: str) -> None:
    """Refuse GPUs that cannot be seen.

    Raises:
        InputError: names them, the configuration's ``key``, and what can be seen.
    """
    visible = visible_devices()
    if missing := [device for device in devices if device != "cpu" and device not in visible]:
        raise InputError(
            f"{key} names {', '.join(missing)}, but only {', '.join(visible)} can be seen: mend it, or "
            "CUDA_VISIBLE_DEVICES, from which GPUs are counted"
        )


class Loaded(NamedTuple):
    """A model in float32 on the CPU, not training, and its tokenizer, whose padding changes no score."""

    tokenizer: Any
    model: Any
    fresh: list[str]  # weights that no file holds, drawn at random


def load_tokenizer(folder: Path) -> tuple[Any, Any]:
    """Return the tokenizer of a model's folder, and its configuration.

    Raises:
        InputError: they cannot be loaded.
    """
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False), config
    except Exception as error:
        raise _unloadable(folder, error) from None


def load_model(folder: Path, task: str, *, pooler: bool = False) -> Loaded:
    """Load what a folder holds for ``ENCODER``, ``RERANKER`` or ``BASE``; the one way to a network in this project.

    No weight may be drawn at random but what is never used (an encoder's pooler, unless ``pooler`` says that it is)
    and, for ``BASE``, the head that makes the scores.

    Raises:
        InputError: the folder holds no such model, or one whose outputs would not be its own.
    """
    import torch
    from transformers import (
        MODEL_FOR_TEXT_ENCODING_MAPPING,
        AutoModel,
        AutoModelForSequenceClassification,
        AutoModelForTextEncoding,
    )
    from transformers.utils import logging

    check_files(folder)
    tokenizer, config = load_tokenizer(folder)
    logging.disable_progress_bar()  # loading takes a second; the bars that matter are our own
    auto: Any = AutoModel if task == ENCODER else AutoModelForSequenceClassification
    options = {} if task == ENCODER else {"num_labels": 1}
    if task == ENCODER and config.is_encoder_decoder and type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
        auto = AutoModelForTextEncoding  # T5's encoder alone: embeddings have no use for its decoder
    try:
        model, found = auto.from_pretrained(
            folder, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True,
            trust_remote_code=False, **options,
        )  # fmt: skip
        fault = (
            _misfit(model, found, task, pooler)
            or _foreign_tokens(tokenizer, model)
            or _settle_padding(tokenizer, model, task)
        )
    except Exception as error:  # whatever the libraries say of a broken folder is about the folder
        raise _unloadable(folder, error) from None
    if fault:
        raise InputError(f"model {folder} {fault}")
    return Loaded(tokenizer, model, sorted(found["missing_keys"]))


def _unloadable(folder: Path, error: Exception) -> InputError:
    if "trust_remote_code" in str(error):
        return InputError(
            f"model {folder} needs code of its own (auto_map in its config.json), which is not run here: give a model "
            "of an architecture that transformers has"
        )
    told = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    told = told if " " in told else f"{type(error).__name__} {told}".strip()
    return InputError(f"model {folder} cannot be loaded ({told}): download it again, or give another")


def _misfit(model: Any, found: Mapping[str, Any], task: str, pooler: bool) -> str | None:
    """Say which weights are not those that ``config.json`` asks for; None if all are."""
    # Heads have names of their own; a pooler belongs to the head, wherever it stands.
    inner = "" if task == ENCODER else f"{model.base_model_prefix}."
    for name, stored, wanted in sorted(found["mismatched_keys"]):
        if not name.startswith(inner) and stored[1:] == wanted[1:] and wanted[0] == 1:
            return (
                f"has {stored[0]} labels ({name}), where a reranker has one score: give another, or train its encoder, "
                "which AutoModel.from_pretrained(folder).save_pretrained(other) saves"
            )
        return f"has {name} in shape {tuple(stored)}, but its config.json asks for {tuple(wanted)}: download both again"
    missing = sorted(found["missing_keys"])
    backbone = [name for name in missing if name.startswith(inner) and (pooler or not re.search(r"\bpooler\.", name))]
    if backbone:
        return f"has no weights for {backbone[0]}: its weights and its config.json belong to different models"
    if missing and task == RERANKER:
        return (
            f"has no weights for {missing[0]}: it is not a reranker; give one, or train this one with train_reranker.py"
        )
    if broken := first_not_finite(model.state_dict()):
        return f"has weights that are not finite ({broken}): download it again"
    return None


def first_not_finite(weights: Mapping[str, torch.Tensor]) -> str | None:
    """Return the name of the first tensor that holds an infinity or what is no number; None if none does."""
    return next((name for name, values in weights.items() if not values.isfinite().all()), None)


def _foreign_tokens(tokenizer: Any, model: Any) -> str | None:
    """Say which token the model has no embedding for; padding, which can be another, does not count."""
    known = _count_embeddings(model)
    vocabulary = {token: number for token, number in tokenizer.get_vocab().items() if token != tokenizer.pad_token}
    token = max(vocabulary, key=vocabulary.__getitem__)
    if vocabulary[token] >= known:
        return (
            f"has {known} token embeddings, but its tokenizer gives {token!r} the id {vocabulary[token]}: give it the "
            "tokenizer that belongs to it"
        )
    types, used = getattr(model.config, "type_vocab_size", 0), tokenizer(*PROBES[0]).get("token_type_ids", [0])
    if types and max(used) >= types:
        return (
            f"has {types} token type embeddings, but its tokenizer gives the type {max(used)}: set "
            '"model_input_names": ["input_ids", "attention_mask"] in its tokenizer_config.json'
        )
    return None


def _count_embeddings(model: Any) -> float:
    try:
        return getattr(model.get_input_embeddings(), "num_embeddings", math.inf)
    except NotImplementedError:  # CANINE hashes characters
        return math.inf


def _settle_padding(tokenizer: Any, model: Any, task: str) -> str | None:
    """Set the padding with which a batch gives what each text gives alone, and say so where none does.

    What that takes is the architecture's: the side, where positions count from the left or the last token is read;
    a padding token, in the model's configuration too where it looks for the last token by it.
    """
    import torch

    def run(batch: Any) -> torch.Tensor:
        with torch.inference_mode():
            output = model(**batch)
        if task != ENCODER:
            return output.logits
        mask = batch["attention_mask"].unsqueeze(-1)
        return (output.last_hidden_state * mask).sum(1) / mask.sum(1)

    texts = [(passage,) if task == ENCODER else (query, passage) for query, passage in PROBES]
    limit = length_limit(model.config, tokenizer) or PROBE_LENGTH
    if limit < SHORTEST_PAIR:
        return f"takes no more than {limit} tokens (model_max_length in its tokenizer_config.json): raise that"
    cut = {"truncation": True, "max_length": min(PROBE_LENGTH, limit)}
    alone = torch.cat([run(tokenizer(*text, **cut, return_tensors="pt")) for text in texts])
    config = model.config.get_text_config()
    ids = [getattr(config, "pad_token_id", None)]
    ids += [getattr(tokenizer, f"{name}_token_id") for name in ("pad", "eos", "unk", "bos", "sep")]
    # On the left an encoder's first token would be padding.
    sides = ["right"] if task == ENCODER else [tokenizer.padding_side, *{"left", "right"} - {tokenizer.padding_side}]
    for number, side in itertools.product(dict.fromkeys(ids), sides):
        if number is None or not 0 <= number < _count_embeddings(model):
            continue
        if (token := tokenizer.convert_ids_to_tokens(number)) is None:
            continue
        tokenizer.pad_token, tokenizer.padding_side = token, side
        config.pad_token_id = tokenizer.pad_token_id
        batch = tokenizer.pad([tokenizer(*text, **cut) for text in texts], return_tensors="pt")
        with contextlib.suppress(ValueError):  # some models refuse a batch that is padded with such a token
            if torch.allclose(run(batch), alone, rtol=1e-4, atol=1e-5):
                return None
    return "gives texts in a batch other outputs than alone, however they are padded: give another"


def cut_text(tokenizer: Any, text: str, limit: int) -> str:
    """Return the beginning of a text that is at most ``limit`` tokens long."""
    if not tokenizer.is_fast:  # it cannot say where in the text its tokens stand

        def overlong(end: int) -> bool:
            return len(tokenizer(text[:end], add_special_tokens=False)["input_ids"]) > limit

        return text if not overlong(len(text)) else text[: bisect.bisect(range(1, len(text)), False, key=overlong)]
    encoded = tokenizer(text, add_special_tokens=False, truncation=True, max_length=limit, return_offsets_mapping=True)
    return text if len(encoded["input_ids"]) < limit else text[: encoded["offset_mapping"][-1][1]]


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that the device's, or the machine's, memory has run out."""
    import torch

    told = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in told or "can't allocate memory" in told


def length_limit(config: Any, tokenizer: Any) -> int | None:
    """Return how many tokens a model takes: what its positions and its tokenizer allow; None where neither says."""
    limit = min(position_limit(config.to_dict()) or math.inf, tokenizer.model_max_length)
    return int(limit) if limit < 10**9 else None  # tokenizers without a limit say 1e30


def position_limit(config: Mapping[str, Any]) -> int | None:
    """Return how many tokens a model can take by its ``config.json``; None where that does not say."""
    kind = str(config.get("model_type"))
    positions = config.get("max_position_embeddings", None if "t5" in kind else config.get("n_positions"))
    if not isinstance(positions, int) or positions <= 0:
        return None
    if kind not in POSITIONS_AFTER_PADDING:
        return positions
    padding = config.get("pad_token_id")
    return positions - 1 - (1 if padding is None else padding)


def weights_fingerprint(path: Path) -> str:
    """Return a hash over the files of a model folder that its outputs depend on."""
    digest = hashlib.sha256()
    for file in sorted(file for file in path.iterdir() if file.is_file()):
        if file.suffix in (".safetensors", ".bin", ".txt", ".model") or file.name in (
            "config.json",
            "tokenizer.json",
        ):
            with file.open("rb") as content:
                digest.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
