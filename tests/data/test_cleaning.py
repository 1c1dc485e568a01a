"""A cleaned row keeps scores and grades beside the passages that they belong to, and files that change are told."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from auditing import clean_rows, write
from utils.data.audit import Gathered
from utils.data.cleaning import cleaned
from utils.data.findings import Analysis
from utils.data.rows import without_places
from utils.errors import InputError
from utils.schema import ContrastiveExample


def test_scores_and_grades_stay_beside_their_passages() -> None:
    example = ContrastiveExample("q", ["a", "b"], ["c", "d"], [1, 2], [3, 4], [5, 6])
    assert without_places(example, [False, True, True, False]) == ContrastiveExample("q", ["a"], ["d"], [1], [4], [5])
    assert without_places(example, [False] * 4) is example


def test_a_file_that_changes_in_between_is_told(tmp_path: Path) -> None:
    rows = clean_rows(random.Random(0), 3)
    path = write(tmp_path / "a.jsonl", rows[:2])
    gathered = Gathered(pytest.fail)
    gathered.read(path)
    analysis = Analysis(gathered, 3)
    list(analysis.findings())
    assert list(cleaned(path, analysis, None, Counter())) == rows[:2]
    write(path, rows)
    with pytest.raises(InputError, match="has changed while it was read"):
        list(cleaned(path, analysis, None, Counter()))
