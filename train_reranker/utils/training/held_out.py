"""The rows that a training holds out to be evaluated on."""

from collections.abc import Sequence

from utils.data.split import Split, labelled_by_query, split_examples
from utils.schema import ContrastiveExample

FEWEST_QUERIES, MOST_QUERIES = 20, 500


def hold_out(rows: Sequence[ContrastiveExample], fraction: float, seed: int) -> Split:
    """Hold out a share of the rows, at most about ``MOST_QUERIES``, or none where it is below ``FEWEST_QUERIES``."""
    fraction = min(fraction, MOST_QUERIES / max(1, len(rows)))
    split = split_examples(labelled_by_query(rows), fraction, seed)
    return split if len(split.test) >= FEWEST_QUERIES else Split(list(rows), [], 0, 0, 0, split.wanted)


def shortfall(split: Split) -> str | None:
    """Say why far fewer rows are held out than asked for, what that means, and what to do; None if they are not."""
    if (reason := split.shortfall) is None:
        return None
    if split.wanted < FEWEST_QUERIES:
        reason = f"too few rows to show anything would be held out ({split.wanted}, and {FEWEST_QUERIES} are needed)"
    if split.test:
        return f"only {len(split.test)} rows are held out: {reason}; name --eval_data to test on more"
    remedy = "test it on other rows afterwards, name --eval_data, raise --eval_fraction, or give more rows"
    return f"no evaluation, so this training does not tell whether it helps: {reason}; {remedy}"
