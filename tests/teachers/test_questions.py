"""Questions: what their phrases are, what kind of thing they ask about, and how they read."""

from __future__ import annotations

import pytest

from utils.teachers.questions import EVENT, FORMS, PERSON, PLACE, THING, Profile, ask, noun_phrases, profile_of
from utils.teachers.words import words

SENTENCE = (
    "The mill by the mouth of the river Senn was built for Ada Brandt, who sold cloth in the large Merrow market."
)


@pytest.mark.parametrize(
    ("sentence", "phrases"),
    [
        (SENTENCE, ["the mill", "the mouth of the river Senn", "Ada Brandt", "the large Merrow market"]),
        ("She works for the Museum of Modern Art.", []),
        ("It grows near the Black and Caspian seas.", []),
        ("They met at the house painted in winter, and at the end.", ["winter"]),
        ("Nothing", []),
        ("...", []),
        ("", []),
    ],
)
def test_phrases_stand_before_stopwords_and_punctuation(sentence: str, phrases: list[str]) -> None:
    assert noun_phrases(sentence) == phrases


@pytest.mark.parametrize(
    ("name", "contents", "profile"),
    [
        ("Ada Brandt", "Ada Brandt was a weaver. She sold cloth.", Profile(PERSON, "", "was")),
        ("Senn", "The Senn is a long river in the north.", Profile(PLACE, "the", "is")),
        ("Salt War", "The Salt War was a conflict between two towns.", Profile(EVENT, "the", "was")),
        ("kites", "Kites are toys that fly.", Profile(THING, "", "are")),
        ("Corwen", "The Corwen hills have sheep.", Profile(THING, "", "is")),
        ("Corwen", "", Profile()),
        ("Corwen", "Corwen is a  of", Profile()),
    ],
)
def test_own_document_tells_what_a_name_stands_for(name: str, contents: str, profile: Profile) -> None:
    assert profile_of(name, contents) == profile


@pytest.mark.parametrize("kind", list(FORMS))
def test_every_form_is_used_names_the_entity_and_differs_between_sources(kind: str) -> None:
    asked = {ask("Senn", Profile(kind, "the"), f"Topic{n}", [SENTENCE], str(n)) for n in range(100)}
    assert len(asked) > 50
    for form in FORMS[kind]:
        start = form.partition("{c}")[0].format(x="the Senn", was="is")
        assert any(one.startswith(start) for one in asked)
    assert all("the Senn" in one and 7 <= len(words(one)) <= 30 for one in asked)


def test_question_does_not_repeat_the_entity_or_the_topic_as_context() -> None:
    for key in map(str, range(50)):
        question = ask("Ada Brandt", Profile(PERSON), "the river Senn", [SENTENCE], key)
        assert "Merrow market" in question or "the river Senn" in question
        assert "mouth" not in question


def test_a_single_word_is_context_only_if_it_is_a_name_or_all_there_is() -> None:
    asked = {ask("Senn", Profile(), "Orre", ["It grew in Corwen with cloth."], key) for key in "abcdefgh"}
    assert any("Corwen" in one for one in asked)
    assert not any("cloth" in one for one in asked)
    assert "cloth" in ask("Senn", Profile(), "", ["They trade with cloth."], "1")


def test_question_without_any_context_asks_for_the_entity() -> None:
    assert ask("Senn", Profile(), "", [], "1") == "What is known about Senn, and why is it important?"


def test_phrases_of_the_surroundings_serve_where_the_sentence_has_none() -> None:
    assert "the large Merrow market" in ask("Senn", Profile(), "", ["Senn it is.", "See the large Merrow market."], "1")
