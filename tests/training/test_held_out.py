"""The rows that are held out, and the model that they choose."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainings import evaluations
from utils.training import held_out

pytestmark = pytest.mark.usefixtures("one_thread")


def test_folder_holds_the_best_model(trained: Path, data: Path) -> None:
    from utils.data.rows import pools_of_rows, read_examples
    from utils.evaluation import metrics
    from utils.scoring import open_reranker

    found = evaluations(trained)
    rows = held_out.hold_out(read_examples([data]), 0.1, 42).test
    scores = open_reranker(trained, max_length=32, half=False).score(metrics.pairs_of(pools_of_rows(rows)))
    (row, *_) = metrics.compare({"model": metrics.pools_of(pools_of_rows(rows), scores)})
    assert row.values["model"] == pytest.approx(found["best"]["MRR"], abs=1e-3)
