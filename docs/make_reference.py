"""Write what the code knows into docs/: every flag and key, and the examples of a model card. A test compares."""

import argparse
import importlib
import re
import sys
from collections.abc import Container, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "train_reranker"
sys.path.insert(0, str(SCRIPTS))

from utils import cli
from utils.config import Config
from utils.models.lengths import Lengths
from utils.teachers.registry import PROVIDERS
from utils.training.using import using

PAGE, USING = ROOT / "docs" / "reference.md", ROOT / "docs" / "using.md"
MAIN = ("contrastive_data_generator", "train_reranker", "test_reranker", "rerank_ablation_test")
INTRODUCTION = """# Reference

Made from the code by `make docs`. Run the scripts from `train_reranker/`; a flag goes before the configuration's key.

## Flags of every script

"""


class _Parsed(Exception):
    """Carries a script's parser out of its ``main``."""


def parser_of(module: str) -> argparse.ArgumentParser:
    """Return the parser of a script, which its ``main`` builds first of all."""

    def caught(self: argparse.ArgumentParser, *_: object) -> None:
        raise _Parsed(self)

    with patch.object(cli.Parser, "parse_args", caught):
        try:
            importlib.import_module(module).main([])
        except _Parsed as found:
            return found.args[0]
    raise AssertionError(f"{module} parses no flags")


def flag_rows(parser: argparse.ArgumentParser, without: Container[str] = ()) -> Iterator[list[str]]:
    """Yield names, default and meaning of each flag, ``without`` some."""
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS or action.dest in without:
            continue
        names = ", ".join(f"`{name}`" for name in action.option_strings)
        help_text = re.sub(r"%\(default\)s", str(action.default), action.help or "")
        meaning, _, stated = help_text.rpartition(" (default: ") if " (default: " in help_text else (help_text, "", "")
        default = stated.removesuffix(")") if stated else _shown(action.default)
        choices = f" ({', '.join(map(str, action.choices))})" if action.choices else ""
        yield [names, default, meaning + choices]


def key_rows() -> Iterator[list[str]]:
    """Yield each configuration key with its default and what example_config.yaml says above or beside it."""
    said: dict[str, str] = {}
    above: list[str] = []
    for line in (ROOT / "config_lib" / "example_config.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("# ---") or not line:
            above = []
        elif line.startswith("#"):
            above.append(line.removeprefix("#").strip())
        elif key := re.match(r"(\w+):", line):
            beside = line.partition(" # ")[2].strip()
            said[key[1]] = beside or " ".join(above)
    for one in fields(Config):
        if one.name not in ("path", "settings"):
            default = one.default if one.default is not MISSING else one.default_factory()  # type: ignore[misc]
            yield [f"`{one.name}`", _shown(default), said[one.name]]
    sections = ", ".join(f"`{provider}_setting`" for provider in PROVIDERS)
    yield [sections, "", said["openai_setting"]]


def _shown(value: object) -> str:
    if isinstance(value, Path) and value.is_relative_to(ROOT):
        value = value.relative_to(ROOT)
    return "" if value in (None, "", (), {}, argparse.SUPPRESS) else str(value)


def table(head: list[str], rows: Iterator[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines)


def page() -> str:
    """Return the whole page."""
    tools = [f"tools.{path.stem}" for path in sorted((SCRIPTS / "tools").glob("*.py")) if path.stem != "__init__"]
    common = cli.common_flags()
    parts = [INTRODUCTION + table(["flag", "default", "meaning"], flag_rows(common)) + "\n"]
    shared = {action.dest for action in common._actions}
    for module in [*MAIN, *tools]:
        parser = parser_of(module)
        command = f"python -m {module}" if "." in module else f"python {module}.py"
        parts.append(f"## `{command}`\n\n{parser.description}\n")
        if rows := list(flag_rows(parser, shared)):
            parts.append(table(["flag", "default", "meaning"], iter(rows)) + "\n")
    parts.append("## Keys of a configuration\n")
    parts.append(table(["key", "default", "meaning"], key_rows()) + "\n")
    return "\n".join(parts)


def using_page() -> str:
    """Return docs/using.md with the examples of today."""
    before, _, rest = USING.read_text(encoding="utf-8").partition("<!-- examples -->\n")
    _, _, after = rest.partition("<!-- end -->\n")
    return f"{before}<!-- examples -->\n{using('./output', Lengths(512, 512))}\n<!-- end -->\n{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    USING.write_text(using_page(), encoding="utf-8")
