"""Contrastive examples: read and validate them, fill their negatives, split them without a leak."""

from __future__ import annotations

import itertools
import math
import os
import random
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from utils import jsonl, splitting
from utils.cli import InputError, find_input, log
from utils.schema import ContrastiveExample
from utils.splitting import Links

READ = (".jsonl", ".json", ".jsonl.gz", ".json.gz")  # how the names of data files end, in a folder of them
LARGEST_SCORE = 3e38  # that single precision holds
MOST_LOST = 0.1  # of the rows, so that others can be held out
SPLIT_FILES = ("train_data.jsonl", "test_data.jsonl", "test_data_sample.jsonl")


def parse_example(row: dict[str, Any], where: str) -> ContrastiveExample:
    """Return the example that one row of a data file holds; ``neg`` may be missing, other keys are left alone.

    Raises:
        InputError: ``query`` is no text, or ``pos``, ``neg`` or their scores are no lists of what they should hold;
            begins with ``where``.
    """
    query = row.get("query")
    if not isinstance(query, str) or not query.strip():
        raise InputError(f'{where}: "query" must be a text that is not empty')
    texts: dict[str, list[str]] = {}
    for key in ("pos", "neg"):
        passages = row.get(key, [] if key == "neg" else None)
        passages = [] if passages is None and key == "neg" else passages
        if not isinstance(passages, list) or not all(isinstance(p, str) and p.strip() for p in passages):
            raise InputError(f'{where}: "{key}" must be a list of texts, none of them empty')
        texts[key] = passages
    if not texts["pos"]:
        raise InputError(f'{where}: "pos" must hold at least one text')
    scores: dict[str, list[float] | None] = {}
    for key in ("pos", "neg"):
        values = row.get(f"{key}_scores")
        if values is not None and (
            not isinstance(values, list)
            or len(values) != len(texts[key])
            or not all(type(v) in (int, float) and abs(v) <= LARGEST_SCORE for v in values)  # NaN is not
        ):
            raise InputError(f'{where}: "{key}_scores" must hold one number for each text of "{key}", all finite')
        scores[key] = values
    return ContrastiveExample(query, texts["pos"], texts["neg"], scores["pos"], scores["neg"])


def read_examples(
    paths: Iterable[str | Path], what: str = "training data", tell: Callable[[str], object] = log.warning
) -> list[ContrastiveExample]:
    """Return the examples of JSONL files, or of all such files in folders and their subfolders, in order.

    A passage that any row has as a positive of the query is left out of the query's negatives, and a row with it if it
    had no other. ``tell`` is given a line for that, and for each folder with files of other kinds.

    Raises:
        InputError: a path is not there, a row is malformed (file and line are named), or there is no row at all.
    """
    placed: list[tuple[str, ContrastiveExample]] = []
    for path in paths:
        found = find_input(path, what, "name a JSONL file of query/pos/neg rows, or make one with `make data`")
        for file in _data_files(found, tell) if found.is_dir() else [found]:
            for number, row in jsonl.read(file):
                where = f"{file}, line {number}"
                placed.append((where, parse_example(row, where)))
    named = f"{what} {', '.join(map(str, paths))}"
    if not placed:
        raise InputError(f"{named} holds no row of query, pos and neg")
    return _consistent(placed, named, tell)


def _data_files(folder: Path, tell: Callable[[str], object]) -> list[Path]:
    """Return the data files of a folder and its subfolders, links followed; hidden ones are no data.

    Raises:
        InputError: a subfolder cannot be read.
    """

    def refuse(error: OSError) -> NoReturn:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}")

    files, seen = [], set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to where the walk has been: it may lead in a circle
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(place, name) for name in names if not name.startswith(".")]
    files.sort()
    read = [file for file in files if file.name.lower().endswith(READ)]
    others = [str(file.relative_to(folder)) for file in files if file not in set(read)]
    if others:
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        tell(f"{folder}: only files named {', '.join(f'*{end}' for end in READ)} are read, not {shown}")
    return read


def _consistent(
    placed: Sequence[tuple[str, ContrastiveExample]], named: str, tell: Callable[[str], object]
) -> list[ContrastiveExample]:
    """Return the rows without negatives that are positives of the same query.

    Raises:
        InputError: no row is left.
    """
    positives = _positives_by_query([example for _, example in placed])
    kept, thinned, left_out = [], [], 0
    for where, example in placed:
        wrong = positives[canonical(example.query)]
        if any(canonical(text) in wrong for text in example.neg):
            thinned.append(where)
            good = [canonical(text) not in wrong for text in example.neg]
            scores = example.neg_scores and list(itertools.compress(example.neg_scores, good))
            example = example._replace(neg=list(itertools.compress(example.neg, good)), neg_scores=scores)
            if not example.neg:
                left_out += 1
                continue
        kept.append(example)
    found = f"{len(thinned)} of {len(placed)} rows have a text both as positive and as negative of the same query"
    if not kept:
        raise InputError(f"{named}: {found}, and none has another negative; replace them (first: {thinned[0]})")
    if thinned:
        tell(
            f"{named}: {found} (first: {thinned[0]}): these negatives are left out, "
            f"with {left_out} rows that have no others"
        )
    return kept


def _positives_by_query(examples: Iterable[ContrastiveExample]) -> dict[str, set[str]]:
    """Return the positives of each query in whatever row, both as :func:`canonical` makes them."""
    positives: dict[str, set[str]] = {}
    for example in examples:
        positives.setdefault(canonical(example.query), set()).update(map(canonical, example.pos))
    return positives


