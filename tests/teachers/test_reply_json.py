"""JSON is found wherever it stands, unless it is truncated or may be reasoning."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from utils.schema import BridgeEntity, Document, Outcome, Verdict
from utils.teachers.parsing import read_verdict
from utils.teachers.reply_cache import Reply
from utils.teachers.reply_json import InvalidReply

HOPS = [
    {"question": "Who dug the canal?", "answer": "Ida Brandt", "document": "A"},
    {"question": "What else did Ida Brandt dig?", "answer": "two tunnels", "document": "B"},
]
DUG = "Two tunnels were dug by Ida Brandt."
YES: dict[str, Any] = {"valid": True, "reason": "B tells more", "doc_b_segment": DUG, "sub_questions": HOPS}
NO: dict[str, Any] = {"valid": False, "reason": 'B names only the "canal"'}
yes, no = json.dumps(YES), json.dumps(NO)


def reply(content: str | dict[str, Any], finish: str = "stop") -> Reply:
    return Reply(content if isinstance(content, str) else json.dumps(content), finish, 1, 1)


def read(answer: Reply) -> Verdict:
    return read_verdict(answer, BridgeEntity("Ida Brandt", "person", "", ""), Document("2", "Tunnels", DUG))


def outcome(content: str | dict[str, Any]) -> Outcome:
    return read(reply(content)).outcome


REASONING = [
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


@pytest.mark.parametrize(("opening", "closing"), REASONING)
def test_reasoning_is_never_an_answer(opening: str, closing: str) -> None:
    assert outcome(f"{opening}A draft: {no}{closing}{yes}") is Outcome.USABLE
    for unfinished in (f"{opening}A draft: {no} but wait", f"{opening}{no}", f"{opening}{yes}\n{opening}or {no}"):
        with pytest.raises(InvalidReply, match="within a thought") as broken:
            outcome(unfinished)
        assert "generation_params.max_tokens" in broken.value.explain(reply(unfinished))
    with pytest.raises(InvalidReply):
        outcome(f"{opening}A draft: {no}{closing}I cannot say.")


def test_reasoning_may_be_nested_or_lack_its_opening_tag() -> None:
    assert outcome(f"Perhaps {no}?</think>{yes}") is Outcome.USABLE
    assert outcome(f"<think>a<think>b</think>{no}</think>{yes}") is Outcome.USABLE
    with pytest.raises(InvalidReply, match="within a thought"):
        outcome(f"<think>a<think>b</think>{no} and so on")


def test_tag_within_an_answer_opens_no_reasoning() -> None:
    assert outcome(NO | {"reason": "B is about the <think> tag"}) is Outcome.UNUSABLE
    assert outcome(f"```json\n{json.dumps(NO | {'reason': 'so says <thinking>'})}\n```") is Outcome.UNUSABLE


@pytest.mark.parametrize("whole", [no, repr(NO), json.dumps({"verdict": NO}), repr({"verdict": NO})])
def test_verdict_truncated_anywhere_is_invalid(whole: str) -> None:
    assert outcome(whole) is Outcome.UNUSABLE
    for end in range(len(whole)):
        with pytest.raises(InvalidReply):
            outcome(whole[:end])
    with pytest.raises(InvalidReply, match="cut off"):
        read(Reply(whole, "length", 1, 1))


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
def test_truncated_object_is_invalid(content: str) -> None:
    with pytest.raises(InvalidReply, match="no complete JSON"):
        outcome(content)


@pytest.mark.parametrize(
    "content",
    [
        "<think>" * 15_000, "</think>" * 12_000, "<" + "_" * 100_000, "<think " * 15_000, "&lt;" * 25_000,
        "```" + " " * 100_000 + "x", "```json\n" + "\n" * 100_000 + "{", "{" * 100_000, "[" * 100_000, "{a}" * 33_000,
        '{"' * 50_000, "<|channel|>final" * 6_000, "assistant " * 10_000, '{"valid": tru}' * 7_000,
        json.dumps(YES | {"sub_questions": [HOPS[0] | {"document": "_" * 100_000}, HOPS[1]]}),
    ],
    ids=lambda content: content[:12],
)  # fmt: skip
def test_a_hostile_reply_is_refused_in_time_that_grows_with_its_length(content: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidReply):
        read(reply(content))
    assert time.process_time() - started < 2  # quadratic patterns took minutes
