"""Why a server scores otherwise than the folder that it serves: what the folder would score under each usual fault."""

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np

from utils.data.judged import JudgedPool
from utils.evaluation.metrics import pairs_of
from utils.models.lengths import length_limit
from utils.scoring import Reranker, Scorer
from utils.serving.agreement import (
    SIGMOID_TWICE,
    Bounds,
    Scored,
    ServingResult,
    differences,
    measure,
    on_scale,
    possible_scales,
)

Pair = tuple[str, str]

SAMPLE = 32  # differing pairs on which the faults are tried
EXPLAINED = 0.9  # share of them that a fault must explain to be named
PRECISE = 0.95  # correlation with the folder's scores from which on nothing but precision can be the cause
UNRELATED, FLAT = 0.3, 0.2  # of a random head: correlation with the folder's scores, and share of their spread
MARKS = re.compile("[\u0300-\u036f]")  # accents, decomposed
COMMON_LENGTHS = (128, 256, 384, 512)
# What the prompts of rerankers and encoders put around query and passage.
TEMPLATES = (
    ("query: {}", "{}"), ("query: {}", "passage: {}"), ("Query: {}", "{}"), ("Query: {}", "Document: {}"),
    ("Query: {}", "Passage: {}"), ("A: {}", "B: {}"), ("search_query: {}", "search_document: {}"),
    ("Represent this sentence for searching relevant passages: {}", "{}"),
    ("<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n<Query>: {}",
     "<Document>: {}"),
)  # fmt: skip

TWICE = "a sigmoid is applied to what is a sigmoid already: have the model return logits, or the server raw scores"
NEAR_TIES = "the scores agree, so only near ties differ in order: raise the server's precision, or lower --min_tau"
LEFT = "long passages lose their beginning: have them cut on the right (truncation_side, truncation_direction)"
SWAPPED = "query and passage are swapped: send the query as the query"
LOWERED = "texts are lower-cased, which the folder's tokenizer does not do: serve the folder's tokenizer files"
NOT_LOWERED = "texts are not lower-cased, as the folder's tokenizer does: serve the folder's tokenizer files"
NEGATED = "the scores are negated, as those of the other of two labels are: have the one label's logit returned"
HEAD_LOST = (
    "the scores are those of random weights, as of a lost head: export and serve the folder as a sequence classifier "
    "(AutoModelForSequenceClassification), and look for warnings of new weights when it is loaded"
)
PRECISION = "the scores scatter around the folder's: a lower precision (int8, bf16), or weights that differ slightly"
UNKNOWN = "none of the usual ones: compare tokenizer, weights and what is put around the texts with the folder's"


class Fault(NamedTuple):
    """What a server gets wrong: in words, and which logits and served scores would then agree."""

    hint: str
    logits: Callable[[Sequence[Pair]], np.ndarray]  # of the folder
    asked: Callable[[Sequence[Pair]], list[Pair]] | None = None  # what the server must be asked anew, if anything


def verify(
    reranker: Reranker, served: Scorer, judged: Sequence[JudgedPool], bounds: Bounds, settings: dict[str, Any]
) -> ServingResult:
    """Score pools by a trained folder and by what serves it; return how far they agree, and why they do not."""
    pairs = pairs_of(judged)
    ours, theirs = reranker.score(pairs, "scored by the folder"), served.score(pairs, "scored as served")
    scored = Scored(pairs, ours, theirs, is_cut(reranker, pairs))
    result = measure(judged, scored, bounds, settings)
    if result.faithful:
        return result
    return replace(result, cause=find_cause(result, scored, reranker, served, bounds.tolerance))


def is_cut(reranker: Reranker, pairs: Sequence[Pair]) -> np.ndarray:
    """Tell which pairs, or their queries, are longer than a reranker's lengths: bool, (pairs,)."""
    tokenizer, lengths = reranker.tokenizer, reranker.lengths
    long = {query: len(tokenizer.tokenize(query)) > lengths.query for query, _ in pairs}
    tokens = tokenizer(*map(list, zip(*pairs, strict=True)), verbose=False)["input_ids"]
    return np.array([len(ids) > lengths.pair or long[query] for (query, _), ids in zip(pairs, tokens, strict=True)])