def fill_negatives(examples: Sequence[ContrastiveExample], wanted: int, rng: random.Random) -> list[ContrastiveExample]:
    """Give every example at least ``wanted`` negatives, from other examples' passages.

    A passage of the example's own is never taken, nor a positive of its query in another row. FlagEmbedding repeats the
    row's own negatives instead, which makes a group of four out of one hard negative seen three times, and fails on a
    row that has none.

    Raises:
        InputError: all passages together are too few to fill a group.
    """
    if all(len(example.neg) >= wanted for example in examples):
        return list(examples)
    passages: dict[str, str] = {}
    for example in examples:
        for passage in example.passages:
            passages.setdefault(canonical(passage), passage)
    texts, positives = list(passages), _positives_by_query(examples)

    def complete(example: ContrastiveExample) -> ContrastiveExample:
        own = positives[canonical(example.query)] | set(map(canonical, example.neg))
        missing = wanted - len(example.neg)
        # The own passages that a draw can hit are few: this many draws hold enough others, if there are any.
        drawn = rng.sample(texts, min(len(texts), missing + len(own)))
        others = [text for text in drawn if text not in own][:missing]
        if len(others) < missing:
            raise InputError(
                f"too few passages to fill groups of {wanted + 1}: give more rows, a smaller --train_group_size, "
                "or --negative_fill repeat"
            )
        return example._replace(neg=[*example.neg, *(passages[text] for text in others)])

    return [example if len(example.neg) >= wanted else complete(example) for example in examples]


class Labelled(NamedTuple):
    """An example with what it came from: the source document's text and the bridge entity's name."""

    source: str
    entity: str
    example: ContrastiveExample


class Split(NamedTuple):
    """Training and test examples with nothing in common, and what that cost."""

    train: list[ContrastiveExample]
    test: list[ContrastiveExample]
    dropped: int  # examples on neither side, for both would have them
    pruned: int  # passages taken out of training examples because the test set has them
    thinned: int  # negatives taken out of test pools because training examples stand on them
    wanted: int  # test examples that were asked for


def split_examples(
    labelled: Sequence[Labelled], test_fraction: float, rng: random.Random, keep_negatives: bool = False
) -> Split:
    """Split examples so that no query, entity or document, whether source or passage, stands on both sides.

    ``test_fraction`` of them are held out, all with a negative, chosen so that little is linked to them. What both
    sides have is taken out of the training examples, or of the test pools where a training example stands on it: a
    source or a positive. At most ``MOST_LOST`` of all examples (of fewer than 20: two) are lost to both sides, and no
    more than are held out; where that cannot be, fewer are held out, or none. Texts that :func:`canonical`
    makes the same are one text. ``keep_negatives`` counts a training example as lost that keeps no negative.
    """
    ids: dict[str, int] = {}  # of texts as they are, so that a long one is looked at once

    def key(text: str) -> int:
        if text not in ids:
            ids[text] = ids.setdefault(canonical(text), len(ids))
        return ids[text]

    def links(one: Labelled) -> Links:
        needed = frozenset((key(one.source), key(one.example.query), key(f"\0 {one.entity}")))
        positives, negatives = (frozenset(map(key, texts)) for texts in (one.example.pos, one.example.neg))
        return Links(needed, positives, negatives - needed - positives)

    rows = [links(one) for one in labelled]
    wanted = math.ceil(test_fraction * len(rows))
    most_lost = max(2, int(MOST_LOST * len(rows)))
    found = splitting.hold_out(rows, wanted, most_lost, rng, keep_negatives)
    tested = [number for number in sorted(found.pools) if found.pools[number]]
    trained = [number for number in range(len(rows)) if number not in found.pools and number not in found.lost]
    # A row to train on goes before a pool's negative, a held-out row before a passage of another.
    stood_on = {key for number in trained for key in rows[number].core} - found.taken
    test = [without(labelled[number].example, lambda text: key(text) in stood_on) for number in tested]
    shown = found.taken | {key(text) for example in test for text in example.neg}
    train = [without(labelled[number].example, lambda text: key(text) in shown) for number in trained]
    pruned, thinned = (
        sum(len(labelled[number].example.passages) for number in numbers) - sum(len(one.passages) for one in kept)
        for numbers, kept in ((trained, train), (tested, test))
    )
    return Split(train, test, len(rows) - len(train) - len(test), pruned, thinned, wanted)


def canonical(text: str) -> str:
    """Return what texts have in common that differ in white space, case or Unicode's normal form alone."""
    return " ".join(unicodedata.normalize("NFC", text.casefold()).split())


def without(example: ContrastiveExample, unwanted: Callable[[str], bool]) -> ContrastiveExample:
    """Return the example without such passages, and without their scores."""
    kept: dict[str, Any] = {}
    for key in ("pos", "neg"):
        passages, scores = getattr(example, key), getattr(example, f"{key}_scores")
        places = [i for i, passage in enumerate(passages) if not unwanted(passage)]
        kept[key] = [passages[i] for i in places]
        kept[f"{key}_scores"] = None if scores is None else [scores[i] for i in places]
    return example._replace(**kept)


def write_split(folder: Path, split: Split, sample: int = 10) -> dict[str, int]:
    """Write ``train_data.jsonl``, ``test_data.jsonl`` and a sample of the latter; returns the counts to report."""
    files = dict(zip(SPLIT_FILES, (split.train, split.test, split.test[:sample]), strict=True))
    for name, examples in files.items():
        jsonl.write(folder / name, (example.row() for example in examples))
    return {
        "train": len(split.train),
        "test": len(split.test),
        "dropped for the split": split.dropped,
        "passages pruned": split.pruned + split.thinned,
    }
