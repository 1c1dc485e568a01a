"""The log and the progress bars, both on stderr."""

import logging
import sys
from collections.abc import Iterable
from typing import Any

log = logging.getLogger("reranker")


def progress_bar(items: Iterable[Any] | None = None, **options: Any) -> Any:
    """Return a tqdm bar that appears only for work of more than two seconds."""
    from tqdm import tqdm

    return tqdm(items, file=sys.stderr, dynamic_ncols=True, delay=2, **options)
