"""Queries that a model was trained on are known again, without keeping them all."""

from __future__ import annotations

import pytest

from utils.data.seen import KEPT, note_queries, share_seen


@pytest.mark.parametrize("trained", [50, KEPT, 40 * KEPT])
def test_share_of_queries_that_were_trained_on(trained: int) -> None:
    noted = note_queries(f"Query {n}" for n in range(trained))
    assert len(noted.split()) == min(trained, KEPT)
    assert share_seen(noted, [f" query  {n}" for n in range(trained)]) == 1.0
    half = [f"query {n}" for n in range(trained - 2 * KEPT, trained + 2 * KEPT)] if trained > KEPT else []
    assert share_seen(noted, [f"another {n}" for n in range(trained)]) == 0.0
    assert not half or 0.25 < share_seen(noted, half) < 0.75


def test_nothing_noted_or_asked_is_nothing_seen() -> None:
    assert share_seen("", ["query"]) == share_seen(note_queries(["query"]), []) == 0.0
