"""How a retrieval model expects to be used: its pooling, its prompts, and its longest text."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import InputError
from utils.models.folders import read_json
from utils.progress import log

BGE_ENGLISH = "Represent this sentence for searching relevant passages: "
BGE_CHINESE = "为这个句子生成表示以用于检索相关文章："
TASK = "Given a web search query, retrieve relevant passages that answer the query"
E5_TASK = f"Instruct: {TASK}\nQuery: "
BGE_TASK = f"<instruct>{TASK}.\n<query>"


class Family(NamedTuple):
    """Models that are used alike, as their cards say: the words of their names, their pooling, their prompts."""

    words: str
    pooling: str
    query: str = ""
    passage: str = ""


# The first whose words are all in a name counts. e5: Wang et al., arXiv 2212.03533 and 2401.00368; bge: Xiao et al.,
# arXiv 2309.07597; gte: Li et al., arXiv 2308.03281; contriever: Izacard et al., arXiv 2112.09118; arctic: Merrick et
# al., arXiv 2405.05374 and 2412.04506.
FAMILIES = (
    Family("e5 mistral", "last", E5_TASK), Family("e5 instruct", "mean", E5_TASK),
    Family("e5", "mean", "query: ", "passage: "),
    Family("bge m3", "cls"), Family("bge gemma2", "last", BGE_TASK), Family("bge icl", "last", BGE_TASK),
    Family("bge zh", "cls", BGE_CHINESE), Family("bge", "cls", BGE_ENGLISH),
    Family("gte instruct", "last", E5_TASK), Family("gte multilingual", "cls"), Family("gte v1", "cls"),
    Family("gte", "mean"), Family("contriever", "mean"),
    Family("nomic", "mean", "search_query: ", "search_document: "),
    Family("arctic embed v2", "cls", "query: "), Family("arctic embed", "cls", BGE_ENGLISH),
    Family("mxbai embed", "cls", BGE_ENGLISH),
)  # fmt: skip
UNKNOWN = Family("", "mean")

# sentence-transformers' names for poolings, in its order, and ours where they differ.
FLAGS = {
    "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max", "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean", "pooling_mode_lasttoken": "lasttoken",
}  # fmt: skip
ALIASES = {"lasttoken": "last"}
# Its names for the prompts of either role.
QUERIES, PASSAGES = ["query"], ["document", "passage", "corpus"]


@dataclass(frozen=True)
class EncoderOptions:
    """How to open an encoder; None leaves the choice to the model."""

    method: str = ""  # the retriever's name in the configuration: shows the model's family where the folder does not
    pooling: str | None = None  # names in ``encoder.POOLINGS``, joined by "+", or "pooler"
    instruction: str | None = None  # goes before queries
    passage_instruction: str | None = None  # goes before passages
    max_length: int = 512  # tokens; lowered to what the model takes
    batch_size: int = 256  # texts per batch, at most
    half: bool = True  # compute in half precision where the device is fast at it


class Folder(NamedTuple):
    """What a folder's sentence-transformers files say; None where they do not."""

    transformer: Path
    pooling: str | None = None
    query: str | None = None
    passage: str | None = None
    max_length: int | None = None
    lower_case: bool = False
    pools_prompt: bool = True
    steps: tuple[Path | None, ...] = ()  # after pooling: the folder of a dense layer; None normalises


class Conventions(NamedTuple):
    """One pooling, or several joined by "+"; what goes before queries and passages; what the folder says besides."""

    pooling: str
    query: str
    passage: str
    folder: Folder


def read_conventions(path: Path, options: EncoderOptions) -> Conventions:
    """Return how a model expects to be used; ``InputError`` if its files are unreadable, or describe what is not done.

    Options that are set override what sentence-transformers' files in the folder say, and these override the family
    that the model's name, or else the method's, belongs to.
    """
    folder = read_folder(path)
    matches = ((family, name) for name in model_names(path, options.method) if (family := family_of(name)))
    family, name = next(matches, (UNKNOWN, ""))
    # Prompts come as a pair: a folder that has one for queries means that passages go without.
    query, passage = (family.query, family.passage) if folder.query is None else (folder.query, folder.passage or "")
    pooling = options.pooling and _translate(str(options.pooling))
    if pooling and folder.pooling and pooling != folder.pooling:
        log.warning("%s: the configuration says %s pooling, the model's folder %s", path, pooling, folder.pooling)
    query = query if options.instruction is None else options.instruction
    passage = passage if options.passage_instruction is None else options.passage_instruction
    conventions = Conventions(pooling or folder.pooling or family.pooling, query, passage, folder)
    reason = ", as its folder says" if folder.query is not None else f", as usual for {name}" if name else ""
    log.info("%s: %s pooling, %r before queries, %r before passages%s", path, *conventions[:3], reason)
    return conventions


