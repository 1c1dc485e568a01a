"""Corpora in other formats than JSON Lines, converted once so that their documents can be looked up."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.corpus.offsets import CACHE
from utils.errors import InputError
from utils.files import dumps, hash64, replacing
from utils.formats import data_files, is_plain, read_rows
from utils.progress import log, progress_bar
from utils.schema import parse_document


def as_jsonl(path: Path) -> Path:
    """Return a corpus as a file of JSON Lines: itself, or what it is converted to, beside it or in ``CACHE``.

    A conversion carries the time of its source, and is made again when that changes. InputError as for
    :func:`utils.formats.read_rows`, or if a row is no document, or there is none.
    """
    if is_plain(path):
        return path
    name, changed = f"{path.name}.converted.jsonl", _changed(path)
    places = (path.with_name(name), CACHE / f"{hash64(str(path.resolve())):016x}.{name}")
    for place in places:
        if place.is_file() and place.stat().st_mtime_ns == changed:
            return place
    for place in places:
        try:
            with replacing(place) as out:
                for number, row in enumerate(_documents(path)):
                    if not number:
                        log.info("converting %s to JSON Lines, once, for looking documents up: %s", path, place)
                    out.write(dumps(row) + "\n")
            os.utime(place, ns=(changed, changed))
            return place
        except OSError as error:
            log.info("%s cannot be written (%s)", place, error.strerror)
    raise InputError(f"{path} must be converted to JSON Lines, and neither its folder nor {CACHE} can be written to")


def _changed(path: Path) -> int:
    """Return the time at which a file, or a folder's latest, was changed."""
    files = data_files(path, lambda _: None) or [*path.glob("*")] if path.is_dir() else [path]
    return max((file.stat().st_mtime_ns for file in files), default=0)


def _documents(path: Path) -> Iterator[dict[str, Any]]:
    count = 0
    for place, row in progress_bar(read_rows(path, log.warning), desc="converting the corpus", unit=" documents"):
        document = parse_document(row, str(place))
        yield {key: value for key, value in document._asdict().items() if value is not None}
        count += 1
    if not count:
        raise InputError(f"{path} holds no document; each row has id, title and contents, or _id, title and text")
