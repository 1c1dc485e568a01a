"""A trained folder beside what serves it, as text."""

from utils.report.text import SIGNED_THREE, THREE, TWO, number, percent, table, with_interval
from utils.serving.agreement import FOLDER, SERVED, SHOWN, ServingResult


def serving_text(result: ServingResult, bounds: str = "") -> str:
    """Return the measures as a table and lines, and whether what is served is the folder's."""
    found = {row.metric: row.values for row in result.metrics}
    rows = [
        [name, found[name][FOLDER], found[name][SERVED],
         with_interval((one := result.differences[name]).difference, one.interval, SIGNED_THREE)]
        for name in SHOWN
    ]  # fmt: skip
    cut = f", {percent(result.agreeing_cut)} of the {result.cut} that the folder cuts" if result.cut else ""
    lines = [
        table(rows, ["", "folder", "as served", "difference"]),
        f"scores ({result.scale}): {percent(result.agreeing)} of {result.pairs} agree{cut}; the largest difference is "
        f"{number(result.largest, TWO)} standard deviations",
        f"order: Kendall's tau {number(result.tau, THREE)}; the same best passage for {percent(result.same_top)} of "
        f"{result.queries} queries, the same whole order for {percent(result.same_order)}",
    ]
    if not result.cut:
        lines.append("no pair is longer than the folder's length: whether both cut alike is not tested")
    return "\n".join([*lines, verdict(result)])


def verdict(result: ServingResult) -> str:
    """Say whether what is served scores and orders as the folder does, and what is probably wrong if not."""
    if result.faithful:
        return "It is served faithfully: scores and order are the folder's."
    return f"It is not served faithfully. Probable cause: {result.cause}."
