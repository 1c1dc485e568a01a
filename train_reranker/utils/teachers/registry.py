"""From a configuration to its teacher: offline, or a language model behind an endpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.config import Config, expand
from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.teachers.base import Teacher
from utils.teachers.language_model import LLMTeacher
from utils.teachers.ledger import Ledger, Price
from utils.teachers.offline import OfflineTeacher
from utils.teachers.protocol import FORMATS, TIMEOUT, EndpointSettings

OFFLINE = "offline"

# Where a provider's OpenAI-compatible endpoint is, and what in a model's name tells that it is that provider's.
PROVIDERS = {
    "google": ("gemini", "https://generativelanguage.googleapis.com/v1beta/openai/"),
    "anthropic": ("claude", "https://api.anthropic.com/v1/"),
    "deepseek": ("deepseek", "https://api.deepseek.com/v1"),
    "openai": ("", "https://api.openai.com/v1"),
}


def open_teacher(config: Config, corpus: Corpus, reply_cache: Path, ledger: Ledger, seed: int = 0) -> Teacher:
    """Return the teacher that ``generator_model`` names.

    Args:
        config: names model and endpoint.
        corpus: its titles are what the offline teacher learns; its longest document decides how long prompts become.
        reply_cache: the file in which a language model's replies are kept.
        ledger: counts a language model's calls.
        seed: decides where in a long document a language model looks for an entity.

    Raises:
        InputError: the endpoint's settings are missing or cannot be used.
    """
    if config.generator_model == OFFLINE:
        return OfflineTeacher(corpus, config.min_segment_words)
    extractor = endpoint(config, "entity_extractor_model")
    judge = endpoint(config, "question_generator_model")
    return LLMTeacher(
        extractor,
        judge,
        reply_cache,
        ledger,
        min_segment_words=config.min_segment_words,
        max_document_tokens=config.max_document_tokens,
        max_document_windows=config.max_document_windows,
        longest_document=corpus.longest,
        seed=seed,
    )


def endpoint(config: Config, role: str) -> EndpointSettings:
    """Return how to reach the model of a role, ``generator_model`` where the role has none of its own.

    Raises:
        InputError: the provider's section is missing, names no key where one is needed, or cannot be used.
    """
    key = role if getattr(config, role) else "generator_model"
    model = getattr(config, key)
    provider = next(name for name, (mark, _) in PROVIDERS.items() if mark in model.lower())
    section = f"{provider}_setting"
    if section not in config.settings:
        raise InputError(f"{config.path}: {key} {model!r} needs {section}, with api_key and base_url")
    setting = expand(config.settings[section], f"{config.path}: {section}")
    usual = PROVIDERS[provider][1]
    base_url = setting.get("base_url") or setting.get("api_base") or usual
    version = setting.get("api_version")
    where = f"{config.path}: {section}"
    keys = _keys(setting)
    if not keys and base_url == usual:
        raise InputError(f"{config.path}: {section}.api_key is missing; put the key into the environment and name it")
    return EndpointSettings(
        provider=provider,
        base_url=str(base_url),
        model=model,
        api_keys=keys,
        params=config.generation_params,
        timeout=_timeout(setting, where),
        price=_price(config, model),
        api_type=setting.get("api_type") or "openai",
        api_version=None if version is None else str(version),  # YAML makes a date of it
        model_key=key,
        model_revision=None if setting.get("model_revision") is None else str(setting["model_revision"]),
        response_format=_format(setting, where),
        system_message=_system_message(setting, where),
    )


def _timeout(setting: Mapping[str, Any], where: str) -> float:
    """Return the seconds that a reply may take."""
    try:
        seconds = float(setting.get("timeout") or TIMEOUT)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise InputError(f"{where}.timeout must be a number of seconds above 0")
    return seconds


def _format(setting: Mapping[str, Any], where: str) -> str | None:
    """Return the ``response_format`` that requests begin with, None for none."""
    given = setting.get("response_format")
    if given is None or given is True:
        return FORMATS[0]
    if given is False:
        return None
    if given not in FORMATS:
        raise InputError(f"{where}.response_format must be json_schema, json_object or false")
    return str(given)


def _system_message(setting: Mapping[str, Any], where: str) -> bool:
    """Return whether the rules go into a system message, or into the user's."""
    given = setting.get("system_message")
    if not (given is None or isinstance(given, bool)):
        raise InputError(f"{where}.system_message must be true or false")
    return given is not False


def _keys(setting: Mapping[str, Any]) -> tuple[str, ...]:
    """Return ``api_keys``, a list or a text with commas, or else the one ``api_key``."""
    keys = setting.get("api_keys") or setting.get("api_key") or ()
    keys = keys if isinstance(keys, list | tuple) else str(keys).split(",")
    return tuple(str(key).strip() for key in keys if str(key).strip())


def _price(config: Config, model: str) -> Price | None:
    """Return a model's price: its own entry of ``price_per_million_tokens``, or the one that serves all models."""
    prices = config.price_per_million_tokens
    entry = prices.get(model, prices if "input" in prices else None)
    if entry is None:
        return None
    try:
        return Price(float(entry["input"]), float(entry["output"]))
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{config.path}: price_per_million_tokens of {model} must be two numbers, input and output"
        ) from None
