"""Fused scores by hand."""

import numpy as np
import pytest

from utils.retrieval.fusion import fuse, reciprocal_rank_fusion


def test_reciprocal_ranks_are_added() -> None:
    fused = reciprocal_rank_fusion(np.array([3.0, 2.0, 1.0]), np.array([0.1, 0.9, 0.5]))
    assert fused == pytest.approx([1 / 61 + 1 / 63, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62])


def test_weighted_scores_are_normalised_within_the_query() -> None:
    first, reranker = np.array([30.0, 20.0, 10.0]), np.array([-1.0, 0.0, 1.0])
    spread = np.sqrt(2 / 3)
    assert fuse(first, reranker, 0) == pytest.approx([1 / spread, 0, -1 / spread])
    assert fuse(first, reranker, 1) == pytest.approx([-1 / spread, 0, 1 / spread])
    assert fuse(first, reranker, 0.5).tolist() == [0, 0, 0]
    assert fuse(first, np.zeros(3), 1).tolist() == [0, 0, 0]  # nothing to order by
