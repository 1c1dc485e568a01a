"""How a retrieval model wants to be used: its pooling, what goes before its texts, and how long they may be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
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
    """Models that are used alike, as their cards say: the words of their names, pooling, and instructions."""

    words: frozenset[str]
    pooling: str
    query: str = ""
    passage: str = ""


# The first whose words all stand in a name counts. e5: Wang et al., arXiv 2212.03533 and 2401.00368; bge: Xiao et al.,
# arXiv 2309.07597; gte: Li et al., arXiv 2308.03281; contriever: Izacard et al., arXiv 2112.09118; arctic: Merrick et
# al., arXiv 2405.05374 and 2412.04506.
FAMILIES = (
    Family(frozenset({"e5", "mistral"}), "last", E5_TASK),
    Family(frozenset({"e5", "instruct"}), "mean", E5_TASK),
    Family(frozenset({"e5"}), "mean", "query: ", "passage: "),
    Family(frozenset({"bge", "m3"}), "cls"),
    Family(frozenset({"bge", "gemma2"}), "last", BGE_TASK),
    Family(frozenset({"bge", "icl"}), "last", BGE_TASK),
    Family(frozenset({"bge", "zh"}), "cls", BGE_CHINESE),
    Family(frozenset({"bge"}), "cls", BGE_ENGLISH),
    Family(frozenset({"gte", "instruct"}), "last", E5_TASK),
    Family(frozenset({"gte", "multilingual"}), "cls"),
    Family(frozenset({"gte", "v1"}), "cls"),
    Family(frozenset({"gte"}), "mean"),
    Family(frozenset({"contriever"}), "mean"),
    Family(frozenset({"nomic"}), "mean", "search_query: ", "search_document: "),
    Family(frozenset({"arctic", "embed", "v2"}), "cls", "query: "),
    Family(frozenset({"arctic", "embed"}), "cls", BGE_ENGLISH),
    Family(frozenset({"mxbai", "embed"}), "cls", BGE_ENGLISH),
)
UNKNOWN = Family(frozenset(), "mean")

# sentence-transformers' words for a pooling, in its order, and ours where they differ.
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ALIASES = {"lasttoken": "last"}
# Its names for the prompts of either role.
QUERIES: tuple[str, ...] = ("query",)
PASSAGES: tuple[str, ...] = ("document", "passage", "corpus")


class Folder(NamedTuple):
    """What the files of a sentence-transformers folder say; None where they do not."""

    transformer: Path
    pooling: str | None = None
    query: str | None = None
    passage: str | None = None
    max_length: int | None = None
    lower_case: bool = False
    pools_prompt: bool = True
    steps: tuple[Path | None, ...] = ()  # after pooling: the folder of a dense layer; None normalises


class Recipe(NamedTuple):
    """How a model is used: one pooling or several joined by "+", and what goes before queries and passages."""

    pooling: str
    query: str
    passage: str
    folder: Folder


def read_recipe(
    path: Path,
    method: str = "",
    *,
    pooling: str | None = None,
    instruction: str | None = None,
    passage_instruction: str | None = None,
) -> Recipe:
    """Return how the model of a folder is used.

    What the configuration says goes first, then what sentence-transformers' files in the folder say, then the family
    that the model's name belongs to.

    Args:
        path: the model's folder.
        method: the retriever's name in the configuration: the last of the names that are tried.
        pooling: the configuration's; so are the other two.
        instruction: goes before queries.
        passage_instruction: goes before passages.

    Raises:
        InputError: the folder's files cannot be read, or describe what cannot be done here.
    """
    folder = read_folder(path)
    family, name = next(((family, name) for name in names(path, method) if (family := known(name))), (UNKNOWN, ""))
    # Prompts come as a pair: a folder that has one for queries means that passages go without.
    query, passage = (family.query, family.passage) if folder.query is None else (folder.query, folder.passage or "")
    pooling = pooling and ours(str(pooling))
    if pooling and folder.pooling and pooling != folder.pooling:
        log.warning("%s: the configuration says %s pooling, the model's folder %s", path, pooling, folder.pooling)
    recipe = Recipe(
        pooling=pooling or folder.pooling or family.pooling,
        query=query if instruction is None else instruction,
        passage=passage if passage_instruction is None else passage_instruction,
        folder=folder,
    )
    source = ", as its folder says" if folder.query is not None else f", as models named {name} want it" if name else ""
    log.info("%s: %s pooling, %r before queries, %r before passages%s", path, *recipe[:3], source)
    return recipe


def ours(pooling: str) -> str:
    """Return our words for a pooling that may be written in sentence-transformers'."""
    return "+".join(ALIASES.get(part, part) for part in pooling.split("+"))


