"""Words and sentences."""

from __future__ import annotations

from utils.teachers.words import content_words, count_words, sentences


def test_words_are_counted_where_there_are_no_spaces() -> None:
    assert count_words("four words in here") == 4
    assert count_words("東京は日本の首都である") == 5


def test_sentences_end_at_punctuation_and_line_breaks() -> None:
    assert sentences("It rained. Ada left! Why?\nNobody knows.") == ["It rained.", "Ada left!", "Why?", "Nobody knows."]


def test_content_words_leave_out_stopwords_and_short_words() -> None:
    assert content_words("The Ox was at the Lake of Merrow") == {"lake", "merrow"}
