"""The offline teacher's rules, on sentences that can be checked by eye."""

from __future__ import annotations

import asyncio

import pytest

from miniature import CORPUS
from utils.corpus.documents import Corpus
from utils.schema import BridgeEntity, Document, Outcome
from utils.teachers.offline import KEYWORDS, OfflineTeacher, TitleFinder, name_of
from utils.teachers.words import words


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus(CORPUS)


@pytest.fixture(scope="module")
def teacher(corpus: Corpus) -> OfflineTeacher:
    return OfflineTeacher(corpus)


def judge(teacher: OfflineTeacher, entity: BridgeEntity, text: str) -> Outcome:
    return asyncio.run(teacher.judge(entity, Document("x", "Some title", text))).outcome


def test_extraction_takes_a_mention_with_a_segment_and_a_query(teacher: OfflineTeacher, corpus: Corpus) -> None:
    entity = asyncio.run(teacher.extract(corpus.get("1")))
    assert entity is not None
    assert entity.name == "Lake Merrow"
    assert entity.segment == (
        "Port Halden is a harbour town on the northern shore of Lake Merrow, founded by salt traders in the year 1612."
    )
    assert entity.query == "Which events in the history of Lake Merrow had to do with Port Halden?"


def test_short_sentence_takes_its_neighbours_into_the_segment(teacher: OfflineTeacher) -> None:
    parts = ["Barges came by night.", "They reached Lake Merrow.", f"There they waited {'long and ' * 8}cold."]
    entity = asyncio.run(teacher.extract(Document("x", "Barges", " ".join(parts))))
    assert entity is not None
    assert entity.segment == " ".join(parts[1:])


def test_every_entity_keeps_the_contract(teacher: OfflineTeacher, corpus: Corpus) -> None:
    entities = [(document, asyncio.run(teacher.extract(document))) for document in corpus]
    assert sum(entity is not None for _, entity in entities) >= 20
    for document, entity in entities:
        if entity:
            assert entity.name != document.title
            assert entity.name in entity.segment
            assert entity.segment in document.contents
            assert len(words(entity.segment)) >= 20
            assert 8 <= len(words(entity.query)) <= 20
            assert entity.name in entity.query
            assert entity.query.endswith("?")


def test_queries_can_be_keywords(corpus: Corpus) -> None:
    entity = asyncio.run(OfflineTeacher(corpus, queries=KEYWORDS).extract(corpus.get("1")))
    assert entity is not None
    assert entity.query.startswith("Lake Merrow history and significance beyond Port Halden harbour town")


def test_a_document_is_asked_the_same_whatever_else_is_asked(corpus: Corpus) -> None:
    documents = list(corpus)
    forth = [asyncio.run(OfflineTeacher(documents).extract(one)) for one in documents]
    back = [asyncio.run(OfflineTeacher(documents[::-1]).extract(one)) for one in documents[::-1]]
    assert forth == back[::-1]


def test_document_without_a_mention_has_no_entity(teacher: OfflineTeacher) -> None:
    assert asyncio.run(teacher.extract(Document("x", "T", "Nothing here is a title. " * 20))) is None


def test_candidate_must_mention_the_entity_and_add_something(teacher: OfflineTeacher) -> None:
    entity = BridgeEntity("Lake Merrow", "title", "The town lies on Lake Merrow and sells silver char to pilgrims.", "")
    new = "Lake Merrow was dredged by engineers from foreign universities during several dry summers."
    assert judge(teacher, entity, new) is Outcome.USABLE
    assert judge(teacher, entity, "The town lies on Lake Merrow and sells char.") is Outcome.UNUSABLE
    assert judge(teacher, entity, new.replace("Lake Merrow", "Lake Garda")) is Outcome.UNUSABLE
    assert judge(teacher, entity, new.replace("Lake Merrow", "Lake Merrow Sailing Club")) is Outcome.UNUSABLE
    # Another title that contains the name is another entity.
    port = entity._replace(name="Ostwick", segment="Ostwick sells herring.")
    company = "The Ostwick Company kept ledgers, charts, warehouses and stables in seven foreign harbours."
    assert judge(teacher, port, company) is Outcome.UNUSABLE


def test_names() -> None:
    assert name_of("Mercury (planet)") == "Mercury"
    assert name_of("Paris, Texas") == "Paris"


def test_common_words_are_no_names() -> None:
    documents = [Document("1", "River", "the river and the river"), Document("2", "Senn", "the Senn is a River")]
    assert list(TitleFinder(documents).find("Senn is a River")) == ["Senn"]