def _translate(pooling: str) -> str:
    """Return our names for a pooling that may have sentence-transformers'."""
    return "+".join(ALIASES.get(part, part) for part in pooling.split("+"))


def family_of(name: str) -> Family | None:
    """Return the family of a name, by whole words: share5 is not an e5."""
    words = set(re.findall(r"[a-z0-9]+", name.lower()))
    return next((family for family in FAMILIES if words.issuperset(family.words.split())), None)


def model_names(path: Path, method: str) -> Iterator[str]:
    """Yield a model's names: by its card, its ``config.json``, its folder, and the configuration."""
    import yaml

    card = path / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8-sig", errors="replace")
        front, body = text.split("\n---", 1) if text.startswith("---\n") and "\n---" in text[4:] else ("", text)
        with suppress(yaml.YAMLError, ValueError, LookupError, TypeError):  # not every card has results
            yield str(yaml.safe_load(front.removeprefix("---\n"))["model-index"][0]["name"])
        # Later lines that look like a heading may be a comment in code, and name other models.
        if heading := re.search(r"^# +(.+)$", body.split("```")[0], re.MULTILINE):
            yield heading[1]
    if (path / "config.json").is_file():
        yield Path(str(read_json(path / "config.json").get("_name_or_path", ""))).name
    # The hub's cache keeps models--owner--name/snapshots/revision.
    yield path.parent.parent.name if path.parent.name == "snapshots" else path.name
    yield method


def read_folder(path: Path) -> Folder:
    """Read the files with which sentence-transformers describes a model; a folder without them says nothing."""
    transformer, pooling_folder, steps = _read_modules(path)
    described: dict[str, Any] = {"transformer": transformer, "steps": tuple(steps)}
    file = pooling_folder / "config.json"
    if file.exists():
        pooling = read_json(file)
        modes = _value(pooling, "pooling_mode", (str, list), file)
        modes = modes or [mode for flag, mode in FLAGS.items() if pooling.get(flag)] or ["mean"]
        described["pooling"] = _translate(modes if isinstance(modes, str) else "+".join(map(str, modes)))
        described["pools_prompt"] = pooling.get("include_prompt", True)
    for file in sorted(transformer.glob("sentence_*_config.json")):
        lengths = read_json(file)
        described["max_length"] = _value(lengths, "max_seq_length", int, file)
        described["lower_case"] = bool(lengths.get("do_lower_case"))
    if (path / "config_sentence_transformers.json").exists():
        described |= _read_prompts(path / "config_sentence_transformers.json")
    return Folder(**described)


def _read_modules(path: Path) -> tuple[Path, Path, list[Path | None]]:
    """Return the folders of the transformer and of its pooling, and the steps after pooling as in ``Folder.steps``."""
    transformer, pooling, steps = path, path / "1_Pooling", list[Path | None]()
    modules = read_json(path / "modules.json", list) if (path / "modules.json").exists() else []
    for number, module in enumerate(modules):
        kind, place = str(module.get("type", "")), path / str(module.get("path", ""))
        step = kind.rpartition(".")[2] if kind.startswith("sentence_transformers.") else kind
        if step == "Transformer" and number == 0:
            transformer = place
        elif step == "Pooling" and number == 1:
            pooling = place
        elif step in ("Dense", "Normalize") and number > 1:
            steps.append(place if step == "Dense" else None)
        elif step != "Dropout" or number < 2:  # inactive outside training
            remedy = "name a model of Transformer, Pooling, Dense and Normalize"
            raise InputError(f"{path / 'modules.json'}: module {number}, {kind}, cannot be applied here: {remedy}")
    return transformer, pooling, steps


def _read_prompts(path: Path) -> dict[str, str]:
    """Return the prompts of queries and passages, nothing if all are empty: sentence-transformers writes such ones."""
    config = read_json(path)
    named = _value(config, "prompts", dict, path) or {}
    prompts = {name: text for name in named if (text := _value(named, name, str, path))}
    default = _value(config, "default_prompt_name", str, path)
    found = {}
    for role, own, other in (("query", QUERIES, PASSAGES), ("passage", PASSAGES, QUERIES)):
        tried = [*own, *([] if default in other else [default])]
        found[role] = next((prompts[name] for name in tried if name in prompts), "")
    return found if any(found.values()) else {}


def _value(config: dict[str, Any], key: str, kind: type | tuple[type, ...], path: Path) -> Any:
    """Return the value of a key in a model's file, None where there is none; another type is an ``InputError``."""
    value = config.get(key)
    if value is None or isinstance(value, kind):
        return value
    raise InputError(f"{path}: {key} cannot be {value!r}: download the model again")
