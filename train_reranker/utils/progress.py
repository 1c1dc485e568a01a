"""The log and the progress bars, both on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")


log = logging.getLogger("reranker")


def progress_bar(items: Iterable[T] | None = None, **options: Any) -> Any:
    """Return a tqdm bar on stderr that stays quiet for what takes less than two seconds."""
    from tqdm import tqdm

    return tqdm(items, file=sys.stderr, dynamic_ncols=True, delay=2, **options)
