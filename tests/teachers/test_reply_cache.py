"""Replies are found by model and question, wherever the model is served; truncated ones also by their limit."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from endpoint import ScriptedEndpoint, canned
from llm_teacher import KEYS, ROMANS, documents, extract_all, use
from utils.errors import InputError
from utils.schema import Document
from utils.teachers import prompts
from utils.teachers.base import TeacherError
from utils.teachers.endpoint import EndpointSettings
from utils.teachers.language_model import LLMTeacher
from utils.teachers.ledger import Ledger
from utils.teachers.reply_cache import Reply, ReplyCache, reply_keys, request_key

TOLD = "It stood for two hundred years beside the old bridge, and was built of oak and of river stones by Adam Wirth"
MILL = Document("1", "The mill", TOLD)


def extract(url: str, cache: Path, *documents: Document, **settings: Any) -> list[Any]:
    """Extract from all documents at once; what is raised is among the results."""
    role = EndpointSettings(**({"provider": "openai", "base_url": url, "model": "small", "timeout": 5.0} | settings))

    async def work() -> list[Any]:
        async with aclosing(LLMTeacher(role, role, cache, Ledger())) as teacher:
            return await asyncio.gather(*map(teacher.extract, documents or [MILL]), return_exceptions=True)

    return asyncio.run(work())


def key_of(model: str, question: prompts.Question, params: dict[str, Any]) -> str:
    return reply_keys("http://anywhere", model, None, question, params).whole


def count(cache: Path) -> int:
    with sqlite3.connect(cache) as database:
        return int(database.execute("SELECT count(*) FROM replies").fetchone()[0])


def test_address_and_limits_are_not_part_of_the_key(cache: Path) -> None:
    with ScriptedEndpoint(canned) as one, ScriptedEndpoint(canned) as other:
        first = extract(one.url, cache, params={"max_tokens": 300, "temperature": 0})
        assert extract(other.url, cache, params={"max_new_tokens": 900, "temperature": 0}, timeout=9.0) == first
        assert not other.seen
        for number, change in enumerate(
            ({"params": {"temperature": 1}}, {"model": "big"}, {"model_revision": "2"}, {"params": {"top_p": 0.5}}), 1
        ):
            extract(other.url, cache, **({"params": {"temperature": 0}} | change))
            assert len(other.seen) == number


def test_truncated_reply_is_asked_for_again_only_with_another_limit(cache: Path) -> None:
    with ScriptedEndpoint(canned, fault=lambda *_: "length") as endpoint:
        for requests in (3, 3):
            (error,) = extract(endpoint.url, cache, params={"max_tokens": 10})
            assert len(endpoint.seen) == requests
        assert isinstance(error, TeacherError)
        assert "finish_reason length; raise generation_params.max_tokens" in str(error)
        endpoint.fault = None
        (entity,) = extract(endpoint.url, cache, params={"max_tokens": 20})
        assert entity.name == "Wirth"
        assert len(endpoint.seen) == 4
        assert extract(endpoint.url, cache, params={"max_tokens": 10}) == [entity]  # a whole one serves any limit
        assert len(endpoint.seen) == 4


def test_replies_of_earlier_versions_are_found(cache: Path) -> None:
    question, params = prompts.extraction(MILL), {"max_tokens": 300}
    reply = Reply(json.dumps(canned([dict(m) for m in question.messages], prompts.EXTRACTION)), "stop", 1, 1)
    with ScriptedEndpoint(canned) as endpoint:
        store = ReplyCache(cache)
        store.put(request_key(endpoint.url, "small", question, params), "small", reply)
        (entity,) = extract(endpoint.url, cache, params=params)
        assert entity.name == "Wirth"
        assert not endpoint.seen
        extract(endpoint.url, cache, params=params, model_revision="2")  # which they could not tell
        assert len(endpoint.seen) == 1


def test_invalid_bytes_in_the_file_do_not_break_the_cache(cache: Path) -> None:
    with ScriptedEndpoint(canned) as endpoint:
        extract(endpoint.url, cache)
        with sqlite3.connect(cache) as database:
            database.execute("UPDATE replies SET content = CAST(X'7bff7d' AS TEXT)")
        (entity,) = extract(endpoint.url, cache)
        assert entity.name == "Wirth"  # by the second attempt
        assert len(endpoint.seen) == 2


def test_the_second_run_makes_no_call(cache: Path) -> None:
    docs, ledger = documents(12), Ledger(max_calls=0)
    with ScriptedEndpoint(canned) as endpoint:
        first = use(endpoint, cache, extract_all(docs))
        # Neither the key nor the timeout makes it another question.
        second = use(endpoint, cache, extract_all(docs), ledger, api_keys=KEYS, timeout=9.0)
        assert second == first
        assert len(endpoint.seen) == 12
    assert (ledger.calls, ledger.cache_hits, ledger.tokens_in) == (0, 12, 0)


def test_key_depends_on_all_that_decides_the_reply() -> None:
    question = prompts.extraction(ROMANS)
    key = key_of("m", question, {"max_tokens": 9})
    assert key == key_of("m", question, {"max_tokens": 99, "user": "somebody"})
    others = [
        key_of("n", question, {}),
        key_of("m", prompts.again(question, ["no"]), {}),
        key_of("m", question, {"temperature": 0}),
        key_of("m", question, {"seed": 1}),
        key_of("m", question._replace(schema={}), {}),
    ]
    assert len({key, *others}) == 6


def test_the_same_question_at_once_is_asked_once(cache: Path) -> None:
    ledger = Ledger()
    with ScriptedEndpoint(canned, latency=0.05) as endpoint:
        entities = use(endpoint, cache, extract_all([ROMANS] * 10), ledger)
    assert len(set(entities)) == len(endpoint.seen) == 1
    assert (ledger.calls, ledger.cache_hits) == (1, 9)


def test_two_processes_may_share_the_cache(cache: Path) -> None:
    one, other = ReplyCache(cache), ReplyCache(cache)
    one.put("a", "m", Reply("first", "stop", 1, 1))
    other.put("a", "m", Reply("second", "stop", 1, 1))
    other.put("b", "m", Reply("third", "stop", 1, 1))
    assert [one.get(key) and one.get(key).content for key in "abc"] == ["first", "third", None]
    assert count(cache) == 2


@pytest.mark.parametrize("content", [b"not a database, " * 99, None])
def test_file_that_is_not_a_cache_is_refused(cache: Path, content: bytes | None) -> None:
    if content is None:
        cache.mkdir()
    else:
        cache.write_bytes(content)
    with pytest.raises(InputError, match="move it away"):
        ReplyCache(cache)


def test_a_new_cache_is_its_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    cache = ReplyCache(path)
    cache.put("k", "m", Reply("a reply", "stop", 1, 1))
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    names = [".replies.sqlite.locks", "replies.sqlite", "replies.sqlite-shm", "replies.sqlite-wal"]
    assert modes == dict.fromkeys(names, 0o600)
