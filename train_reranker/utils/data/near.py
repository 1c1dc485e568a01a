"""Near-duplicates: texts that share most of their wording, found without comparing each with each."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any
from zlib import crc32

from utils.data.rows import canonical
from utils.progress import progress_bar

if TYPE_CHECKING:
    import numpy as np

SHORTEST = 20  # words; shorter texts may be forms filled in, as "what is the capital of …", and must be the same
SIMILAR = 0.4  # share of the triples of words; of 10,033 Wikipedia introductions, two pairs have as much in common
BANDS, BAND = 42, 3  # texts that share 0.4 agree in a band with 94% probability, 0.5: 99.6%
NEIGHBOURS = 4  # how many that agree with a text in a band are compared with it
COMPARED_AT_ONCE, HASHED_AT_ONCE = 2**16, 2**13  # pairs; triples

# In scripts without spaces, each character is a word.
_WORD = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]|\w+")
_FACTORS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)  # odd, so that the order of words counts


def text_groups(texts: Iterable[str]) -> dict[str, int]:
    """Return a number for each text, the same for texts that are equal or near-duplicates of each other."""
    import numpy as np

    forms: dict[str, int] = {}
    number = {text: forms.setdefault(canonical(text), len(forms)) for text in dict.fromkeys(texts)}
    sketches = [sketch(form) for form in progress_bar(forms, desc="looking for near-duplicates")]
    group = near_groups(np.array(sketches, np.uint8).reshape(len(forms), BANDS * BAND)).tolist()
    return {text: group[form] for text, form in number.items()}


def sketch(text: str) -> np.ndarray:
    """Return the MinHash sketch of a text in its canonical form: (``BANDS * BAND``,) bytes.

    The share of bytes that are the same in two sketches estimates the share of triples of words that two texts have in
    common (Broder, 1997; with one byte per hash as in Li and König, WWW 2010). Of texts shorter than ``SHORTEST``, it
    is all or nothing.
    """
    import numpy as np

    words = [crc32(word.encode()) for word in _WORD.findall(text)]
    if len(words) < SHORTEST:
        whole = text.strip(" .,;:!?…\"'")
        triples = [crc32(whole.encode()), crc32(whole[::-1].encode())]  # one of 32 bits is shared by chance
    else:
        hashes, count = np.array(words, np.uint32), len(words) - len(_FACTORS) + 1
        parts = [hashes[i : i + count] * np.uint32(factor) for i, factor in enumerate(_FACTORS)]
        triples = np.add.reduce(parts, dtype=np.uint32).tolist()
    minhash = _minhash()
    minhash.clear()
    for start in range(0, len(triples), HASHED_AT_ONCE):
        minhash.update_batch(triples[start : start + HASHED_AT_ONCE])
    # Multiplied, since the low bits of a permuted hash depend on its own low bits alone, and the high ones are zero.
    return ((minhash.hashvalues * np.uint32(_FACTORS[0])) >> np.uint32(24)).astype(np.uint8)


@cache
def _minhash() -> Any:
    from datasketch import MinHash

    return MinHash(BANDS * BAND, hashfunc=int)


def near_groups(sketches: np.ndarray) -> np.ndarray:
    """Return the group of each of N texts, (N,), numbered from 0, by their sketches, (N, ``BANDS * BAND``).

    A group has its texts' near-duplicates, and theirs. datasketch's MinHashLSH would need a kilobyte for each text,
    since it keeps Python's sets; sorting needs a few bytes.
    """
    import numpy as np
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(sketches)
    group = np.arange(count)
    for band in range(0, BANDS * BAND, BAND):
        key = sketches[:, band : band + BAND].astype(np.uint32) @ np.array([1, 2**8, 2**16], np.uint32)
        order = np.argsort(key, kind="stable")
        left, right = (np.concatenate(ends) for ends in zip(*_neighbours(key[order], order), strict=True))
        apart = group[left] != group[right]
        left, right = _similar(sketches, left[apart], right[apart])
        if len(left):
            ends = (group[left], group[right])
            _, merged = connected_components(coo_matrix((np.ones(len(left)), ends), (count, count)), False)
            group = merged[group]
    return np.unique(group, return_inverse=True)[1]


def _neighbours(keys: np.ndarray, order: np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of rows with the same key; ``keys`` are sorted, ``order`` has their rows."""
    for distance in range(1, NEIGHBOURS + 1):
        same = keys[distance:] == keys[:-distance]
        yield order[:-distance][same], order[distance:][same]


def _similar(sketches: np.ndarray, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs whose sketches agree in ``SIMILAR`` of their bytes."""
    import numpy as np

    parts = [slice(start, start + COMPARED_AT_ONCE) for start in range(0, len(left), COMPARED_AT_ONCE)]
    found = [(sketches[left[part]] == sketches[right[part]]).mean(1) >= SIMILAR for part in parts]
    similar = np.concatenate(found) if found else np.zeros(0, bool)
    return left[similar], right[similar]
