"""The one loader of models and tokenizers, for encoders, rerankers and training."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import InputError
from utils.models.folders import check_files, trusts_code
from utils.models.lengths import length_limit
from utils.progress import log

if TYPE_CHECKING:
    import torch

# What a model is loaded for: to make vectors, to score pairs, or to be trained to score pairs.
ENCODER, RERANKER, BASE = "encoder", "reranker", "base"

PROBE_LENGTH, SHORTEST_PAIR = 32, 16  # tokens

# Pairs of different lengths, which must get the same scores in a batch as alone.
PROBES = (
    ("who built it?", "Nobody knows."),
    ("where does the canal end?", "It runs from the lake past three mills and two villages to the harbour wall."),
    ("when was the bridge opened, and who paid for it?", "In spring."),
)


def load_tokenizer(folder: Path) -> tuple[Any, Any]:
    """Return a folder's tokenizer and configuration, or raise InputError where they cannot be loaded."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trusts_code())
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trusts_code()), config
    except Exception as error:
        raise unloadable(folder, error) from None


def load_model(
    folder: Path, task: str, *, pooler: bool = False, dropout: float | None = None
) -> tuple[Any, Any, list[str]]:
    """Load a folder as ``ENCODER``, ``RERANKER`` or ``BASE``; an InputError if its outputs would not be its own.

    Returns the tokenizer, whose padding changes no score, the model, in float32 on the CPU and in evaluation mode, and
    the names of the weights that no file holds, which are random. None may be missing but those never used (an
    encoder's pooler, unless ``pooler`` says that it is) and, for ``BASE``, the head that makes the scores. ``dropout``
    replaces all of its rates.
    """
    import torch
    import transformers

    check_files(folder)
    tokenizer, config = load_tokenizer(folder)
    transformers.utils.logging.disable_progress_bar()  # loading takes a second
    auto: Any = transformers.AutoModel if task == ENCODER else transformers.AutoModelForSequenceClassification
    options: dict[str, Any] = {} if task == ENCODER else {"num_labels": 1}
    if task == ENCODER and config.is_encoder_decoder and type(config) in transformers.MODEL_FOR_TEXT_ENCODING_MAPPING:
        auto = transformers.AutoModelForTextEncoding  # T5's encoder alone
    if dropout is not None:
        rates = {key: rate for key, rate in config.to_dict().items() if "drop" in key and type(rate) in (int, float)}
        options |= dict.fromkeys(rates, dropout)
    try:
        model, found = auto.from_pretrained(
            folder, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True,
            trust_remote_code=trusts_code(), **options,
        )  # fmt: skip
        fault = _misfit(model, found, task, pooler) or _foreign_tokens(tokenizer, model)
        fault = fault or _settle_padding(tokenizer, model, task)
    except Exception as error:  # libraries have many kinds for a broken folder
        raise unloadable(folder, error) from None
    if fault:
        raise InputError(f"model {folder} {fault}")
    if not trusts_code() and (hasattr(config, "auto_map") or "auto_map" in tokenizer.init_kwargs):
        log.warning("%s: its own code (auto_map) does not run without --trust_remote_code; transformers' does", folder)
    return tokenizer, model, sorted(found["missing_keys"])


def unloadable(folder: Path, error: Exception) -> InputError:
    """Return the one line for an exception of a library that could not load a folder."""
    if "trust_remote_code" in str(error):
        return InputError(
            f"model {folder} needs code of its own (auto_map in its config.json): read it, then let it run with "
            "--trust_remote_code, or give a model of an architecture that transformers has"
        )
    if "weights_only" in str(error):  # torch would have its pickle run code
        found = "has a .bin that is damaged, or holds more than weights"
        return InputError(f"model {folder} {found}: download it again, or give its weights as model.safetensors")
    reason = str(error).strip().partition("\n")[0].strip()
    reason = reason if " " in reason else f"{type(error).__name__} {reason}".strip()
    return InputError(f"model {folder} cannot be loaded ({reason}): download it again, or give another")


def _misfit(model: Any, found: Mapping[str, Any], task: str, pooler: bool) -> str | None:
    """Say which weights are not those that ``config.json`` asks for; None if all are."""
    # Heads have names of their own; a pooler belongs to the head, wherever it stands.
    inner = "" if task == ENCODER else f"{model.base_model_prefix}."
    for name, stored, expected in sorted(found["mismatched_keys"]):
        if not name.startswith(inner) and stored[1:] == expected[1:] and expected[0] == 1:
            return (
                f"has {stored[0]} labels ({name}), where a reranker has one score: give another, or train its encoder, "
                "which AutoModel.from_pretrained(folder).save_pretrained(other) saves"
            )
        wanted = tuple(expected)
        return f"has {name} in shape {tuple(stored)}, but its config.json asks for {wanted}: download both again"
    missing = sorted(found["missing_keys"])
    backbone = [name for name in missing if name.startswith(inner) and (pooler or not re.search(r"\bpooler\.", name))]
    if backbone:
        return f"has no weights for {backbone[0]}: its weights and its config.json belong to different models"
    if missing and task == RERANKER:
        return f"has no weights for {missing[0]}: it is no reranker; give one, or train this one with train_reranker.py"
    if broken := first_not_finite(model.state_dict()):
        return f"has weights that are not finite ({broken}): download it again"
    return None


def first_not_finite(weights: Mapping[str, torch.Tensor]) -> str | None:
    """Return the name of the first tensor that holds an infinity or NaN; None if none does."""
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
    """Choose the padding with which a batch gives the same outputs as each text alone; a fault where none does.

    The side matters where positions count from the left or the last token is read, the token where the model looks
    for the last one by it.
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
