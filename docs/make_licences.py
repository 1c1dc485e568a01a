"""Write docs/licences.md: the licence of each requirement, as its own metadata states it. `make docs` runs it."""

import re
from importlib.metadata import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
INTRODUCTION = """# Licences

This code is under the MIT licence. It runs on the packages below and contains none of them; each states its licence in
its own metadata. Of the last two, the demo's, only data are read: Wikipedia's text (CC BY-SA 4.0) and the weights of
all-MiniLM-L6-v2 (Apache 2.0). Made by `make docs`.

| package | version | licence |
|---|---|---|
"""
CLASSIFIER = "License :: OSI Approved :: "
STATED_ELSEWHERE = {"FlagEmbedding": "MIT License (in its repository)"}


def requirements() -> list[tuple[str, str]]:
    """Return name and version of each requirement, the demo's included."""
    lines = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("requirements.txt", "requirements-demo.txt"))
    return re.findall(r"^([\w.-]+)==([\w.]+)", lines, re.MULTILINE)


def licence(package: str) -> str:
    """Return the licence that an installed package states: as an expression, by classifiers, or in words."""
    stated = metadata(package)
    classifiers = [one for one in stated.get_all("Classifier", []) if one.startswith(CLASSIFIER)]
    named = ", ".join(one.removeprefix(CLASSIFIER) for one in classifiers)
    words, *_ = (stated.get("License") or STATED_ELSEWHERE.get(package, "not stated")).strip().splitlines()
    return stated.get("License-Expression") or named or words


def page() -> str:
    """Return the whole page."""
    return INTRODUCTION + "".join(f"| {name} | {version} | {licence(name)} |\n" for name, version in requirements())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
