"""A corpus out of templates: as many documents as wanted, whose names lead from one to another."""

from __future__ import annotations

import json
import random
from itertools import product
from pathlib import Path

HUBS = 8  # documents that all others mention; the fewer, the more candidates are usable

KINDS = ["market town", "river port", "mountain pass", "weaving guild", "stone bridge", "coastal fort"]
THINGS = ["wool", "amber", "slate", "cider", "copper", "barley", "timber", "salt"]
DEEDS = [
    "its merchants carried {a} and {b} every spring until the old toll road was closed by heavy floods",
    "a council of masons, millers and boatmen still settles quarrels over {a}, {b} and the rights to fish",
    "the first printed almanac of the valley lists prices for {a} and {b} beside tides, weddings and eclipses",
    "travellers praised the quiet inns, where bread, {a} and songs about {b} cost less than anywhere northward",
    "an earthquake broke the great warehouse of {a}, and the ruins were rebuilt with profits made from {b}",
]


def write_corpus(path: Path, count: int, seed: int = 0) -> Path:
    """Write ``count`` documents of three sentences, the later two of which each tell of another document."""
    rng = random.Random(seed)
    syllables = ["".join(letters) for letters in product("bdfgklmnprstv", "aeiou", "lnrsm")]
    names = [f"{a}{b}".capitalize() for a, b in rng.sample(list(product(syllables, syllables)), count)]
    with path.open("w", encoding="utf-8") as out:
        for number, name in enumerate(names):
            first, second = rng.sample([hub for hub in names[:HUBS] if hub != name], 2)
            sentences = [
                f"{name} is a {rng.choice(KINDS)} that grew rich on {rng.choice(THINGS)}, and {_deed(rng)}.",
                f"In those years the road from {name} to {first} was rebuilt with lanterns, and {_deed(rng)}.",
                f"Old letters that were kept at {second} tell how families of {name} quarrelled, and {_deed(rng)}.",
            ]
            row = {"id": str(number), "title": name, "contents": " ".join(sentences)}
            out.write(json.dumps(row) + "\n")
    return path


def _deed(rng: random.Random) -> str:
    a, b = rng.sample(THINGS, 2)
    return rng.choice(DEEDS).format(a=a, b=b)
