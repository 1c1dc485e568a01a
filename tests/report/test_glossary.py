"""The glossary explains terms where they stand, once in a text, and lists what a page has used."""

from __future__ import annotations

from utils.report.glossary import HEADINGS, TERMS, Glossary, _anchor


def test_prose_explains_a_term_once_and_escapes_the_rest() -> None:
    glossary = Glossary()
    shown = glossary.prose("<b> BM25 and BM25, nDCG@10; fused")
    assert shown.startswith("&lt;b&gt; <a ")
    assert shown.count(">BM25</a>") == 1
    assert shown.count('href="#term-nDCG-k"') == 1
    assert [term for term, _, _ in glossary.terms] == ["BM25", "fused", "nDCG@k"]


def test_the_longest_term_wins_and_parts_of_words_are_none() -> None:
    shown = Glossary().prose("first stage + BM25, confused, diverse_MRR")
    assert shown.count("<a ") == 1
    assert ">first stage + BM25</a>" in shown


def test_a_cell_is_explained_if_it_is_a_term_as_a_whole() -> None:
    glossary = Glossary()
    assert 'title="' in glossary.cell("corrected p")
    assert glossary.cell("MRR, model & baseline") == "MRR, model &amp; baseline"
    assert glossary.cell(None) == "None"
    assert [anchor for _, anchor, _ in glossary.terms] == ["term-corrected-p"]


def test_every_term_has_an_anchor_of_its_own() -> None:
    terms = [*TERMS, *HEADINGS]
    assert len(set(map(_anchor, terms))) == len(terms)