def known(name: str) -> Family | None:
    """Return the family of a name, by whole words: share5 is no e5."""
    words = set(re.findall(r"[a-z0-9]+", name.lower()))
    return next((family for family in FAMILIES if family.words <= words), None)


def names(path: Path, method: str) -> Iterator[str]:
    """Yield what a model may be called: by its card, its ``config.json``, its folder, and the configuration."""
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
    """Read the files with which sentence-transformers describes a model; a folder without them says nothing.

    Raises:
        InputError: one cannot be read, or describes a step that cannot be done here.
    """
    transformer, pooling_folder, steps = path, path / "1_Pooling", list[Path | None]()
    modules = read_json(path / "modules.json", list) if (path / "modules.json").exists() else []
    for number, module in enumerate(modules):
        kind, place = str(module.get("type", "")), path / str(module.get("path", ""))
        step = kind.rpartition(".")[2] if kind.startswith("sentence_transformers.") else kind
        if step == "Transformer" and number == 0:
            transformer = place
        elif step == "Pooling" and number == 1:
            pooling_folder = place
        elif step in ("Dense", "Normalize") and number > 1:
            steps.append(place if step == "Dense" else None)
        elif step != "Dropout" or number < 2:  # a model at work drops nothing
            raise InputError(
                f"{path / 'modules.json'}: module {number}, {kind}, cannot be applied here: name a model of "
                "Transformer, Pooling, Dense and Normalize"
            )
    said: dict[str, Any] = {"transformer": transformer, "steps": tuple(steps)}
    if (pooling_folder / "config.json").exists():
        pooling = read_json(pooling_folder / "config.json")
        modes = read_value(pooling, "pooling_mode", (str, list), pooling_folder / "config.json")
        modes = modes or [mode for flag, mode in FLAGS.items() if pooling.get(flag)] or ["mean"]
        said["pooling"] = ours(modes if isinstance(modes, str) else "+".join(map(str, modes)))
        said["pools_prompt"] = pooling.get("include_prompt", True)
    for file in sorted(transformer.glob("sentence_*_config.json")):
        lengths = read_json(file)
        said["max_length"] = read_value(lengths, "max_seq_length", int, file)
        said["lower_case"] = bool(lengths.get("do_lower_case"))
    if (path / "config_sentence_transformers.json").exists():
        said |= _read_prompts(path / "config_sentence_transformers.json")
    return Folder(**said)


def _read_prompts(path: Path) -> dict[str, str]:
    """Return the prompts of queries and passages, or nothing where there are none.

    An empty prompt says nothing: sentence-transformers writes those of queries and documents unasked.
    """
    config = read_json(path)
    named = read_value(config, "prompts", dict, path) or {}
    prompts = {name: text for name in named if (text := read_value(named, name, str, path))}
    default = read_value(config, "default_prompt_name", str, path)
    found = {}
    for role, own, other in (("query", QUERIES, PASSAGES), ("passage", PASSAGES, QUERIES)):
        tried = [*own, *([] if default in other else [default])]
        found[role] = next((prompts[name] for name in tried if name in prompts), "")
    return found if any(found.values()) else {}


def read_value(config: dict[str, Any], key: str, kind: type | tuple[type, ...], path: Path) -> Any:
    """Return what a model's file says under a key, None where it says nothing.

    Raises:
        InputError: it is of another kind.
    """
    value = config.get(key)
    if value is None or isinstance(value, kind):
        return value
    raise InputError(f"{path}: {key} cannot be {value!r}: download the model again")
