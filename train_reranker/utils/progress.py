"""The log and the progress bars, both on stderr, and what a terminal may be shown."""

import logging
import re
import sys
from collections.abc import Iterable
from typing import Any

from utils.redaction import redact

log = logging.getLogger("reranker")

# Control characters but for tab and line feed, line separators, marks that reorder text, and halves of characters.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return a text with an escape such as ``\\x1b`` for what would control a terminal or cannot be encoded."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


class SafeFormatter(logging.Formatter):
    """Formats records, of libraries too, without secrets and control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        return printable(redact(super().format(record)))


def progress_bar(items: Iterable[Any] | None = None, **options: Any) -> Any:
    """Return a tqdm bar that appears only for work of more than two seconds."""
    from tqdm import tqdm

    return tqdm(items, file=sys.stderr, dynamic_ncols=True, delay=2, **options)
