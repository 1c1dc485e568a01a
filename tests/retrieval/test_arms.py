"""The arms are those of the method, under the names that results and flags use."""

import pytest

from utils.retrieval.arms import ARMS, BASE, FINE_TUNED


@pytest.mark.parametrize(
    ("name", "diverse", "reranker"),
    [
        ("standard", False, None),
        ("diverse", True, None),
        ("zs", False, BASE),
        ("diverse_zs", True, BASE),
        ("diverse_ft", True, FINE_TUNED),
    ],
)
def test_each_arm_has_its_first_stage_and_reranker(name: str, diverse: bool, reranker: str | None) -> None:
    assert (ARMS[name].diverse, ARMS[name].reranker) == (diverse, reranker)


def test_arms_differ_in_what_they_return_and_in_what_the_report_says_of_it() -> None:
    assert len({(arm.diverse, arm.reranker) for arm in ARMS.values()}) == len(ARMS) == 5
    assert len({arm.label for arm in ARMS.values()}) == len(ARMS)
