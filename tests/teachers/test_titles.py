"""Titles as running text mentions them."""

from __future__ import annotations

from utils.schema import Document
from utils.teachers.questions import PLACE
from utils.teachers.titles import TitleFinder, name_of


def test_names() -> None:
    assert name_of("Mercury (planet)") == "Mercury"
    assert name_of("Paris, Texas") == "Paris"


def test_common_words_are_no_names() -> None:
    documents = [Document("1", "River", "the river and the river"), Document("2", "Senn", "the Senn is a River")]
    assert list(TitleFinder(documents).find("Senn is a River")) == ["Senn"]


def test_mention_within_a_longer_name_is_another_entity() -> None:
    finder = TitleFinder([Document("1", "Senn", "The Senn"), Document("2", "Prince (singer)", "He is Prince.")])
    assert list(finder.find("the Senn flows by Senn Abbey, where Prince of Orre lives")) == ["Senn"]
    assert list(finder.find("Prince of the north")) == ["Prince"]


def test_topic_is_written_as_within_a_sentence() -> None:
    lake = Document("1", "Tidal lake (geography)", "A tidal lake is a lake by the sea. Tides fill the tidal lake.")
    person = Document("2", "Ada Brandt", "Ada Brandt was a weaver.")
    history = Document("3", "History of Senn", "Its history is long, a history of mills.")
    finder = TitleFinder([lake, person, history])
    assert [*map(finder.topic, (lake, person, history))] == ["the tidal lake", "Ada Brandt", "the history of Senn"]
    assert finder.topic(Document("4", "", "A mill.")) == finder.topic(Document("5", "…", "A mill.")) == ""


def test_profile_comes_from_the_own_document() -> None:
    finder = TitleFinder([Document("1", "Senn", "The Senn is a long river in the north.")])
    assert finder.profile("Senn", "by the Senn") == (PLACE, "the", "is")
