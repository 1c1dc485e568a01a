"""Questions about an entity: fixed forms, filled with what the source is about and phrases of its sentence."""

import re
from collections.abc import Iterable
from hashlib import sha256
from itertools import pairwise
from typing import NamedTuple

from utils.teachers.words import STOPWORDS, WORD, content_words, words

PERSON, PLACE, EVENT, TERM, THING = "person", "place", "event", "term", "thing"

# {x} is the entity, {c} its context in the source.
FORMS = {
    PERSON: (
        "What role did {x} play in the history of {c}?",
        "Who {was} {x}, and what is the connection with {c}?",
        "What {was} {x} best known for, apart from the connection with {c}?",
        "How did the life and work of {x} influence {c}?",
        "Which events in the life of {x} had to do with {c}?",
        "What did {x} achieve, and how is that related to {c}?",
    ),
    PLACE: (
        "What role did {x} play in the history of {c}?",
        "Where {was} {x}, and how is it connected with {c}?",
        "Which events in the history of {x} had to do with {c}?",
        "What {was} {x} known for, apart from {c}?",
        "How did {x} become important for {c}?",
        "What is there to know about {x} when it comes to {c}?",
    ),
    EVENT: (
        "What happened during {x}, and what did it mean for {c}?",
        "How did {x} affect {c}?",
        "What were the causes and consequences of {x} with regard to {c}?",
        "When did {x} take place, and how is that related to {c}?",
        "Why {was} {x} important for the history of {c}?",
    ),
    THING: (
        "What {was} {x}, and how is that related to {c}?",
        "What role did {x} play in connection with {c}?",
        "How did {x} develop, and what does that have to do with {c}?",
        "What {was} {x} known for, apart from the connection with {c}?",
        "Why {was} {x} important for {c}?",
        "What is the connection between {x} and {c}?",
    ),
    TERM: (
        "What is the influence of {x} on {c}?",
        "What is known about {x} in the case of {c}?",
        "Which results are there on {x} that bear on {c}?",
        "How should {x} be taken into account for {c}?",
        "What is the connection between {x} and {c}?",
        "What have studies of {x} shown with regard to {c}?",
    ),
}
SHORTEST = 12  # words of a question that needs no second phrase

# Nouns by which a first sentence tells what something is: "Sofia is the capital of Bulgaria".
_PLACES = frozenset({
    "archipelago", "area", "basin", "bay", "borough", "capital", "city", "coast", "colony", "commune", "continent",
    "country", "county", "desert", "district", "empire", "emirate", "gulf", "harbour", "island", "islands",
    "kingdom", "lake", "metropolis", "microstate", "monarchy", "mountain", "mountains", "municipality", "nation",
    "ocean", "peninsula", "plain", "port", "principality", "province", "region", "republic", "river", "sea",
    "settlement", "state", "strait", "suburb", "subregion", "territory", "town", "valley", "village", "volcano",
})  # fmt: skip
_EVENTS = frozenset({
    "age", "assassination", "battle", "campaign", "conflict", "crisis", "crusade", "disaster", "epoch", "era",
    "event", "expedition", "explosion", "famine", "festival", "games", "genocide", "invasion", "massacre",
    "movement", "pandemic", "period", "rebellion", "revolt", "revolution", "riots", "siege", "tournament", "trial",
    "uprising", "war", "wars",
})  # fmt: skip
_DEFINITION = re.compile(r"\b(?:(is|was) (?:an?|the|one of the)|(are|were)) ([^.,;()]{3,120})")
_AFTER_NOUN = re.compile(r" (?:of|in|that|which|who|from|for|on|with|between|by|to|at|as|\w+ed|\w+ly)\b.*")
_HE_OR_SHE = re.compile(r"(?:^|[.!?]\s)(?:He|She|His|Her) ")
_PROFESSION = re.compile(
    r"(?:er|or|ist|i[ac]n|man|woman|king|queen|poet|polymath|saint|pope|prince|princess|prophet|goddess|god)$"
)

_ARTICLES = frozenset({"a", "an", "the"})
_BEFORE = frozenset({  # a noun phrase without an article
    "across", "after", "against", "among", "at", "before", "between", "by", "during", "for", "from", "in",
    "including", "into", "near", "of", "on", "over", "through", "throughout", "under", "via", "with", "within",
})  # fmt: skip
_BEHIND = (_BEFORE - {"of"}) | {  # a noun phrase
    *",.;:)(!?", "although", "and", "are", "as", "but", "had", "has", "have", "is", "or", "since", "than", "was",
    "were", "which", "who",
}  # fmt: skip
# Last words of what is no noun phrase or says nothing, more often than not.
_NO_NOUN = re.compile(r"(?:[a-z](?:ed|ly|ing|ous|ive|able|ful|ern|most|est)|[A-Z]\w+(?:an|ish|ese))$")
_ADJECTIVE = re.compile(r"(?:al|ic|ary|ar)$|^(?:the )?[A-Z]\S*$")  # before "and": "the imperial and"
_VAGUE = frozenset({
    "addition", "basis", "born", "case", "cases", "century", "contrast", "end", "example", "fact", "form", "found",
    "forms", "group", "itself", "kind", "known", "lack", "like", "name", "number", "order", "others", "part",
    "person", "place", "reason", "regard", "respect", "result", "second", "sense", "something", "spoken", "term",
    "terms", "themselves", "thing", "things", "third", "time", "times", "type", "use", "variety", "version", "way",
    "ways", "whole", "work", "written",
})  # fmt: skip


class Profile(NamedTuple):
    """How running text speaks of what a document is about."""

    kind: str = THING
    article: str = ""  # "the", "a" or "an", where running text has one before the name
    verb: str = "is"


