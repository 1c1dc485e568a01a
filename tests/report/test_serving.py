"""The text of a comparison: what agrees, what was not tested, and the verdict."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from utils.data.judged import JudgedPool
from utils.evaluation.metrics import pairs_of
from utils.report.serving import serving_text
from utils.serving.agreement import Bounds, Scored, measure


def test_figures_and_verdict() -> None:
    judged = [JudgedPool(query, ["a", "b"], np.array([1, 0])) for query in ("one", "two", "three", "four")]
    ours = np.array([2.0, 1, 2, 1, 2, 1, 2, 1])
    theirs = np.array([1.0, 2, 2, 1, 2, 1, 2, 1])
    bounds, uncut = Bounds(0.95, 0.1), np.zeros(8, dtype=bool)
    good = serving_text(measure(judged, Scored(pairs_of(judged), ours, ours, uncut), bounds, {}))
    assert "It is served faithfully" in good
    assert "whether both cut alike is not tested" in good
    cut = np.arange(8) < 4
    bad = replace(measure(judged, Scored(pairs_of(judged), ours, theirs, cut), bounds, {}), cause="a fault")
    text = serving_text(bad)
    assert re.search(r"MRR +1.000 +0.875 +-0.125", text)
    assert "75.0% of 8 agree, 50.0% of the 4 that the folder cuts; the largest difference is 2.00" in text
    assert "Kendall's tau 0.500; the same best passage for 75.0% of 4 queries" in text
    assert text.endswith("It is not served faithfully. Probable cause: a fault.")
