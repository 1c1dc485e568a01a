"""The teachers, by the name that ``generator_model`` gives them."""

from collections.abc import Callable
from pathlib import Path

from utils.config import Config
from utils.corpus.documents import Corpus
from utils.teachers.base import Teacher
from utils.teachers.language_model import LLMTeacher, PromptLimits
from utils.teachers.ledger import Ledger
from utils.teachers.offline import OfflineTeacher
from utils.teachers.providers import configured_endpoint

OFFLINE = "offline"
LANGUAGE_MODEL = "language model"  # for every other name, which is then a model's

Opener = Callable[[Config, Corpus, Path, Ledger, int], Teacher]


def open_offline(config: Config, corpus: Corpus, *_: object) -> Teacher:
    """Return the rules, with the corpus's titles as entities."""
    return OfflineTeacher(corpus, config.min_segment_words)


def open_language_model(config: Config, corpus: Corpus, reply_cache: Path, ledger: Ledger, seed: int) -> Teacher:
    """Return the models of the two roles behind their endpoints."""
    extractor = configured_endpoint(config, "entity_extractor_model")
    judge = configured_endpoint(config, "question_generator_model")
    lengths = config.min_segment_words, config.max_document_tokens, config.max_document_windows
    return LLMTeacher(extractor, judge, reply_cache, ledger, PromptLimits(*lengths, corpus.longest, seed))


TEACHERS: dict[str, Opener] = {OFFLINE: open_offline, LANGUAGE_MODEL: open_language_model}


def open_teacher(config: Config, corpus: Corpus, reply_cache: Path, ledger: Ledger, seed: int = 0) -> Teacher:
    """Return the teacher that ``generator_model`` names: an entry of ``TEACHERS``, or else a language model.

    ``reply_cache`` is the file of a language model's replies, ``ledger`` counts its calls, and ``seed`` decides where
    in a long document it looks for an entity. Raises InputError if the settings are missing or unusable.
    """
    opener = TEACHERS.get(config.generator_model, TEACHERS[LANGUAGE_MODEL])
    return opener(config, corpus, reply_cache, ledger, seed)
