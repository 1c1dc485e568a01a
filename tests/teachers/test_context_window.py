"""Long documents are read window by window, and silently truncated prompts are detected."""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from endpoint import Messages, ScriptedEndpoint, canned, read_prompt
from llm_teacher import QUICK, settings_for
from utils.errors import RunError
from utils.labelling.scheduler import first_usable, judge_lists
from utils.schema import BridgeEntity, Candidate, Document, Outcome
from utils.teachers import context_window, prompts
from utils.teachers.language_model import LLMTeacher, PromptLimits
from utils.teachers.ledger import Ledger
from utils.teachers.reply_cache import Reply

QUARRY = BridgeEntity(
    "Tolmin", "person", "Tolmin opened the quarry.", "Which bridges did Tolmin build beyond the quarry"
)
FILLER = " ".join(f"On day {day} the clerk noted the price of barley." for day in range(400))  # about 4,500 tokens


def judge(endpoint: ScriptedEndpoint, cache: Path, document: Document, **options: Any) -> Any:
    """Judge one candidate for ``QUARRY``, 1,000 tokens at a time."""

    async def run() -> Any:
        role = settings_for(endpoint.url)
        limits = PromptLimits(**({"max_document_tokens": 1000} | options))
        async with aclosing(LLMTeacher(role, role, cache, Ledger(), limits, QUICK)) as teacher:
            return await teacher.judge(QUARRY, document)

    return asyncio.run(run())


class Cutting(ScriptedEndpoint):
    """An endpoint that truncates prompts to ``holds`` tokens, and reports no more."""

    def __init__(self, holds: int) -> None:
        super().__init__(lambda messages, name: canned(messages, name))
        self.holds = holds

    def _completion(self, payload: Mapping[str, Any], content: str) -> dict[str, Any]:
        completion = super()._completion(payload, content)
        usage = completion["usage"]
        usage["prompt_tokens"] = min(usage["prompt_tokens"], self.holds)
        return completion


# Windows


def test_a_text_that_fits_is_one_window_unchanged() -> None:
    assert context_window.split_windows(" a text \n", 3) == [" a text \n"]


