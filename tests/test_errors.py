"""Every error that ends a run has the exit code that the tree shows."""

from __future__ import annotations

import re

import pytest
import torch

from utils import cli, errors
from utils.errors import EXIT_REGRESSION, BudgetSpent, InputError, Interrupted, RunError


@pytest.mark.parametrize(("error", "code"), [(InputError, 2), (RunError, 1), (BudgetSpent, 1), (Interrupted, 130)])
def test_error_is_one_line_and_its_exit_code(
    error: type[Exception], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(_: list[str] | None) -> None:
        raise error("what failed: what to do")

    with pytest.raises(SystemExit) as ended:
        cli.run(main, [])
    assert ended.value.code == code
    assert capsys.readouterr().err == "error: what failed: what to do\n"


def test_memory_that_runs_out_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main(_: list[str] | None) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has 79 GiB in total.")

    with pytest.raises(SystemExit) as ended:
        cli.run(main, [])
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: out of memory (CUDA out of memory): lower the batch size")


def test_the_tree_shows_every_error_with_its_code() -> None:
    tree = dict(re.findall(r"(\w+)\s+(\d+) ", str(errors.__doc__)))
    shown = {name: int(code) for name, code in tree.items() if hasattr(errors, name)}
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert shown == {one.__name__: one.exit_code for one in classes}
    assert EXIT_REGRESSION == 3
    assert " 3 " in str(errors.__doc__)
