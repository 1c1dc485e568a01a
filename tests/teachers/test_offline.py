"""The offline teacher's rules, on sentences that can be checked by eye."""

from __future__ import annotations

import asyncio

import pytest

from miniature import CORPUS
from utils.corpus.documents import Corpus
from utils.schema import BridgeEntity, Document, Outcome
from utils.teachers.offline import KEYWORDS, OfflineTeacher
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
    assert entity.query == "How did Lake Merrow become important for Port Halden and salt traders?"


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
    once = "Lake Merrow was dredged by engineers from foreign universities during several dry summers."
    new = f"{once} Nobody swims in Lake Merrow."
    assert judge(teacher, entity, new) is Outcome.USABLE
    assert judge(teacher, entity, once) is Outcome.UNUSABLE  # which mentions it in passing
    known = "The town lies on Lake Merrow and sells char."
    assert judge(teacher, entity, f"{known} {known}") is Outcome.UNUSABLE
    assert judge(teacher, entity, new.replace("Lake Merrow", "Lake Garda")) is Outcome.UNUSABLE
    assert judge(teacher, entity, new.replace("Lake Merrow", "Lake Merrow Sailing Club")) is Outcome.UNUSABLE
    # Another title that contains the name is another entity.
    port = entity._replace(name="Ostwick", segment="Ostwick sells herring.")
    company = "The Ostwick Company kept ledgers, charts, warehouses and stables in seven foreign harbours."
    assert judge(teacher, port, f"{company} {company}") is Outcome.UNUSABLE


def test_each_turn_has_another_entity(teacher: OfflineTeacher, corpus: Corpus) -> None:
    for document in corpus:
        entities = [asyncio.run(teacher.extract(document, turn)) for turn in range(teacher.turns(document) + 1)]
        assert entities.pop() is None
        names = [entity.name for entity in entities if entity]
        assert len(set(names)) == len(names) == teacher.turns(document)
    assert max(map(teacher.turns, corpus)) > 1


ABSTRACT = (
    "The {0} plate was heated by a jet . the buckling load of the {0} plate fell . a buckling load is a {1} load ."
)


def test_terms_are_asked_about_where_titles_are_not_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    kinds = ["thin", "thick", "square", "round", "long"]
    documents = [Document(kind, "", ABSTRACT.format(kind, "critical")) for kind in kinds]
    teacher = OfflineTeacher(documents, min_segment_words=8)
    assert "0 of the corpus's first 5 documents mention another's title" in caplog.text
    entity = asyncio.run(teacher.extract(documents[0]))
    assert entity is not None
    assert (entity.name, entity.type) == ("buckling load", "term")
    assert entity.segment == "the buckling load of the thin plate fell ."
    assert "the buckling load" in entity.query
    other = "Buckling-loads were measured by seven engineers with levers, springs, mirrors and dials. {0} load."
    assert judge(teacher, entity, other.format("Buckling")) is Outcome.USABLE
    assert judge(teacher, entity, other.format("Wheel")) is Outcome.UNUSABLE  # which mentions it in passing


@pytest.mark.parametrize(
    "contents", ["A short text about nothing.", "東京は日本の首都である。大阪は日本の都市である。"]
)
def test_corpus_without_anything_to_ask_about_is_refused(contents: str) -> None:
    documents = [Document(str(n), "", contents) for n in range(3)]
    complaint = "0 of the corpus's first 3 documents mention another's title, and no terms of 2 to 4 words recur"
    assert OfflineTeacher(documents).complaint == complaint


def test_relevant_is_what_names_what_query_and_positive_name(teacher: OfflineTeacher) -> None:
    def outcome(positive: str, passage: str) -> Outcome:
        query = "How did Lake Merrow become important for Port Halden?"
        (verdict,) = asyncio.run(teacher.relevant(query, positive, [passage]))
        return verdict.outcome

    barges = "Barges cross Lake Merrow. They came to Lake Merrow by night."
    assert outcome("Lake Merrow is deep.", barges) is Outcome.USABLE
    assert outcome("Lake Merrow is deep.", "Barges cross Lake Merrow.") is Outcome.UNUSABLE
    assert outcome("Lake Merrow is deep.", "Port Halden is old.") is Outcome.UNUSABLE
    assert outcome("It is deep.", barges) is Outcome.ERROR