@pytest.mark.parametrize("letters", [1, 7, 4999, 5001, 23_456])
def test_windows_hold_the_whole_text_and_no_more_tokens_than_allowed(letters: int) -> None:
    rng = random.Random(letters)
    words = [f"w{i}" + "x" * rng.randrange(9) for i in range(letters // 6 + 1)]
    windows = context_window.split_windows(" ".join(words), 300)
    assert all(context_window.estimate_tokens(piece) <= 300 for piece in windows)
    assert {word for piece in windows for word in piece.split()} == set(words)  # all of them, and none in halves
    assert windows[0].startswith(words[0])
    assert windows[-1].endswith(words[-1])


def test_letter_of_an_unspaced_script_is_a_token() -> None:
    windows = context_window.split_windows("青云湖紧邻该镇" * 300, 500)
    assert [len(piece) for piece in windows] == [500] * 5
    assert context_window.estimate_tokens("青云湖 lake") == 4


def test_windows_that_name_the_entity_come_first_then_those_that_share_its_query() -> None:
    text = f"{FILLER} Bridges are long. {FILLER} TOLMIN was there. {FILLER}"
    first, second, third = context_window.windows_about(Document("1", "", text), QUARRY, 1000, 3)
    assert "TOLMIN" in first.contents
    assert "Bridges" in second.contents
    assert "Bridges" not in third.contents


def test_an_entity_is_looked_for_anywhere_in_a_long_document() -> None:
    long = [Document(str(i), "", FILLER) for i in range(60)]
    starts = {context_window.windows_anywhere(document, 1, 1000, 4)[0].contents[:30] for document in long}
    assert len(starts) == len(context_window.split_windows(FILLER, 1000))
    assert context_window.windows_anywhere(long[0], 1, 1000, 4) == context_window.windows_anywhere(long[0], 1, 1000, 4)


# Judging long documents


@pytest.mark.parametrize(
    "parts", [("Tolmin built it.", FILLER), (FILLER, "Tolmin built it."), (FILLER, "Tolmin", FILLER)]
)
def test_a_long_candidate_is_usable_wherever_the_usable_passage_stands(tmp_path: Path, parts: tuple[str, ...]) -> None:
    with ScriptedEndpoint(canned) as endpoint:
        verdict = judge(endpoint, tmp_path / "r.sqlite", Document("1", "Long", " ".join(parts)))
        assert verdict.outcome is Outcome.USABLE
        assert len(endpoint.seen) == 1  # the window that names the entity is the first


def test_a_long_candidate_without_a_usable_window_is_unusable(tmp_path: Path) -> None:
    with ScriptedEndpoint(canned) as endpoint:
        verdict = judge(endpoint, tmp_path / "r.sqlite", Document("1", "Long", FILLER), max_document_windows=3)
        assert verdict.outcome is Outcome.UNUSABLE
        assert len(endpoint.seen) == 3


def test_a_window_without_an_answer_leaves_a_long_candidate_open(tmp_path: Path) -> None:
    def answer(messages: Messages, name: str) -> Mapping[str, Any]:
        return {} if "day 0 " in read_prompt(messages).text else canned(messages, name)

    with ScriptedEndpoint(answer) as endpoint:
        open_verdict = judge(endpoint, tmp_path / "a.sqlite", Document("1", "Long", FILLER))
        assert open_verdict.outcome is Outcome.ERROR
        usable = judge(endpoint, tmp_path / "b.sqlite", Document("1", "Long", f"{FILLER} Tolmin built it."))
        assert usable.outcome is Outcome.USABLE


def test_an_entity_in_any_window_of_a_source_is_found(tmp_path: Path) -> None:
    def answer(messages: Messages, name: str) -> Mapping[str, Any]:
        has_it = "Tolmin" in read_prompt(messages).text
        return canned(messages, name) if has_it else dict.fromkeys(("entity", "type", "segment", "query"), "")

    async def extract(url: str) -> Any:
        role = settings_for(url)
        limits = PromptLimits(max_document_tokens=1500)
        async with aclosing(LLMTeacher(role, role, tmp_path / "r.sqlite", Ledger(), limits)) as teacher:
            documents = [Document(str(i), "Long", f"{FILLER} Tolmin") for i in range(4)]
            return await asyncio.gather(*map(teacher.extract, documents))

    with ScriptedEndpoint(answer) as endpoint:
        assert {entity.name for entity in asyncio.run(extract(endpoint.url))} == {"Tolmin"}


# Prompts that are cut


def test_fewer_tokens_than_words_mean_a_truncated_prompt() -> None:
    question = prompts.extraction(Document("1", "Long", FILLER))
    words = sum(len(message["content"].split()) for message in question.messages)
    assert context_window.is_truncated(question, Reply("{}", "stop", words - 1, 9))
    assert not context_window.is_truncated(question, Reply("{}", "stop", words, 9))
    assert not context_window.is_truncated(question, Reply("{}", "stop", 500, 9))  # a count of something else


def test_estimated_tokens_never_mean_a_truncated_prompt(tmp_path: Path) -> None:
    table = Document("1", "Table", "1 " * 5000 + "Tolmin")  # more words than characters by four
    with ScriptedEndpoint(canned, usage=False) as endpoint:
        assert judge(endpoint, tmp_path / "r.sqlite", table).outcome is Outcome.USABLE


def test_reply_to_a_truncated_prompt_is_not_a_verdict(tmp_path: Path) -> None:
    with Cutting(2048) as endpoint:
        verdict = judge(endpoint, tmp_path / "r.sqlite", Document("1", "Long", FILLER), max_document_tokens=6000)
    assert verdict.outcome is Outcome.ERROR
    assert "num_ctx" in verdict.reason
    assert "2,048 tokens" in verdict.reason


@pytest.mark.parametrize(("holds", "fits"), [(2048, False), (4096, False), (8192, True)])
def test_a_window_too_small_for_the_longest_prompt_ends_the_run_before_any_verdict(
    tmp_path: Path, holds: int, fits: bool
) -> None:
    longest = Document("1", "Long", FILLER)
    options = {"max_document_tokens": 6000, "longest_document": len(FILLER)}
    with Cutting(holds) as endpoint:
        if fits:
            assert judge(endpoint, tmp_path / "r.sqlite", longest, **options).outcome is Outcome.UNUSABLE
        else:
            with pytest.raises(RunError, match=rf"truncates prompts at {holds:,} .*num_ctx.*max_document_tokens"):
                judge(endpoint, tmp_path / "r.sqlite", longest, **options)
        assert len(endpoint.seen) == 1 + fits


def test_context_window_is_probed_until_it_is_large_enough(tmp_path: Path) -> None:
    options = {"max_document_tokens": 6000, "longest_document": len(FILLER)}
    with Cutting(4096) as endpoint:
        with pytest.raises(RunError):
            judge(endpoint, tmp_path / "r.sqlite", Document("1", "A", FILLER), **options)
        endpoint.holds = 8192
        judge(endpoint, tmp_path / "r.sqlite", Document("1", "A", FILLER), **options)
        judge(endpoint, tmp_path / "r.sqlite", Document("2", "B", "Tolmin built it."), **options)
        assert len(endpoint.seen) == 4


def test_short_documents_need_no_probe(tmp_path: Path) -> None:
    with Cutting(1024) as endpoint:
        judge(endpoint, tmp_path / "r.sqlite", Document("1", "A", "Tolmin built it."), longest_document=900)
        assert len(endpoint.seen) == 1


def test_success_and_attempts_do_not_depend_on_length(tmp_path: Path) -> None:
    def picky(messages: Messages, name: str) -> Mapping[str, Any]:
        """Call one title in three valid, where the window shows what its document is about."""
        prompt = read_prompt(messages)
        picked = zlib.crc32(prompt.title.encode()) % 3 == 0 and "Tolmin" in prompt.text
        valid = canned(
            [{"role": "user", "content": messages[-1]["content"].replace(prompt.text, "Tolmin built a mill.")}], name
        )
        return valid if picked else {**valid, "valid": False, "sub_questions": []}

    short = [Document(f"{i}", f"Title {i}", "Tolmin built a mill.") for i in range(40)]
    long = [doc._replace(contents=f"{FILLER} {doc.contents} {FILLER}") if i % 2 else doc for i, doc in enumerate(short)]

    async def attempts(url: str, documents: list[Document]) -> list[tuple[bool, bool, int]]:
        role = settings_for(url)
        limits = PromptLimits(max_document_tokens=1500)
        async with aclosing(LLMTeacher(role, role, tmp_path / "r.sqlite", Ledger(), limits)) as teacher:
            lists = {str(i): [Candidate(doc, 0.0) for doc in documents[i : i + 5]] for i in range(35)}
            trials = await judge_lists(QUARRY, lists, teacher, first_usable)
            return [(trial.failed, trial.success, trial.attempts) for trial in trials.values()]

    with ScriptedEndpoint(picky) as endpoint:
        expected = asyncio.run(attempts(endpoint.url, short))
        assert asyncio.run(attempts(endpoint.url, long)) == expected
    assert {success for _, success, _ in expected} == {True, False}
    assert not any(failed for failed, _, _ in expected)


@pytest.mark.parametrize("length", [100, 5999, 30_000, 100_000])
def test_count_windows_is_an_upper_bound(length: int) -> None:
    for text in ("lorem " * (length // 6), "湖" * (length // 3)):
        planned = context_window.count_windows(len(text.encode()), 1000, 99)
        assert len(context_window.split_windows(text, 1000)) <= planned
