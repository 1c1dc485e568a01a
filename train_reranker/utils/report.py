"""Tables for the screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """Return rows as a plain table: floats with three decimals, None as a dash."""
    from tabulate import tabulate

    return tabulate(rows, headers=headers, floatfmt=".3f", missingval="–", tablefmt="simple")


def percent(share: float | None) -> str | None:
    """Return a share of 0 to 1 in percent, None as it is."""
    return None if share is None else f"{share:.1%}"
