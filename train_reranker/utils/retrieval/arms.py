"""The retrieval arms."""

from typing import NamedTuple

BASE, FINE_TUNED = "base", "fine-tuned"


class Arm(NamedTuple):
    """One way to retrieve: whether the first stage is diverse, and which reranker sorts what it returns."""

    label: str
    diverse: bool
    reranker: str | None = None


ARMS: dict[str, Arm] = {
    "standard": Arm("nearest", diverse=False),
    "diverse": Arm("MMR-diverse", diverse=True),
    "zs": Arm("nearest, base reranker", diverse=False, reranker=BASE),
    "diverse_zs": Arm("MMR-diverse, base reranker", diverse=True, reranker=BASE),
    "diverse_ft": Arm("MMR-diverse, fine-tuned reranker", diverse=True, reranker=FINE_TUNED),
}
