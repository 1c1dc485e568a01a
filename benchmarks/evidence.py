"""How much of what is made up passes the check of evidence, and how much of what is true is refused?

    python benchmarks/evidence.py                    # a minute, after `make data`
    python benchmarks/evidence.py --corpus mine.jsonl

Replies are written by rules from the corpus's own articles, and read as a language model's are. Honest ones tell of an
article that mentions another, under the name that either of them uses, or in other forms of it. Sloppy ones copy as
models do; lying ones are true but for one thing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "train_reranker"), str(ROOT / "tests")]

from endpoint import INVENTED, copied
from utils.corpus.documents import Corpus
from utils.files import write_json
from utils.report.text import percent, table
from utils.schema import BridgeEntity, Document
from utils.teachers.evidence import LEVELS
from utils.teachers.offline import OfflineTeacher
from utils.teachers.parsing import read_extraction, read_verdict
from utils.teachers.reply_cache import Reply
from utils.teachers.reply_json import InvalidReply
from utils.teachers.titles import name_of
from utils.teachers.words import sentences

HONEST, SLOPPY, LYING = "honest", "sloppy", "lying"


class Case(NamedTuple):
    """An article, an entity that it mentions, that entity's own article without its title, and another article."""

    source: Document
    entity: BridgeEntity
    candidate: Document
    other: Document


def without_accents(name: str) -> str:
    """Return a name in the letters that it is made of."""
    return "".join(one for one in unicodedata.normalize("NFD", name) if not unicodedata.combining(one))


def subject(case: Case) -> str:
    """Return how the entity's own article begins, often with a longer name, others, and other scripts."""
    begins = re.match(r"(.{2,120}?),? (?:is|was|are|were)\b", case.candidate.contents)
    return begins[1] if begins else case.entity.name


def long_enough(name: str) -> bool:
    """Return whether a word may stand for a name: the "I" of World War I does not."""
    return len(name) > 3


# Other forms of an entity's name in a judge's answer and question, in which it is still the same.
FORMS: dict[str, Callable[[Case], str]] = {
    "its name": lambda case: case.entity.name,
    "the name in a sentence": lambda case: f"It is the {case.entity.name}.",
    "possessive": lambda case: f"{case.entity.name}'s",
    "inflected": lambda case: f"{case.entity.name}en",
    "in capitals": lambda case: case.entity.name.upper(),
    "without accents": lambda case: without_accents(case.entity.name),
    "the last of its words": lambda case: max(case.entity.name.split()[-1], case.entity.name, key=long_enough),
    "as its article begins": subject,
}
# What is made up in a judgement that is honest otherwise.
LIES: dict[str, Callable[[Case], dict[str, Any]]] = {
    "invented segment": lambda case: {"doc_b_segment": INVENTED},
    "another article's segment": lambda case: {"doc_b_segment": opening(case.other)},
    "another answer": lambda case: {"answer": case.other.title},
    "the first question names it": lambda case: {"first": f"What is {case.entity.name}?"},
    "the second does not": lambda case: {"second": "What else is told?"},
}


def main() -> None:
    """Print the share of replies that are refused under each level, by what is true or made up in them."""
    args = parse_args()
    counts = measure(Corpus(args.corpus), args.sources, args.seed)
    rows = []
    for (honesty, what), refused in counts.items():
        shares = {level: sum(one[level] for one in refused) / len(refused) for level in LEVELS}
        rows.append([honesty, what, len(refused), *map(percent, shares.values())])
    print(table(rows, ["replies", "of them", "number", *(f"refused, {level}" for level in LEVELS)]))
    write_json(ROOT / "benchmarks" / "results" / "evidence.json", rows)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    corpus = ROOT / "train_reranker" / "data" / "demo" / "corpus.jsonl"
    parser.add_argument("--corpus", type=Path, default=corpus, help="JSONL of documents (default: the demo's)")
    parser.add_argument("--sources", type=int, default=1000, help="articles that are asked about (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of their choice (default: 0)")
    return parser.parse_args()


def measure(corpus: Corpus, sources: int, seed: int) -> dict[tuple[str, str], list[dict[str, bool]]]:
    """Return for each kind of reply whether each one was refused, by level."""
    told: dict[tuple[str, str], list[dict[str, bool]]] = {}
    for case in cases(list(corpus), sources, random.Random(seed)):
        for honesty, what, reply, document in replies(case):
            outcomes = {level: is_refused(case, reply, document, level) for level in LEVELS}
            told.setdefault((honesty, what), []).append(outcomes)
    return told


def cases(documents: list[Document], sources: int, rng: random.Random) -> Iterator[Case]:
    """Yield a case for each of the sampled articles that mentions another."""
    teacher = OfflineTeacher(documents)
    named = {name_of(document.title): document for document in documents}
    for source in rng.sample(documents, min(sources, len(documents))):
        entity, other = asyncio.run(teacher.extract(source)), rng.choice(documents)
        if entity is None or entity.name not in named:
            continue
        candidate = named[entity.name]
        if other not in (source, candidate) and entity.name.lower() not in other.text.lower():
            yield Case(source, entity, candidate._replace(title=""), other)


def opening(document: Document) -> str:
    """Return the first sentences of an article, of ten words at least."""
    parts, text = sentences(document.contents), ""
    while parts and len(text.split()) < 10:
        text = f"{text} {parts.pop(0)}".strip()
    return text


def replies(case: Case) -> Iterator[tuple[str, str, dict[str, Any], Document]]:
    """Yield honest, sloppy and lying replies about a case: honesty, what they are, the JSON, and the text they cite."""
    entity, candidate = case.entity, case.candidate
    found = {
        "entity": entity.name,
        "type": "",
        "segment": entity.segment,
        "query": f"what else is told of {entity.name}",
    }
    yield HONEST, "extraction", found, case.source
    yield SLOPPY, "extraction", found | {"segment": copied(entity.segment)}, case.source
    yield LYING, "extraction, invented segment", found | {"segment": INVENTED}, case.source
    yield LYING, "extraction, another's segment", found | {"segment": opening(case.other) * 3}, case.source
    for form, named in FORMS.items():
        yield HONEST, form, judgement(case, named(case), opening(candidate)), candidate
    yield SLOPPY, "its name", judgement(case, entity.name, copied(opening(candidate))), candidate
    for lie, change in LIES.items():
        told = {"name": entity.name, "doc_b_segment": opening(candidate)} | change(case)
        yield LYING, lie, judgement(case, **told), candidate
    yield LYING, "an article that does not name it", judgement(case, entity.name, opening(case.other)), case.other


def judgement(case: Case, name: str, doc_b_segment: str, first: str = "", answer: str = "", second: str = "") -> Any:
    """Return a reply that calls the candidate valid, with the entity under a name."""
    questions = [
        {"question": first or "What belongs in the gap?", "answer": answer or name, "document": "A"},
        {"question": second or f"What is told of {name}?", "answer": doc_b_segment, "document": "B"},
    ]
    return {"valid": True, "reason": "", "doc_b_segment": doc_b_segment, "sub_questions": questions}


def is_refused(case: Case, reply: dict[str, Any], document: Document, level: str) -> bool:
    """Return whether a reply about a document does not pass."""
    answer = Reply(json.dumps(reply), "stop", 0, 0)
    try:
        if "valid" in reply:
            read_verdict(answer, case.entity, document, level)
        else:
            read_extraction(answer, document, 1, level)
    except InvalidReply:
        return True
    return False


if __name__ == "__main__":
    main()
