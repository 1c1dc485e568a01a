"""The README and the pages: short enough, no dead link, no stale table, no command that a script would refuse."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from utils import __version__
from utils.files import ROOT, SCRIPTS

PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "models/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
SOURCE = "".join(path.read_text(encoding="utf-8") for path in SCRIPTS.rglob("*.py"))

_spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
assert _spec is not None
assert _spec.loader is not None
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)


def commands() -> list[str]:
    """Return the commands of the scripts in all pages, without what a shell adds before them."""
    lines = [
        line.strip() for page in PAGES for line in page.read_text(encoding="utf-8").splitlines() if line[:4] == "    "
    ]
    return sorted({line for line in lines if re.match(r"(?:[A-Z_]+=\S+ )*(?:python|torchrun|deepspeed) ", line)})


def test_readme_is_short() -> None:
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        file, _, heading = target.partition("#")
        found = (page.parent / file) if file else page
        assert found.is_file(), target
        headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
        assert not heading or heading in {re.sub(r"[^\w\- ]", "", one).lower().replace(" ", "-") for one in headings}


def test_reference_is_of_this_code() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "run `make docs`"
    assert reference.USING.read_text(encoding="utf-8") == reference.using_page(), "run `make docs`"


def test_licences_are_of_these_requirements() -> None:
    text = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    pins = [
        found.groups()
        for name in ("requirements.txt", "requirements-demo.txt")
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
        if (found := re.match(r"([\w.-]+)==([\w.]+)", line))
    ]
    assert re.findall(r"^\| ([\w.-]+) \| (\d[\w.]*) \| \w.* \|$", text, re.MULTILINE) == pins, "run `make docs`"
    assert "not stated" not in text


def test_newest_entry_of_the_changelog_is_of_this_version() -> None:
    entries = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert entries[0].rstrip(",") == __version__


def script_of(command: str) -> tuple[str, list[str]]:
    """Return the module that a command runs, and its arguments."""
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    at = next(i for i, word in enumerate(words) if word.endswith(".py") or word == "-m")
    at += words[at] == "-m"
    return Path(words[at]).stem if words[at].endswith(".py") else words[at], words[at + 1 :]


@pytest.mark.parametrize("command", commands())
def test_command_is_one_that_its_script_takes(command: str) -> None:
    script, arguments = script_of(command)
    reference.parser_of(script).parse_args(arguments)


def test_errors_of_the_troubleshooting_page_are_those_of_the_code() -> None:
    said = re.sub(r'"\s*\n\s*f?"', "", SOURCE)
    rows = re.findall(
        r"^\| `([^`]+)` \|", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(rows) > 15
    assert [row for row in rows if row not in said] == []


@pytest.mark.parametrize("page", ["reliability.md", "security.md"])
def test_each_promise_names_its_test(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| what happens")]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}" in (ROOT / "tests" / file).read_text(encoding="utf-8"), (file, test)
