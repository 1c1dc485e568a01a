"""Replies are read strictly where it matters, and leniently everywhere else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from endpoint import canned
from llm_teacher import GOOD, ROAD, ROMANS, USABLE
from utils.schema import BridgeEntity, Document, Outcome, Verdict
from utils.teachers import prompts
from utils.teachers.parsing import read_extraction, read_relevance, read_verdict
from utils.teachers.reply_cache import Reply
from utils.teachers.reply_json import InvalidReply

HOPS = [
    {"question": "Who dug the canal?", "answer": "Ida Brandt", "document": "A"},
    {"question": "What else did Ida Brandt dig?", "answer": "two tunnels", "document": "B"},
]
TUNNELS = Document(
    "2", "Hill Tunnel", "Its two tubes were dug by Ida Brandt. Trains have run in both of them ever since."
)
YES: dict[str, Any] = {
    "valid": True,
    "reason": "B tells more",
    "bridge_connection": "her",
    "doc_b_segment": "Its two tubes were dug by Ida Brandt.",
    "sub_questions": HOPS,
}
NO: dict[str, Any] = {"valid": False, "reason": 'B names only the "canal"'}
yes, no = json.dumps(YES), json.dumps(NO)

CANAL = Document("1", "Elm Canal", "The Elm Canal was dug by the engineer Ida Brandt with forty men in three winters.")
BRANDT = {
    "entity": "Ida Brandt",
    "type": "person",
    "segment": "The Elm Canal was dug by the engineer Ida Brandt with forty men in three winters.",
    "query": "Which tunnels did the engineer Ida Brandt dig beyond the Elm Canal",
}


def reply(content: str | dict[str, Any], finish: str = "stop") -> Reply:
    return Reply(content if isinstance(content, str) else json.dumps(content), finish, 1, 1)


def verdict(content: str | dict[str, Any]) -> Verdict:
    segment = BRANDT["segment"]
    return read_verdict(reply(content), BridgeEntity("Ida Brandt", "person", segment, BRANDT["query"]), TUNNELS)


def outcome(content: str | dict[str, Any]) -> Outcome:
    return verdict(content).outcome


def entity(content: str | dict[str, Any]) -> BridgeEntity | None:
    return read_extraction(reply(content), CANAL, 5)


@pytest.mark.parametrize(
    "content",
    [
        NO | dict.fromkeys(("reason", "bridge_connection", "doc_b_segment", "reasoning_path", "sub_questions")),
        {"valid": False},
        NO | {"valid": "false"},
        NO | {"valid": "No."},
        NO | {"valid": 0},
        NO | {"valid": 0.0},
        NO | {"sub_questions": HOPS},
        NO | {"reason": 7, "bridge_connection": [], "sub_questions": "none"},
        '{"Valid": false, "Reason": "x"}',
        '{"valid": false, ' + no[1:],
        repr(NO),
        "{'valid': False, 'reason': 'it's another canal', 'doc_b_segment': None, }",
        no[:-1] + ", }",
        '{"valid": false, "reason": "he said "no" to it"}',
        '{"valid": false, // not sure\n"reason": "x"}',
        "So {as asked}: " + repr(NO) + " {hope} that helps",
    ],
)
def test_unusable_verdict_is_read_despite_irrelevant_errors(content: str | dict[str, Any]) -> None:
    assert outcome(content) is Outcome.UNUSABLE


@pytest.mark.parametrize(
    "content",
    [
        repr(YES),
        yes.replace("]}", ",],}"),
        {"verdict": YES},
        {"result": {"verdict": YES}, "model": "m"},
        json.dumps([YES]),
        json.dumps(yes),
        json.dumps({"answer": yes}),
        f"```\n{json.dumps(yes)}\n```",
        YES | {"valid": "Yes"},
        YES | {"valid": 1.0},
        yes.replace("sub_questions", "subQuestions"),
        yes.replace("sub_questions", "Sub-Questions").replace('"valid"', "\" 'valid'\""),
        YES | {"sub_questions": json.dumps(HOPS)},
        YES | {"sub_questions": [HOPS[0] | {"document": "Document A"}, HOPS[1] | {"document": "doc_b"}]},
        YES | {"sub_questions": [HOPS[0] | {"document": "a"}, HOPS[1] | {"document": "(B)", "answer": 1912}]},
        '{"properties": {"valid": {"type": "boolean"}}}\n' + yes,
        repr({"verdict": YES}),
    ],
)
def test_usable_verdict_is_read_despite_syntax_errors(content: str | dict[str, Any]) -> None:
    found = verdict(content)
    assert found.outcome is Outcome.USABLE
    assert found.doc_b_segment == "Its two tubes were dug by Ida Brandt."
    assert [(hop.question, hop.document) for hop in found.sub_questions] == [
        ("Who dug the canal?", "A"),
        ("What else did Ida Brandt dig?", "B"),
    ]


@pytest.mark.parametrize(
    "content",
    [
        "I'm sorry, but I can't help with that.",
        "valid: false",
        "null",
        {"valid": None},
        {"valid": "partly"},
        {"valid": 0.5},
        {"valid": 2},
        {"valid": "true or false"},
        {"valid": [False]},
        {"reason": "no"},
        '{"valid": true, ' + no[1:],
        "{'valid': True, 'valid': False, 'reason': 'x',}",
        f"{no} or rather {yes}",
        json.dumps([YES, NO]),
        YES | {"sub_questions": None},
        YES | {"sub_questions": HOPS[:1]},
        YES | {"sub_questions": [*HOPS, HOPS[0]]},
        YES | {"sub_questions": HOPS[::-1]},
        YES | {"sub_questions": [HOPS[0], HOPS[1] | {"answer": None}]},
        YES | {"sub_questions": [HOPS[0], HOPS[1] | {"document": "C"}]},
        YES | {"sub_questions": ["Who?", "What?"]},
    ],
)
def test_ambiguous_reply_is_not_a_verdict(content: str | dict[str, Any]) -> None:
    with pytest.raises(InvalidReply):
        outcome(content)


NO_ENTITIES = ["", None, "none", "N/A", "null", "No entity.", "no suitable entity found", "-", "无"]
NO_ENTITIES += [[], False, "nil", "Not found", "None of these", "There is no other named entity in it"]


@pytest.mark.parametrize("name", NO_ENTITIES)
def test_no_entity_may_be_spelled_in_many_ways(name: Any) -> None:
    assert entity({"entity": name, "type": None, "segment": None, "query": None}) is None
    assert entity({"entity": name}) is None


def test_entity_needs_name_segment_and_query_only() -> None:
    found = BridgeEntity(**{"name": BRANDT["entity"], **{key: BRANDT[key] for key in ("type", "segment", "query")}})
    for content in (BRANDT, {"bridge_entity": BRANDT}, {"entity": BRANDT}, [BRANDT], repr(BRANDT), json.dumps(BRANDT)):
        assert entity(content if isinstance(content, str) else json.dumps(content)) == found
    assert entity(BRANDT | {"type": None}) == found._replace(type="")
    assert entity(BRANDT | {"entity": "**Ida Brandt**"}) == found


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"entity": "Moon Treaty of Basel"}, "does not name the entity"),
        ({"segment": "The Elm Canal was paid for by the bankers of Basel."}, "word for word"),
        ({"query": "What else does this text say about it beyond what is said here"}, "does not name the entity"),
        ({"entity": {"name": "Ida Brandt"}}, "missing"),
        ({"entity": ["Ida Brandt"]}, "must be a string"),
        ({"segment": None}, "fewer than 5 words"),
    ],
)
def test_entity_that_is_not_in_the_text_is_invalid(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidReply, match=complaint):
        entity(BRANDT | change)


def test_texts_can_be_encoded_and_have_no_control_characters() -> None:
    broken = {key: f"{text} \ud83d\x00\x1b\n\x85 " for key, text in BRANDT.items()}
    assert entity(broken) == entity(BRANDT)
    hops = [{key: f"{text}\x00\udc00" for key, text in hop.items()} for hop in HOPS]
    found = verdict(YES | {"reason": "so\x00it \ud83d is", "sub_questions": hops})
    assert found.reason == "so it is"
    assert found == verdict(YES | {"reason": "so it is"})
    json.dumps(found, ensure_ascii=False).encode()


VALID = canned([dict(message) for message in prompts.judgement(ROAD, USABLE).messages], prompts.JUDGEMENT)


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(GOOD),
        "Well {sic}: " + json.dumps(GOOD) + " {hope} that helps",
        "```json\n" + json.dumps(GOOD, indent=2) + "\n```",
        '<think>{"entity": "x"}</think>' + json.dumps(GOOD),
        'or {"entity": "x"}?</think>' + json.dumps(GOOD),
        json.dumps([GOOD]),
        json.dumps(GOOD | {"confidence": 1}),
        json.dumps(GOOD | {"entity": "Via\nAppia"}).replace("\\n", "\n"),
    ],
)
def test_json_is_found_amid_other_text(content: str) -> None:
    entity = read_extraction(reply(content), ROMANS, 20)
    assert entity is not None
    assert entity.name == "Via Appia"


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (reply(""), "empty"),
        (reply("nothing to see"), "no complete JSON"),
        (reply(json.dumps(GOOD)[:-9]), "no complete JSON"),
        (reply("{" * 5000), "no complete JSON"),
        (reply(GOOD, "length"), "cut off"),
        (reply(GOOD, "content_filter"), "withheld"),
        (reply({"entity": "x"}), 'missing: "segment", "query"'),
        (reply(GOOD | {"query": ["a"]}), '"query" must be a string'),
        (reply(GOOD | {"entity": "roman  ROADS."}), "title"),
        (reply(GOOD | {"segment": "too short"}), "fewer than 20 words"),
        (reply(GOOD | {"query": "Via Appia"}), "10 to 20 words"),
    ],
)
def test_complaint_says_what_is_wrong_with_an_extraction(bad: Reply, complaint: str) -> None:
    with pytest.raises(InvalidReply, match=complaint):
        read_extraction(bad, ROMANS, 20)


def test_no_entity_is_an_answer() -> None:
    assert read_extraction(reply(dict.fromkeys(GOOD, "")), ROMANS, 20) is None


@pytest.mark.parametrize(
    "change",
    [
        {"valid": "perhaps"},
        {"sub_questions": []},
        {"sub_questions": VALID["sub_questions"][::-1]},
        {"doc_b_segment": "The Via Appia was begun by a censor in a year without rain."},
        {"sub_questions": [{"question": "q", "answer": "a", "document": "C"}] * 2},
        {"sub_questions": [{"question": "q", "answer": " ", "document": letter} for letter in "AB"]},
    ],
)
def test_unclear_verdicts_are_invalid(change: dict[str, Any]) -> None:
    assert read_verdict(reply(dict(VALID)), ROAD, USABLE).outcome is Outcome.USABLE
    with pytest.raises(InvalidReply):
        read_verdict(reply({**VALID, **change}), ROAD, USABLE)


def relevance(**fields: Any) -> list[Verdict]:
    return read_relevance(Reply(json.dumps(fields), "stop", 1, 1), 3)


def test_relevance_is_a_list_of_numbers() -> None:
    yes, no = Verdict(Outcome.USABLE, "they tell who"), Verdict(Outcome.UNUSABLE, "they tell who")
    assert relevance(reason="they tell who", relevant=[1, "3"]) == [yes, no, yes]
    assert relevance(reason="they tell who", relevant="[2]") == [no, yes, no]
    assert relevance(reason="they tell who", relevant=[]) == [no] * 3
    for unclear in ({"relevant": "partly"}, {"reason": "they tell"}, {"relevant": [4]}, {"relevant": [True]}):
        with pytest.raises(InvalidReply, match='"relevant"'):
            relevance(**unclear)
    with pytest.raises(InvalidReply, match="more than once"):
        read_relevance(Reply('{"relevant": [1]} or {"relevant": [2]}', "stop", 1, 1), 3)
    with pytest.raises(InvalidReply, match="more than once"):
        read_relevance(Reply('{"relevant": [1], "relevant": [2]}', "stop", 1, 1), 3)
