"""Terms: what counts as one, and in which spellings it is found."""

from __future__ import annotations

from utils.schema import Document
from utils.teachers.questions import TERM, THING
from utils.teachers.terms import TermFinder

KINDS = ["thin", "thick", "square", "round", "long"]
ABSTRACT = (
    "the mean {0} wave drag of a {0} wing is shown . wave drag is large . the present results were obtained here ."
)


def documents() -> list[Document]:
    return [Document(kind, "", ABSTRACT.format(kind)) for kind in KINDS]


def test_terms_come_again_where_they_came_once() -> None:
    assert set(TermFinder(documents()).names.values()) == {"wave drag"}


def test_terms_of_few_documents_or_of_most_are_none() -> None:
    assert not TermFinder(documents()[:3]).names
    assert not TermFinder(documents() * 2).names  # of ten documents, in more than eight


def test_part_of_a_longer_term_is_none() -> None:
    longer = [Document(str(n), "", "induced wave drag is shown ; induced wave drag is large") for n in range(5)]
    assert set(TermFinder(longer).names.values()) == {"induced wave drag"}


def test_names_are_terms_even_if_they_come_once() -> None:
    named = [Document(str(n), "", f"{kind} boats go to Port Halden in May") for n, kind in enumerate(KINDS)]
    assert set(TermFinder(named).names.values()) == {"Port Halden"}
    assert TermFinder(named).profile("Port Halden", "left Port Halden").kind == THING


def test_letters_that_become_two_in_lower_case_do_no_harm() -> None:
    assert list(TermFinder([Document("0", "", "İ wave drag"), *documents()]).find("İ wave drag")) == ["wave drag"]


def test_terms_are_found_in_any_case_number_and_hyphenation() -> None:
    finder = TermFinder(documents())
    for text in ("Wave drag is large", "their wave drags", "a wave-drag curve"):
        assert list(finder.find(text)) == ["wave drag"]
    assert not list(finder.find("a wave of drag"))


def test_topic_is_a_short_title_or_a_phrase_of_a_long_one() -> None:
    finder = TermFinder(documents())
    assert finder.topic(Document("1", "drag of wings .", "")) == "drag of wings"
    title = "on some of what is now known about the theory of slender wings ."
    assert finder.topic(Document("1", title, "")) == "the theory of slender wings"
    assert finder.topic(Document("1", "", "")) == ""


def test_article_is_the_sentence_s() -> None:
    finder = TermFinder(documents())
    assert finder.profile("wave drag", "the wave drag is large") == (TERM, "the", "is")
    assert finder.profile("wave drag", "wave drag is large") == (TERM, "", "is")
