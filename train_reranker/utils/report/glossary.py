"""The terms of the pages, each explained where it stands and, for print and for fingers, in a list at the end."""

import re

from markupsafe import Markup, escape

# In prose, too; "@k" stands for any number.
TERMS = {
    "MRR": "Mean reciprocal rank: 1 / the rank of the first relevant passage, averaged over the queries. 1 is best.",
    "nDCG@k": "Normalised discounted cumulative gain of the first k passages: relevant ones count the more, the higher "
    "they stand and the better their grade. 1 is the best order possible.",
    "MAP": "Mean average precision: the share of relevant passages down to each relevant one, averaged. 1 is best.",
    "P@k": "Precision: the share of relevant ones among the first k passages.",
    "pairwise accuracy": "The share of pairs of a relevant and another passage in the right order; one that nobody "
    "judged counts as not relevant. 0.5 is chance.",
    "first stage": "The search before reranking, whose best passages a reranker sorts anew.",
    "first stage + BM25": "Reciprocal-rank fusion of the first stage and BM25; needs no reranker.",
    "model + first stage": "Both scores fused: the weighted sum of the reranker's and the first stage's, normalised.",
    "BM25": "Ranking by words that query and passage share (Robertson and Zaragoza, 2009); needs no model.",
    "fused": "Ordered by the weighted sum of two scores, each normalised within the query.",
    "cross-fitted": "Weight and depth were chosen on other queries than they are tested on, five times over: "
    "the figure is not flattered by the choice.",
    "95% interval": "The range, in brackets, in which the true value lies with 95% confidence. A difference whose "
    "range holds 0 may be chance.",
    "Holm": "A correction of p-values that were computed together, so that not one in twenty is significant by chance.",
    "80% power": "So many that a true difference of this size would be found four times in five.",
    "usable": "Fit for a two-step question: it says something of the source's entity that the source does not.",
    "candidate": "A passage that was retrieved for a source's query, for the teacher to judge.",
    "MMR-diverse": "Picked one by one by similarity to the query, less similarity to the source and to those already "
    "picked (maximal marginal relevance; Carbonell and Goldstein, 1998).",
    "fine-tuned reranker": "The model that was trained on the examples.",
    "base reranker": "The model that the training started from.",
    "teacher": "What labels: a language model, or the offline rules.",
    "AUC": "The chance that a relevant passage of any query scores above another one; 0.5 is chance, 1 best.",
}
# In tables only: as words of prose they need no explanation.
HEADINGS = {
    "model": "The reranker that was tested, alone.",
    "baseline": "Another reranker, for comparison: often the one that the training started from.",
    "random order": "What a random order of the same passages would reach on average.",
    "p": "The chance of so large a difference, or a larger one, if there were none in truth; corrected by Holm.",
    "corrected p": "p after Holm's correction for the comparisons made together; below 0.05 is significant.",
    "outcome": "Better or worse where the corrected p is below 0.05, else no difference shown.",
    "needed": "So many queries or sources that a true difference of this size would be found four times in five.",
    "gap per query": "The mean score of the relevant passages less that of the others, in the scores' unit.",
    "calibration error": "How far the scores, read as probabilities, are from the observed shares; 0 is best.",
    "arm": "A way of finding candidates: a first stage, with or without a reranker after it.",
    "arm − baseline": "The arm's figure less that of the arm that it is compared with, source by source.",
    "sources": "Documents that a query was asked about; each counts once.",
    "success rate": "The share of sources for which any of the candidates was usable.",
    "success, points": "Difference of the success rates, in percentage points.",
    "attempts": "Candidates judged until the first usable one, over the sources that have one. Fewer is better.",
    "judged per source": "Candidates judged until the first usable one, or all, over all sources. Fewer is better.",
    "errors": "Sources that a failure left undecided; they are never counted as unusable.",
    "calls saved per 1,000": "Calls of the teacher that the arm saves per 1,000 sources; negative where it costs more.",
    "weight": "Of the reranker's score in the sum with the first stage's: 1 is the reranker alone, 0 the first stage.",
    "documents reranked": "How many of the first stage's best passages the reranker sorts anew.",
    "pool": "How many times as many candidates are retrieved as are kept after reranking.",
}
_ALL = TERMS | HEADINGS
_IN_PROSE = re.compile(
    r"(?<![\w@-])("
    + "|".join(re.escape(term).replace("@k", r"@\d+") for term in sorted(TERMS, key=len, reverse=True))
    + r")(?![\w@-])"
)


class Glossary:
    """What one page explains."""

    def __init__(self) -> None:
        """Begin with no term."""
        self._used: set[str] = set()

    @property
    def terms(self) -> list[tuple[str, str, str]]:
        """The terms used so far, each with its name on the page and its explanation."""
        return [(term, _anchor(term), _ALL[term]) for term in sorted(self._used, key=str.lower)]

    def cell(self, text: object) -> Markup:
        """Return a cell of a table, explained if it is a term."""
        return self._link(text) if isinstance(text, str) and _term(text) in _ALL else escape(text)

    def prose(self, text: str) -> Markup:
        """Return a text in which each term is explained where it first stands."""
        seen: set[str] = set()
        parts = []
        for number, part in enumerate(_IN_PROSE.split(text)):  # every second one is a term
            new = number % 2 and _term(part) not in seen
            seen |= {_term(part)} if new else set()
            parts.append(self._link(part) if new else escape(part))
        return Markup("").join(parts)

    def _link(self, text: str) -> Markup:
        term = _term(text)
        self._used.add(term)
        return Markup('<a class="term" href="#{}" title="{}">{}</a>').format(_anchor(term), _ALL[term], text)


def _term(text: str) -> str:
    return re.sub(r"^(nDCG|P)@\d+$", r"\1@k", text)


def _anchor(term: str) -> str:
    return "term-" + re.sub(r"\W+", "-", term).strip("-")
