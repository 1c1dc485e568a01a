"""The log and the progress bars, both on stderr."""

import logging
import sys
from collections.abc import Iterable
from typing import Any

from utils.redaction import redact

log = logging.getLogger("reranker")


class RedactingFormatter(logging.Formatter):
    """Formats records of this project and of libraries, tracebacks included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        return redact(super().format(record))


def progress_bar(items: Iterable[Any] | None = None, **options: Any) -> Any:
    """Return a tqdm bar that appears only for work of more than two seconds."""
    from tqdm import tqdm

    return tqdm(items, file=sys.stderr, dynamic_ncols=True, delay=2, **options)
