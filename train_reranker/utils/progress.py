"""The log and the progress bars, both on stderr, and what a terminal may be shown."""

import logging
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TextIO

from utils.redaction import redact

log = logging.getLogger("reranker")
LINE = "{desc}: {percentage:.0f}% ({n_fmt} of {total_fmt}, {elapsed} elapsed, {remaining} left{postfix})"
SECONDS_APART = 30  # lines in place of a bar

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


class Console(logging.StreamHandler[TextIO]):
    """The log on stderr, each record above the bars that a terminal shows."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        tqdm = sys.modules.get("tqdm")  # without it there is no bar yet
        with tqdm.tqdm.external_write_mode(self.stream) if tqdm and bars_are_shown() else nullcontext():
            super().emit(record)


console = Console()
console.setFormatter(SafeFormatter("%(levelname)s %(message)s"))
if logging.lastResort:  # what libraries report when a script has ended
    logging.lastResort.setFormatter(console.formatter)


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Log to stderr while a script runs, and to whatever :func:`log_to` adds."""
    root = logging.getLogger()
    before = [*root.handlers]
    console.stream = sys.stderr  # setStream would flush the one of an earlier run, which may be closed
    console.setLevel(logging.INFO)
    log.setLevel(logging.INFO)
    root.setLevel(logging.WARNING)
    root.addHandler(console)
    try:
        yield
    except Exception:
        log.debug("ended by an unexpected error", exc_info=True)
        raise
    finally:
        for handler in {*root.handlers}.difference(before):
            root.removeHandler(handler)
            handler.close()


def report_less() -> None:
    """Keep information and bars off stderr."""
    console.setLevel(logging.WARNING)


def report_more() -> None:
    """Log what libraries say, too, and where an error arose."""
    console.setLevel(logging.DEBUG)
    log.setLevel(logging.DEBUG)
    logging.getLogger().setLevel(logging.INFO)


def log_to(path: Path) -> None:
    """Append the log to a file, in full and with the time, whatever stderr shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(SafeFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    log.setLevel(logging.DEBUG)


def bars_are_shown() -> bool:
    """Tell whether stderr is a terminal that bars are wanted on; elsewhere, as in a pipe or a notebook, lines are."""
    return console.level <= logging.INFO and sys.stderr.isatty()


class _Lines:
    """What tqdm writes to instead of a terminal: the log."""

    def write(self, text: str) -> None:
        """Log how far the work is."""
        if line := text.strip():
            log.info("%s", line)

    def flush(self) -> None:
        """Do nothing: the log is not buffered."""


def progress_bar(items: Iterable[Any] | None = None, **options: Any) -> Any:
    """Return a tqdm bar that appears only for work of more than two seconds, or logs a line every half minute."""
    from tqdm import tqdm

    if bars_are_shown():
        return tqdm(items, file=sys.stderr, dynamic_ncols=True, delay=2, **options)
    options |= {"mininterval": SECONDS_APART, "miniters": 1}  # else a thread of tqdm adds lines of its own
    return tqdm(items, file=_Lines(), bar_format=LINE, delay=2, **options)
