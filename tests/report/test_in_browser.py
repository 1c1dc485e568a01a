"""The pages in a browser, on a laptop and a phone, light and dark: quiet, usable by keyboard, and accessible.

``CHROMIUM`` names the browser, else the PATH has it; ``AXE`` names axe-core's script, else ``npm install axe-core`` in
the repository's root brings it. Without a browser nothing here runs, without axe-core its test does not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from browser import Page, browser, find_browser
from trials import reranker_test, result_of, sources
from utils.report.page import write_ablation_page, write_page, write_test_page
from utils.report.text import Table

pytestmark = pytest.mark.slow

AXE = Path(os.environ.get("AXE", Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"))
SIZES = {"laptop": (1366, 768), "phone": (390, 844)}
# What a page must not do, one of each.
FAULTY = """<!doctype html><title>x</title><input><img src="http://127.0.0.1:9/x.png">
<script>console.error("told"); throw new Error("thrown");</script>"""


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    program = find_browser()
    if program is None:
        pytest.skip("no browser: install chromium-headless-shell, or name one by CHROMIUM")
    with browser(program) as page:
        yield page


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    ranks = sources(base=[4, 3, None, 1, "error"] * 4, a=[1, 3, 2, 2, 1] * 4)
    latency = {arm: {"encode": 1.0, "search": 2.0, "rerank": 0.0} for arm in ("base", "a")}
    ablation = result_of(ranks, ["base", "a"], latency_ms=latency)
    bare = Table("Sets", "What was found", ["set", "MRR"], [["one", 0.5]])
    return {
        "test": write_test_page(reranker_test(queries=60), folder / "test.json"),
        "ablation": write_ablation_page(ablation, folder / "ablation.json"),
        "bare": write_page(ablation, folder / "bare.json", [bare], [], "Proof"),
    }


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["test", "ablation", "bare"])
class TestEveryPage:
    def test_is_quiet_and_fits(self, name: str, size: str, dark: bool, tab: Page, pages: dict[str, Path]) -> None:
        width, height = SIZES[size]
        tab.open(pages[name], width, height, dark)
        assert tab.complaints() == []
        assert tab.run("document.documentElement.scrollWidth") == width
        assert tab.run("matchMedia('(prefers-color-scheme: dark)').matches") == dark
        if name != "bare":  # the first screen: the answer, its plot, and what to do
            for part in ("h1", ".lead svg", ".steps li"):
                assert 0 < tab.run(f"document.querySelector('{part}').getBoundingClientRect().bottom") < height

    def test_is_accessible(self, name: str, size: str, dark: bool, tab: Page, pages: dict[str, Path]) -> None:
        if not AXE.is_file():
            pytest.skip(f"no axe-core: {AXE} not found; npm install axe-core, or name axe.min.js by AXE")
        tab.open(pages[name], *SIZES[size], dark)
        tab.run("document.querySelectorAll('details').forEach((one) => (one.open = true))")
        assert violations(tab) == []


def violations(tab: Page) -> list[str]:
    tab.run(AXE.read_text(encoding="utf-8") + "; 0")
    return tab.run("axe.run().then((r) => r.violations.map((v) => `${v.id}: ${v.nodes[0].html}`))")


def reach(tab: Page, selector: str) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(200):
        if tab.run(f"document.activeElement.matches('{selector}')"):
            return
        tab.press("Tab")
    pytest.fail(f"no Tab reaches {selector}")


@pytest.mark.parametrize(("name", "noun"), [("test", "queries"), ("ablation", "sources")])
def test_filters_and_list_work_by_keyboard(name: str, noun: str, tab: Page, pages: dict[str, Path]) -> None:
    tab.open(pages[name], *SIZES["laptop"])
    shown = SimpleNamespace(
        count=lambda: tab.run("document.querySelectorAll('.case:not([hidden])').length"),
        said=lambda: tab.run("document.getElementById('filter-count').textContent"),
        first=lambda: tab.run("document.querySelector('.case:not([hidden]) .badge').className"),
    )
    total = shown.count()
    assert shown.first() == "badge win"
    reach(tab, "#filter-text")
    tab.press(*("q1" if name == "test" else "query 1"))
    some = shown.count()
    assert 0 < some < total
    assert shown.said() == f"{some} of {total} {noun}"
    tab.press(*["Backspace"] * 7)
    assert shown.count() == total
    reach(tab, "#filter-kind")
    tab.press("ArrowDown", "ArrowDown")  # all, better, worse
    assert shown.first() == "badge loss"
    assert 0 < shown.count() < total
    reach(tab, ".case summary")
    tab.press("Enter")
    assert tab.run("document.activeElement.parentElement.open")
    tab.run("dispatchEvent(new Event('beforeprint'))")
    assert tab.run("document.querySelectorAll('.case[open]').length") == shown.count()
    assert tab.complaints() == []


def test_another_comparison_sorts_the_list_anew(tab: Page, pages: dict[str, Path]) -> None:
    tab.open(pages["test"], *SIZES["laptop"])
    badges = "[...document.querySelectorAll('.case .badge')].map((one) => one.textContent)"
    before = tab.run(badges)
    reach(tab, "#filter-versus")
    tab.press("ArrowDown")
    after = tab.run(badges)
    assert before != after
    gains = [float(text) for text in after if text != "the same"]
    won = [gain for gain in gains if gain > 0]
    assert won == sorted(won, reverse=True)


def test_a_term_leads_to_its_explanation(tab: Page, pages: dict[str, Path]) -> None:
    tab.open(pages["test"], *SIZES["phone"])
    reach(tab, ".term")
    term = tab.run("document.activeElement.textContent")
    tab.press("Enter")
    explained = tab.run("document.querySelector(':target').textContent")
    assert term in explained
    assert len(explained) > len(term) + 20


def test_the_browser_tells_of_what_a_page_must_not_do(tab: Page, tmp_path: Path) -> None:
    (tmp_path / "faulty.html").write_text(FAULTY, encoding="utf-8")
    tab.open(tmp_path / "faulty.html", *SIZES["laptop"])
    told = "\n".join(tab.complaints())
    for fault in ("request: http://127.0.0.1:9/x.png", "told", "Uncaught"):
        assert fault in told
    if AXE.is_file():
        assert {line.split(":")[0] for line in violations(tab)} >= {"image-alt", "label", "html-has-lang"}