def find_cause(result: ServingResult, scored: Scored, reranker: Reranker, served: Scorer, tolerance: float) -> str:
    """Return the most probable cause of a difference that the measures show, as a hint for the user."""
    if result.scale == SIGMOID_TWICE:
        return TWICE
    apart = np.flatnonzero(differences(result.scale, scored.ours, scored.theirs) > tolerance)
    if not len(apart):
        return NEAR_TIES
    chosen = apart[np.linspace(0, len(apart) - 1, min(SAMPLE, len(apart))).astype(int)]
    sample = [scored.pairs[place] for place in chosen]
    # A fault may hide the scale, so that a fault counts that explains the scores on either.
    scales = {name: tolerance * on_scale(name, scored.ours)[1] for name in possible_scales(scored.theirs)}
    scales.pop(SIGMOID_TWICE, None)

    def explained(fault: Fault) -> float:
        logits, answers = fault.logits(sample), scored.theirs[chosen]
        if fault.asked:
            answers = served.score(fault.asked(sample))
        near = (np.abs(on_scale(name, logits)[0] - answers) <= allowed for name, allowed in scales.items())
        return max(float(one.mean()) for one in near)

    named = next((fault.hint for fault in faults(reranker) if explained(fault) >= EXPLAINED), None)
    return named or _unexplained(on_scale(result.scale, scored.ours)[0], scored.theirs)


class Server(Reranker):
    """What a usual server makes of a reranker's folder: it cuts the longer of both texts, and no query for itself."""

    def __init__(self, reranker: Reranker, pair: int, side: str = "right") -> None:
        """Share the network of a reranker; pairs are cut at ``pair`` tokens, on the right or left side."""
        vars(self).update(vars(reranker))
        self.tokenizer, self._pair = copy.deepcopy(reranker.tokenizer), pair
        self.tokenizer.truncation_side = side

    def _tokenize(self, pairs: Sequence[Pair]) -> dict[str, list[list[int]]]:
        texts = map(list, zip(*pairs, strict=True))
        return dict(self.tokenizer(*texts, truncation="longest_first", max_length=self._pair))


def faults(reranker: Reranker) -> Iterator[Fault]:
    """Yield the usual faults of servers, each with what a reranker would then score, most frequent first."""
    own = reranker.lengths
    server, limit = Server(reranker, own.pair), length_limit(reranker.model.config, reranker.tokenizer)
    for pair in sorted({limit or own.pair, *COMMON_LENGTHS} - {own.pair}, reverse=True):
        hint = f"pairs are cut at {pair} tokens rather than the folder's {own.pair}: set the server's maximum length"
        yield Fault(hint, Server(reranker, pair).score)
    yield Fault(LEFT, Server(reranker, own.pair, "left").score)
    hint = f"queries are not cut at the folder's {own.query} tokens"
    yield Fault(f"{hint}: cut them before they are sent, or train with a longer --query_max_len", server.score)
    yield Fault(SWAPPED, lambda pairs: server.score([(passage, query) for query, passage in pairs]))
    yield Fault(LOWERED, lambda pairs: server.score(_lower(pairs)))
    yield Fault(NOT_LOWERED, lambda pairs: reranker.score(_plain(pairs)), _plain)
    for query, passage in TEMPLATES:
        hint = f"a template is put around the texts ({query!r}, {passage!r}): remove it"
        yield Fault(hint, partial(_score_in_template, server, query, passage))


def _lower(pairs: Sequence[Pair]) -> list[Pair]:
    return [(query.lower(), passage.lower()) for query, passage in pairs]


def _plain(pairs: Sequence[Pair]) -> list[Pair]:
    """Return texts that a tokenizer which lowers them, and strips accents as it then does, leaves as they are."""
    parts = ((normalize("NFD", query.lower()), normalize("NFD", passage.lower())) for query, passage in pairs)
    return [(MARKS.sub("", query), MARKS.sub("", passage)) for query, passage in parts]


def _score_in_template(server: Server, query: str, passage: str, pairs: Sequence[Pair]) -> np.ndarray:
    return server.score([(query.format(one), passage.format(other)) for one, other in pairs])


def _unexplained(expected: np.ndarray, theirs: np.ndarray) -> str:
    """Return what the relation of all scores, both (pairs,), says where no fault explains them."""
    flat = theirs.std() < FLAT * expected.std()
    related = 0.0 if flat else float(np.corrcoef(expected, theirs)[0, 1])
    if abs(related) < UNRELATED:
        return HEAD_LOST
    if related < 0:
        return NEGATED
    return PRECISION if related >= PRECISE else UNKNOWN