def profile_of(name: str, contents: str) -> Profile:
    """Return what a name stands for, by the first sentence and the pronouns of its own document."""
    start = contents[:400]
    before, _, after = start.lower().partition(name.lower())
    article, following = (before.split() or [""])[-1], WORD.match(after.removeprefix(" "))
    if article not in _ARTICLES or not (following is None or following[0] in STOPWORDS):
        article = ""  # "the Adelaide hills"
    definition = _DEFINITION.search(start)
    if not definition:
        return Profile(THING, article)
    verb = definition[1] or ("is" if after[:1].isalpha() else definition[2])  # "point" in "points are"
    noun = _AFTER_NOUN.sub("", definition[3]).rpartition(" ")[2]
    human = _HE_OR_SHE.search(contents) or (_PROFESSION.search(noun) and re.search(r"\b(?:he|she|his|her)\b", contents))
    if human and not article and verb in ("is", "was"):
        return Profile(PERSON, "", verb)
    nouns = {word.lower() for word in (noun, *words(name)[:1], *words(name)[-1:])}
    kind = PLACE if nouns & _PLACES else EVENT if nouns & _EVENTS else THING
    return Profile(kind, article, verb)


def noun_phrases(sentence: str) -> list[str]:
    """Return what stands between "the" or a preposition and the next stopword or punctuation.

    "The mouth of the river" is one. Those of several words come first.
    """
    matches = list(WORD.finditer(sentence))
    tokens = ["", *(match[0] for match in matches), ""]
    gaps = ["", *(sentence[a.end() : b.start()] for a, b in pairwise(matches)), ".", ""]  # behind each token
    found, head, start = [], "", 1
    while start < len(tokens) - 1:
        end = start
        while tokens[end] and tokens[end].lower() not in STOPWORDS and (end == start or gaps[end - 1] == " "):
            end += 1
        phrase = _as_phrase(tokens[start - 1 : end]) if end > start and gaps[start - 1] == " " else ""
        if phrase and head:
            phrase = f"{head} of {phrase}"
        elif tokens[start - 1] == "of" and tokens[start - 2][:1].isupper():
            phrase = ""  # the rest of a name, as in "Museum of Modern Art"
        behind = tokens[end].lower() if gaps[end - 1] == " " else gaps[end - 1].strip()[:1]
        halved = behind in ("and", "or") and (tokens[end + 1][:1].isupper() or _ADJECTIVE.search(phrase))
        if phrase and behind in _BEHIND and not halved and tokens[end - 1] not in _VAGUE:
            found.append(phrase)
        if end > start:
            head = phrase if behind == "of" else ""
        elif tokens[start].lower() not in ("of", "the"):
            head = ""
        start = max(end, start + 1)
    return sorted(found, key=lambda one: len(one.split()) < 2)


def _as_phrase(tokens: list[str]) -> str:
    """Return words as a noun phrase, with "the" if that is the first of them; "" if they do not read like one."""
    before, run = tokens[0].lower(), tokens[1:]
    fits = len(run) <= 5 and not any(word[0].isdigit() for word in run) and len(content_words(run[-1])) == 1
    fits = fits and not any(word.endswith("est") and word.islower() for word in run)
    if not fits or _NO_NOUN.search(run[-1]) or any(word[0].islower() and word.endswith("s") for word in run[:-1]):
        return ""
    if before == "the":
        return f"the {' '.join(run)}"
    return " ".join(run) if before in _BEFORE and not _NO_NOUN.search(run[0][0].lower() + run[0][1:]) else ""


def ask(name: str, profile: Profile, topic: str, texts: Iterable[str], key: str) -> str:
    """Return a question about an entity in the context of a source, in one of the forms for its kind.

    ``topic`` is what the source is about, "" if it does not say. Phrases come from the first of the ``texts`` that has
    any: the sentence that mentions the entity, then what surrounds it. ``key`` alone decides between forms and phrases.
    """
    form_number, phrase_number, by_phrase, *_ = sha256(key.encode(errors="replace")).digest()
    topic = "" if _overlap(topic, name) else topic
    entity = f"the {name}" if profile.article == "the" else name
    usable = (
        [one for one in noun_phrases(text) if not _overlap(one, name) and not _overlap(one, topic)] for text in texts
    )
    phrases = next(filter(None, usable), [])
    telling = [one for one in phrases if len(content_words(one)) > 1 or one.removeprefix("the ")[0].isupper()]
    telling = telling or (phrases if not topic else [])
    phrase = telling[phrase_number % len(telling)] if telling else ""
    form = FORMS[profile.kind][form_number % len(FORMS[profile.kind])]

    def filled(context: str) -> str:
        return form.format(x=entity, was=profile.verb, c=context)

    context = phrase if phrase and (by_phrase % 2 or not topic) else topic
    if not context:
        return f"What is known about {entity}, and why is it important?"
    if topic and phrase and len(words(filled(context))) < SHORTEST:
        context = f"{topic} and {phrase}"
    return filled(context)


def _overlap(one: str, other: str) -> bool:
    """Return whether one phrase contains the other, or they share a content word."""
    one, other = (text.lower().removeprefix("the ").replace("-", " ") for text in (one, other))
    return one in other or (other != "" and other in one) or not content_words(one).isdisjoint(content_words(other))


def ask_keywords(name: str, sentence: str, length: int = 16) -> str:
    """Return about ``length`` keywords for what a source's sentence does not say about an entity."""
    aspects = ["history", "and", "significance", "beyond"]
    known = {*words(name), *aspects}
    context = [word for word in words(sentence) if word not in known and content_words(word)]
    return " ".join([name, *aspects, *context[: max(0, length - len(words(name)) - len(aspects))]])
