"""The rules of the architecture: who may import whom, where tests are, and that its documented examples run."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from utils.config import load_config
from utils.evaluation.metrics import METRICS, Pool, evaluate
from utils.files import ROOT, SCRIPTS
from utils.retrieval.arms import ARMS
from utils.retrieval.retriever import Retriever
from utils.retrieval.stores import STORES
from utils.schema import BridgeEntity, Outcome
from utils.teachers.ledger import Ledger
from utils.teachers.registry import TEACHERS, open_teacher

UTILS = SCRIPTS / "utils"
DOC = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
# From the ground up, as docs/architecture.md lists them.
ORDER = [
    name.strip("/") for names in re.findall(r"^\*\*(`.*?)\*\*:", DOC, re.M) for name in re.findall(r"`(.*?)`", names)
]
MODULES = sorted(path for path in UTILS.rglob("*.py") if path.name != "__init__.py")


def package_of(module: Path) -> str:
    return module.relative_to(UTILS).parts[0].removesuffix(".py")


def imports_of(module: Path) -> Iterator[str]:
    """Yield the first name below ``utils`` of all that a module imports from there."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "utils":
            yield from (alias.name for alias in node.names if alias.name.islower() and alias.name[0] != "_")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("utils."):
            yield node.module.split(".")[1]


def test_the_document_lists_every_package() -> None:
    assert sorted(ORDER) == sorted({package_of(module) for module in MODULES})


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(UTILS).as_posix())
def test_a_module_imports_only_what_is_above_it(module: Path) -> None:
    own = ORDER.index(package_of(module))
    assert {name for name in imports_of(module) if ORDER.index(name) > own} == set()


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(UTILS).as_posix())
def test_a_module_has_a_test_module_in_the_same_place(module: Path) -> None:
    place = module.relative_to(UTILS)
    assert (ROOT / "tests" / place.with_name(f"test_{place.name}")).exists()


def test_only_scripts_parse_flags_and_print() -> None:
    for module in MODULES:
        tree = ast.parse(module.read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        calls = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert package_of(module) == "cli" or "argparse" not in names, module
        assert "print" not in calls, module


def test_train_reranker_shows_the_four_scripts() -> None:
    scripts = {"contrastive_data_generator", "train_reranker", "test_reranker", "rerank_ablation_test"}
    assert {path.stem for path in SCRIPTS.glob("*.py")} == scripts


@pytest.fixture
def example(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the document's example, and remove its entry from the registry afterwards."""
    registries = (ARMS, TEACHERS, METRICS, STORES)
    before = [dict(registry) for registry in registries]
    _, _, section = DOC.partition(f"### … {request.param}\n")
    code = re.search(r"```python\n(.*?)```", section, re.S)
    assert code
    exec(code[1], {"__name__": "example"})
    yield
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)


@pytest.mark.parametrize("example", ["an arm"], indirect=True)
def test_an_arm_is_one_entry(example: None, retriever: Retriever) -> None:
    source = retriever.corpus[0]
    (lists,) = retriever.retrieve(["standard", "ft"], ["a lake"], [source], 5)
    assert len(lists["ft"]) == 5
    assert {one.document.id for one in lists["ft"]} == {one.document.id for one in lists["standard"]}


@pytest.mark.parametrize("example", ["a teacher"], indirect=True)
def test_a_teacher_is_one_entry(example: None, retriever: Retriever, config_file: Path) -> None:
    config = load_config(config_file).override(generator_model="mention")
    teacher = open_teacher(config, retriever.corpus, config_file.with_name("replies.sqlite"), Ledger())
    document = retriever.corpus[0]
    for name, outcome in ((document.contents.split()[0], Outcome.USABLE), ("zzz", Outcome.UNUSABLE)):
        assert asyncio.run(teacher.judge(BridgeEntity(name, "", "", ""), document)).outcome is outcome


@pytest.mark.parametrize("example", ["a metric"], indirect=True)
def test_a_metric_is_one_entry(example: None) -> None:
    assert evaluate([Pool.of(1, np.array([0.5, 0.9, 0.8, 0.7])), Pool.of(1, np.array([1.0, 0.2]))])["R@3"] == [0.0, 1.0]


@pytest.mark.parametrize("example", ["a store"], indirect=True)
def test_a_store_is_one_entry(example: None, retriever: Retriever) -> None:
    store = STORES["numpy"](None, retriever.corpus, retriever.encoder)
    vectors = retriever.index.vectors([3, 5])
    np.testing.assert_allclose(store.search(vectors, 4)[0], retriever.index.search(vectors, 4)[0], atol=1e-6)
