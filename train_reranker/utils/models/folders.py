"""The folder of a model: found, checked by its files alone, and fingerprinted."""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.files import ROOT, find

BASE_MODEL = "BAAI/bge-reranker-v2-m3"
# What a model's folder must hold, under one of these names.
PARTS = {
    "config.json": ("config.json",),
    "weights": ("model*.safetensors", "pytorch_model*.bin"),
    "tokenizer": ("tokenizer.json", "vocab.*", "*.model"),
}
# What tokenizers are read from, beside the files that a few of their classes name.
TOKENIZER_FILES = (
    "tokenizer*", "*vocab*", "merges*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "*.model",
    "*.codes", "*.tiktoken", "*.py",
)  # fmt: skip
# Set by the flag, and inherited by the processes that a run starts.
TRUST_CODE = "RERANKER_TRUST_REMOTE_CODE"
LFS_POINTER = b"version https://git-lfs"


def find_model(path: str | Path) -> Path:
    """Return the folder of a reranker, or of an encoder to train; an InputError says what to download to where."""
    found = find(path)
    if found is None:
        # A folder of ours before the slash, as in models/name, is no owner of a repository.
        named = re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(path)) and find(Path(path).parent) is None
        repository = str(path) if named else BASE_MODEL
        folder = ROOT / "models" / repository.partition("/")[2]
        raise InputError(
            f"model {path} not found: download {repository} (hf download {repository} --local-dir {folder}), or name "
            "the folder of a reranker or encoder that you have (--model_path)"
        )
    check_files(found)
    architecture = str((read_json(found / "config.json").get("architectures") or [""])[0])
    if architecture.endswith(("ForCausalLM", "GPT2LMHeadModel")):
        raise InputError(
            f"model {found} is a language model ({architecture}), not a reranker with one score: give one saved "
            "for sequence classification (on hubs: …-seq-cls), or an encoder to train"
        )
    return found


def trusts_code() -> bool:
    """Tell whether code in a model's folder may run: with --trust_remote_code alone, the same in all scripts."""
    return os.environ.get(TRUST_CODE) == "1"


def check_files(folder: Path) -> None:
    """Refuse a folder that holds no complete model, with an InputError that says what is missing or broken."""
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
    config = read_json(folder / "config.json")
    # transformers would fetch a kernel, which is code, from the hub: {"attn_implementation": "owner/name"}.
    if not trusts_code() and (
        kernel := re.search(r'_implementation": (?:\{[^}]*)?"([^"/]*/[^"]*)', json.dumps(config))
    ):
        return f"asks for code from elsewhere ({kernel[1]} in its config.json): remove that key, or --trust_remote_code"
    if method := config.get("quantization_config"):
        kind = method.get("quant_method") if isinstance(method, dict) else method
        return f"is quantized ({kind}): give its weights in half or full precision"
    weights = next(found for name in PARTS["weights"] if (found := _files(folder, [name])))
    for file in (*weights, *tokenizer_files(folder)):
        with file.open("rb") as content:
            if content.read(len(LFS_POINTER)) == LFS_POINTER:
                return f"has a Git LFS pointer in place of {file.name}: run git lfs pull, or download it again"
        if file.suffix == ".safetensors":
            if (tensors := stored_tensors(file)) is None:
                return f"has a truncated {file.name}: download it again"
            if coarse := sorted(kind for kind, _ in tensors if kind == "I8" or kind.startswith(("F4", "F6_", "F8"))):
                return f"is quantized ({file.name} holds {coarse[0]}): give its weights in half or full precision"
        if file.suffix == ".json" and "vocab" not in file.name:
            read_json(file)
    return None


def _files(folder: Path, names: Iterable[str]) -> list[Path]:
    return sorted({file for name in names for file in folder.glob(name) if file.is_file()})


def stored_tensors(file: Path) -> list[tuple[str, list[int]]] | None:
    """Return the data type (as the file names it) and shape of each tensor of a safetensors file; None if truncated."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as content:
            tensors = map(content.get_slice, content.keys())
            return [(tensor.get_dtype(), tensor.get_shape()) for tensor in tensors]
    except (SafetensorError, OSError):
        return None


def read_json(path: Path, kind: type = dict) -> Any:
    """Return the JSON object, or list of objects, in a file of a model; an InputError where it holds none."""
    problem = f"model {path.parent} has a {path.name} that is not"
    try:
        value: Any = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{problem} valid JSON ({error}): download it again") from None
    items = value if isinstance(value, list) else []
    if not isinstance(value, kind) or not all(isinstance(item, dict) for item in items):
        raise InputError(f"{problem} a JSON {'object' if kind is dict else 'list of objects'}: download it again")
    return value


def tokenizer_files(folder: Path, tokenizer: Any = None) -> list[Path]:
    """Return the files of a model's folder that its tokenizer may be read from."""
    return _files(folder, [*TOKENIZER_FILES, *getattr(tokenizer, "vocab_files_names", {}).values()])


def weights_fingerprint(path: Path) -> str:
    """Return a hash of a model's weights, configuration and vocabulary.

    Lengths, in tokenizer_config.json, are not part of it: what depends on them records those that were used.
    """
    digest = hashlib.sha256()
    for file in sorted(file for file in path.iterdir() if file.is_file()):
        named = file.name in ("config.json", "tokenizer.json")
        if named or file.suffix in (".safetensors", ".bin", ".txt", ".model"):
            with file.open("rb") as content:
                digest.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
