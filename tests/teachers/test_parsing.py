"""What is read out of a reply: what makes an answer, what may be wrong around it, and what is never taken for one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from utils.schema import BridgeEntity, Document, Outcome
from utils.teachers.parsing import InvalidReply, read_extraction, read_verdict
from utils.teachers.reply_cache import Reply

HOPS = [
    {"question": "Who dug the canal?", "answer": "Ida Brandt", "document": "A"},
    {"question": "What else did Ida Brandt dig?", "answer": "two tunnels", "document": "B"},
]
YES: dict[str, Any] = {"valid": True, "reason": "B tells more", "bridge_connection": "her", "sub_questions": HOPS}
NO: dict[str, Any] = {"valid": False, "reason": 'B names only the "canal"'}
yes, no = json.dumps(YES), json.dumps(NO)

CANAL = Document("1", "Elm Canal", "The Elm Canal was dug by the engineer Ida Brandt with forty men in three winters.")
BRANDT = {
    "entity": "Ida Brandt",
    "type": "person",
    "segment": "The Elm Canal was dug by the engineer Ida Brandt.",
    "query": "Which tunnels did the engineer Ida Brandt dig beyond the Elm Canal",
}


def said(content: str | dict[str, Any]) -> Reply:
    return Reply(content if isinstance(content, str) else json.dumps(content), "stop", 1, 1)


def outcome(content: str | dict[str, Any]) -> Outcome:
    return read_verdict(said(content)).outcome


def entity(content: str | dict[str, Any]) -> BridgeEntity | None:
    return read_extraction(said(content), CANAL, 5)


THOUGHTS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>\n<answer>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("< think >", "< / think >"),
    ("&lt;think&gt;", "&lt;/think&gt;"),
    ("<｜think｜>", "<｜/think｜>"),
    ("<inner_monologue>", "</inner_monologue>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("analysisWe need to see. ", "assistantfinal"),
]


@pytest.mark.parametrize(("opening", "closing"), THOUGHTS)
def test_a_thought_is_never_an_answer(opening: str, closing: str) -> None:
    assert outcome(f"{opening}A draft: {no}{closing}{yes}") is Outcome.USABLE
    for unfinished in (f"{opening}A draft: {no} but wait", f"{opening}{no}", f"{opening}{yes}\n{opening}or {no}"):
        with pytest.raises(InvalidReply, match="within a thought") as broken:
            outcome(unfinished)
        assert "generation_params.max_tokens" in broken.value.explain(said(unfinished))
    with pytest.raises(InvalidReply):
        outcome(f"{opening}A draft: {no}{closing}I cannot say.")


def test_thoughts_without_an_opening_tag_and_within_one_another() -> None:
    assert outcome(f"Perhaps {no}?</think>{yes}") is Outcome.USABLE
    assert outcome(f"<think>a<think>b</think>{no}</think>{yes}") is Outcome.USABLE
    with pytest.raises(InvalidReply, match="within a thought"):
        outcome(f"<think>a<think>b</think>{no} and so on")


def test_a_tag_in_an_answer_opens_no_thought() -> None:
    assert outcome(NO | {"reason": "B is about the <think> tag"}) is Outcome.UNUSABLE
    assert outcome(f"```json\n{json.dumps(NO | {'reason': 'so says <thinking>'})}\n```") is Outcome.UNUSABLE


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
def test_what_does_not_matter_may_be_wrong(content: str | dict[str, Any]) -> None:
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
def test_a_usable_verdict_is_repaired(content: str | dict[str, Any]) -> None:
    verdict = read_verdict(said(content))
    assert verdict.outcome is Outcome.USABLE
    assert [(hop.question, hop.document) for hop in verdict.sub_questions] == [
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
def test_what_is_not_clear_is_no_verdict(content: str | dict[str, Any]) -> None:
    with pytest.raises(InvalidReply):
        outcome(content)


@pytest.mark.parametrize("whole", [no, repr(NO), json.dumps({"verdict": NO}), repr({"verdict": NO})])
def test_a_verdict_that_is_cut_anywhere_is_none(whole: str) -> None:
    assert outcome(whole) is Outcome.UNUSABLE
    for end in range(len(whole)):
        with pytest.raises(InvalidReply):
            outcome(whole[:end])
    with pytest.raises(InvalidReply, match="cut off"):
        read_verdict(Reply(whole, "length", 1, 1))


@pytest.mark.parametrize(
    "content",
    [
        '{"draft": ' + no + ', "final": {"valid": tr',
        "[" + no + ', {"valid": tr',
        no + ' Or: {"valid": true',
        '{"valid": false, "reason": "see {1}',
        '{"valid": false, "reason": "so B ends with x}',
        "{" * 50_000,
        '{"a":' * 50_000 + "1" + "}" * 50_000,
    ],
)
def test_what_is_cut_off_may_have_said_the_contrary(content: str) -> None:
    with pytest.raises(InvalidReply, match="no complete JSON"):
        outcome(content)


NO_ENTITIES = ["", None, "none", "N/A", "null", "No entity.", "no suitable entity found", "-", "无"]
NO_ENTITIES += [[], False, "nil", "Not found", "None of these", "There is no other named entity in it"]


@pytest.mark.parametrize("name", NO_ENTITIES)
def test_no_entity_has_many_names(name: Any) -> None:
    assert entity({"entity": name, "type": None, "segment": None, "query": None}) is None
    assert entity({"entity": name}) is None


def test_an_entity_needs_what_is_asked_of_it_and_no_more() -> None:
    found = BridgeEntity(**{"name": BRANDT["entity"], **{key: BRANDT[key] for key in ("type", "segment", "query")}})
    for content in (BRANDT, {"bridge_entity": BRANDT}, {"entity": BRANDT}, [BRANDT], repr(BRANDT), json.dumps(BRANDT)):
        assert entity(content if isinstance(content, str) else json.dumps(content)) == found
    assert entity(BRANDT | {"type": None}) == found._replace(type="")
    assert entity(BRANDT | {"entity": "**Ida Brandt**"}) == found


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"entity": "Moon Treaty of Basel"}, "does not name the entity"),
        ({"query": "What else does this text say about it beyond what is said here"}, "does not name the entity"),
        ({"entity": {"name": "Ida Brandt"}}, "missing"),
        ({"entity": ["Ida Brandt"]}, "must be a string"),
        ({"segment": None}, "fewer than 5 words"),
    ],
)
def test_an_entity_that_is_not_the_texts_is_none(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidReply, match=complaint):
        entity(BRANDT | change)


def test_texts_can_be_encoded_and_have_no_control_characters() -> None:
    broken = {key: f"{text} \ud83d\x00\x1b\n\x85 " for key, text in BRANDT.items()}
    assert entity(broken) == entity(BRANDT)
    hops = [{key: f"{text}\x00\udc00" for key, text in hop.items()} for hop in HOPS]
    verdict = read_verdict(said(YES | {"reason": "so\x00it \ud83d is", "sub_questions": hops}))
    assert verdict.reason == "so it is"
    assert verdict == read_verdict(said(YES | {"reason": "so it is"}))
    json.dumps(verdict, ensure_ascii=False).encode()
