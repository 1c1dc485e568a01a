"""The teachers, by the name that ``generator_model`` gives them, and the ``<provider>_setting`` that a model needs."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from utils.config import Config, expand
from utils.corpus.documents import Corpus
from utils.errors import InputError
from utils.redaction import remember_in
from utils.teachers.base import Teacher
from utils.teachers.endpoint import RESPONSE_FORMATS, TIMEOUT, EndpointSettings
from utils.teachers.evidence import LEVELS
from utils.teachers.language_model import LLMTeacher, PromptLimits
from utils.teachers.ledger import Ledger, Price
from utils.teachers.offline import QUERIES, OfflineTeacher

OFFLINE = "offline"
LANGUAGE_MODEL = "language model"  # for every other name, which is then a model's

Opener = Callable[[Config, Corpus, Path, Ledger, int], Teacher]

# By provider: the part of a model's name that identifies it, and its OpenAI-compatible endpoint.
PROVIDERS = {
    "google": ("gemini", "https://generativelanguage.googleapis.com/v1beta/openai/"),
    "anthropic": ("claude", "https://api.anthropic.com/v1/"),
    "deepseek": ("deepseek", "https://api.deepseek.com/v1"),
    "openai": ("", "https://api.openai.com/v1"),
}


def open_offline(config: Config, corpus: Corpus, *_: object) -> Teacher:
    """Return the rules; InputError for unknown ``offline_queries``, or if the corpus has nothing to ask about."""
    if config.offline_queries not in QUERIES:
        kinds = " or ".join(QUERIES)
        raise InputError(f"{config.path}: offline_queries must be {kinds}, not {config.offline_queries!r}")
    teacher = OfflineTeacher(corpus, config.min_segment_words, queries=config.offline_queries)
    if teacher.complaint:
        remedy = "name a language model as generator_model"
        raise InputError(f"{corpus.path}: the offline teacher has nothing to ask about: {teacher.complaint}; {remedy}")
    return teacher


def open_language_model(config: Config, corpus: Corpus, reply_cache: Path, ledger: Ledger, seed: int) -> Teacher:
    """Return the models of the two roles behind their endpoints; InputError for unknown ``evidence``."""
    if config.evidence not in LEVELS:
        raise InputError(f"{config.path}: evidence must be one of {', '.join(LEVELS)}, not {config.evidence!r}")
    extractor, judge = configured_endpoints(config)
    lengths = config.min_segment_words, config.max_document_tokens, config.max_document_windows
    limits = PromptLimits(*lengths, corpus.longest, seed, config.evidence)
    return LLMTeacher(extractor, judge, reply_cache, ledger, limits)


TEACHERS: dict[str, Opener] = {OFFLINE: open_offline, LANGUAGE_MODEL: open_language_model}


def open_teacher(config: Config, corpus: Corpus, reply_cache: Path, ledger: Ledger, seed: int = 0) -> Teacher:
    """Return the teacher that ``generator_model`` names, or else a language model; InputError for unusable settings.

    ``reply_cache`` is its file of replies; ``seed`` decides where in a long document it looks for an entity.
    """
    opener = TEACHERS.get(config.generator_model, TEACHERS[LANGUAGE_MODEL])
    return opener(config, corpus, reply_cache, ledger, seed)


def configured_endpoints(config: Config) -> tuple[EndpointSettings, EndpointSettings]:
    """Return the endpoints of the two roles' models, as :func:`configured_endpoint` does."""
    roles = "entity_extractor_model", "question_generator_model"
    extractor, judge = (configured_endpoint(config, role) for role in roles)
    return extractor, judge


def configured_endpoint(config: Config, role: str) -> EndpointSettings:
    """Return the endpoint of a role's model, or else of ``generator_model``; InputError if its section is unusable."""
    key = role if getattr(config, role) else "generator_model"
    model = getattr(config, key)
    provider, default_url = next((name, url) for name, (part, url) in PROVIDERS.items() if part in model.lower())
    section = f"{provider}_setting"
    where = f"{config.path}: {section}"
    if section not in config.settings:
        raise InputError(f"{config.path}: {key} {model!r} needs {section}, with api_key and base_url")
    setting = expand(config.settings[section], where)
    remember_in({section: setting})
    base_url = setting.get("base_url") or setting.get("api_base") or default_url
    keys = _api_keys(setting)
    if not keys and base_url == default_url:
        raise InputError(f"{where}.api_key is missing; set an environment variable to the key and name it here")
    # As text, since YAML reads some versions as dates or numbers.
    versions = {name: str(setting[name]) for name in ("api_version", "model_revision") if setting.get(name) is not None}
    given: dict[str, Any] = versions | _request_format(setting, where)
    return EndpointSettings(
        provider=provider, base_url=str(base_url), model=model, api_keys=keys, params=config.generation_params,
        timeout=_timeout(setting, where), price=_price(config, model), api_type=setting.get("api_type") or "openai",
        model_key=key, **given,
    )  # fmt: skip


def _timeout(setting: Mapping[str, Any], where: str) -> float:
    try:
        seconds = float(TIMEOUT if setting.get("timeout") is None else setting["timeout"])
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise InputError(f"{where}.timeout must be a number of seconds above 0")
    return seconds


def _request_format(setting: Mapping[str, Any], where: str) -> dict[str, Any]:
    response_format, system = setting.get("response_format"), setting.get("system_message")
    if response_format is None or isinstance(response_format, bool):
        response_format = None if response_format is False else RESPONSE_FORMATS[0]
    if response_format not in RESPONSE_FORMATS:
        raise InputError(f"{where}.response_format must be json_schema, json_object or false")
    if not (system is None or isinstance(system, bool)):
        raise InputError(f"{where}.system_message must be true or false")
    return {"response_format": response_format, "system_message": system is not False}


def _api_keys(setting: Mapping[str, Any]) -> tuple[str, ...]:
    """Return ``api_keys``, a list or comma-separated text, or else the one ``api_key``."""
    keys = setting.get("api_keys") or setting.get("api_key") or ()
    keys = keys if isinstance(keys, list | tuple) else str(keys).split(",")
    return tuple(str(key).strip() for key in keys if str(key).strip())


def _price(config: Config, model: str) -> Price | None:
    """Return the model's entry in ``price_per_million_tokens``, or the one price for all models, or None."""
    prices = config.price_per_million_tokens
    entry = prices.get(model, prices if "input" in prices else None)
    if entry is None:
        return None
    try:
        price = Price(float(entry["input"]), float(entry["output"]))
    except (KeyError, TypeError, ValueError):
        price = Price(math.nan, math.nan)
    if not all(0 <= side < math.inf for side in price):  # with NaN, no limit on cost would ever be reached
        key = f"price_per_million_tokens of {model}"
        raise InputError(f"{config.path}: {key} must be two numbers of at least 0, input and output")
    return price
