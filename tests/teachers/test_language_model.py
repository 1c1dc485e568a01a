"""The language model teacher against a scripted endpoint: what it asks, pays for and survives."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from endpoint import BROKEN_REPLIES, TRANSPORT_FAULTS, WRAPPED_REPLIES, ScriptedEndpoint, canned, never, storm
from llm_teacher import QUICK, ROAD, ROMANS, UNUSABLE, USABLE, documents, extract_all, settings_for, use
from utils.errors import RunError
from utils.files import SCRIPTS
from utils.schema import BridgeEntity, Outcome
from utils.teachers.base import TeacherError
from utils.teachers.language_model import MAX_UNANSWERED, LLMTeacher
from utils.teachers.ledger import Ledger
from utils.teachers.rate_limit import RetryPolicy
from utils.teachers.reply_cache import ReplyCache


def test_relevance_is_asked_anew_in_each_form_and_paid_for_once(cache: Path) -> None:
    def answer(messages: Any, _: str) -> dict[str, Any]:
        _, *candidates = messages[-1]["content"].split("<number>")
        return {"reason": "so", "relevant": [int(one[0]) for one in candidates if "aqueduct" in one]}

    async def work(teacher: LLMTeacher) -> Any:
        texts = [UNUSABLE.contents, USABLE.contents]
        return [await teacher.relevant("what ran?", "roads", texts, variant) for variant in (0, 1, 2, 0)]

    ledger = Ledger()
    with ScriptedEndpoint(answer) as endpoint:
        verdicts = use(endpoint, cache, work, ledger)
    expected = [Outcome.UNUSABLE, Outcome.USABLE]
    assert [[verdict.outcome for verdict in one] for one in verdicts] == [expected] * 4
    assert (ledger.calls, ledger.cache_hits) == (3, 1)
    with ScriptedEndpoint(lambda *_: {"reason": "perhaps"}) as endpoint:
        (silent,) = use(endpoint, cache, lambda teacher: asyncio.gather(teacher.relevant("who?", "a", ["b", "c"])))
    assert [verdict.outcome for verdict in silent] == [Outcome.ERROR] * 2


def test_extracts_and_judges(cache: Path) -> None:
    async def work(teacher: LLMTeacher) -> Any:
        verdicts = [await teacher.judge(ROAD, candidate) for candidate in (USABLE, UNUSABLE)]
        return await teacher.extract(ROMANS), *verdicts

    ledger = Ledger()
    with ScriptedEndpoint(canned) as endpoint:
        entity, usable, unusable = use(endpoint, cache, work, ledger)
    assert entity.name == "Claudius"
    assert entity.query == "What else is known of Claudius beyond what is told of it in other places"
    assert usable.outcome is Outcome.USABLE
    assert [hop.document for hop in usable.sub_questions] == ["A", "B"]
    assert (unusable.outcome, unusable.reason) == (Outcome.UNUSABLE, "it is not there")
    assert (ledger.calls, ledger.cache_hits, sum(ledger.retries.values())) == (3, 0, 0)
    assert ledger.summary()["by_model"]["small"]["calls"] == 3


def test_roles_may_have_models_of_their_own(cache: Path) -> None:
    async def run(url: str) -> None:
        extractor, judge = settings_for(url, model="one"), settings_for(url, model="two", params={"top_p": 0.5})
        async with aclosing(LLMTeacher(extractor, judge, cache, Ledger())) as teacher:
            await teacher.extract(ROMANS)
            await teacher.judge(ROAD, USABLE)

    with ScriptedEndpoint(canned) as endpoint:
        asyncio.run(run(endpoint.url))
    assert [request.model for request in endpoint.seen] == ["one", "two"]


def test_invalid_reply_is_retried_with_a_note(cache: Path) -> None:
    ledger = Ledger()
    with ScriptedEndpoint(canned, fault=lambda _, nth: ("cut_json", "empty", None)[nth]) as endpoint:
        entity = use(endpoint, cache, lambda t: t.extract(ROMANS), ledger)
    assert entity.name == "Claudius"
    assert [request.note for request in endpoint.seen] == [False, True, True]
    assert not endpoint.repeated()
    assert ledger.retries == {"invalid_reply": 2}


def test_question_without_a_valid_reply_is_an_error_and_never_evidence(cache: Path) -> None:
    async def work(teacher: LLMTeacher) -> Any:
        return await teacher.judge(ROAD, UNUSABLE), await extract_all([ROMANS])(teacher)

    ledger = Ledger()
    with ScriptedEndpoint(canned, fault=lambda *_: "off_schema") as endpoint:
        verdict, (error,) = use(endpoint, cache, work, ledger)
        assert verdict.outcome is Outcome.ERROR
        assert isinstance(error, TeacherError)
        assert len(endpoint.seen) == ledger.calls == 6
        assert ledger.failures == {"invalid_reply": 2}

        again = Ledger()
        verdict, (error,) = use(endpoint, cache, work, again)
        assert (verdict.outcome, type(error)) == (Outcome.ERROR, TeacherError)
        assert (again.calls, again.cache_hits, len(endpoint.seen)) == (0, 6, 6)  # replayed, not paid for again

        endpoint.fault = None
        store = ReplyCache(cache)
        assert store.forget_failed(["small"]) == 6
        verdict, (entity,) = use(endpoint, cache, work)
        assert (verdict.outcome, entity.name) == (Outcome.UNUSABLE, "Claudius")


@pytest.mark.parametrize("kind", [*TRANSPORT_FAULTS, *WRAPPED_REPLIES, "open_think", "length"])
def test_temporary_faults_leave_no_trace_in_the_answer(cache: Path, kind: str) -> None:
    ledger = Ledger()
    with ScriptedEndpoint(canned, fault=lambda _, nth: kind if nth == 0 else None) as endpoint:
        limit = {"timeout": 0.3} if kind == "hang" else {}
        entity = use(endpoint, cache, lambda t: t.extract(ROMANS), ledger, **limit)
    assert entity.name == "Claudius"
    if kind == "hang":  # on a busy machine, what does not hang may also take too long
        assert set(ledger.retries) == {"timeout"}
    else:
        assert sum(ledger.retries.values()) == (kind not in WRAPPED_REPLIES)
    assert not ledger.failures


def test_a_storm_of_faults_changes_no_answer(tmp_path: Path) -> None:
    docs = documents(100)
    with ScriptedEndpoint(canned) as endpoint:
        calm = use(endpoint, tmp_path / "calm.sqlite", extract_all(docs))
    ledger = Ledger()
    with ScriptedEndpoint(canned, fault=storm(0.3, seed=4)) as endpoint:
        stormy = use(
            endpoint,
            tmp_path / "storm.sqlite",
            extract_all(docs),
            ledger,
            timeout=1.0,  # which on a busy machine sound replies exceed, too
            retry=QUICK._replace(max_in_flight=32, tries=100, max_failures=1000),
        )
    assert stormy == calm
    assert {request.fault for request in endpoint.seen} > {*TRANSPORT_FAULTS, *BROKEN_REPLIES}
    assert set(ledger.retries) == {"rate_limit", "server_error", "timeout", "connection", "invalid_reply"}


async def asked(endpoint: ScriptedEndpoint, requests: int = 1) -> None:
    """Wait until an endpoint has so many requests."""
    async with asyncio.timeout(300):
        while len(endpoint.seen) < requests:
            await asyncio.sleep(0.001)


def test_cancelled_caller_leaves_its_reply_in_the_cache(cache: Path) -> None:
    async def work(teacher: LLMTeacher) -> None:
        task = asyncio.create_task(teacher.extract(ROMANS))
        await asked(endpoint)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        endpoint.hold = never

    with ScriptedEndpoint(canned) as endpoint:
        endpoint.hold = lambda: True
        use(endpoint, cache, work)
        assert use(endpoint, cache, lambda t: t.extract(ROMANS), Ledger(max_calls=0)).name == "Claudius"


def test_closing_does_not_wait_for_retries(cache: Path) -> None:
    async def work(teacher: LLMTeacher) -> None:
        endpoint.hold = lambda: True
        asyncio.create_task(extract_all([ROMANS])(teacher))  # noqa: RUF006
        await asked(endpoint, len(endpoint.seen) + 1)
        asyncio.get_running_loop().call_soon(setattr, endpoint, "hold", never)  # once the closing has begun

    with ScriptedEndpoint(canned, fault=lambda *_: "500", retry_after="500") as endpoint:
        started = time.monotonic()
        use(endpoint, cache, work, retry=RetryPolicy(first_wait=500.0, longest_wait=500.0))
        endpoint.fault = lambda *_: "429"
        use(endpoint, cache, work)
        assert time.monotonic() - started < 250
        assert len(endpoint.seen) == 2


KILLED = """
    import asyncio, sys
    from contextlib import aclosing
    from pathlib import Path
    from llm_teacher import documents, settings_for
    from utils.teachers.language_model import MAX_UNANSWERED, LLMTeacher
    from utils.teachers.ledger import Ledger

    async def main(url, cache):
        async with aclosing(LLMTeacher(settings_for(url), settings_for(url), Path(cache), Ledger())) as teacher:
            for document in documents(200):
                await teacher.extract(document)
                print(document.id, flush=True)

    asyncio.run(main(*sys.argv[1:]))
"""


def test_killed_process_loses_no_reply(cache: Path) -> None:
    tests = Path(__file__).parents[1]
    with ScriptedEndpoint(canned) as endpoint:
        endpoint.hold = lambda: len(endpoint.seen) > 21
        command = [sys.executable, "-c", textwrap.dedent(KILLED), endpoint.url, str(cache)]
        path = {"PYTHONPATH": f"{SCRIPTS}:{tests}"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=path)
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "20":
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed_at = len(endpoint.seen)
        assert 21 <= killed_at <= 22
        endpoint.hold = never
        use(endpoint, cache, extract_all(documents(40)))
        assert len(endpoint.repeated()) <= 1  # the one that was on its way
        assert len(endpoint.seen) <= max(killed_at, 40) + 1


def test_no_valid_reply_to_the_first_questions_ends_the_run(cache: Path) -> None:
    docs = documents(40)
    with ScriptedEndpoint(lambda *_: "As a model I must not.") as endpoint:
        errors = use(endpoint, cache, extract_all(docs))
        # Other questions start during the attempts of the first.
        assert 3 * MAX_UNANSWERED <= len(endpoint.seen) < 6 * MAX_UNANSWERED
    assert sum(isinstance(error, TeacherError) for error in errors) == MAX_UNANSWERED - 1
    (line,) = {str(error) for error in errors if isinstance(error, RunError)}
    assert sum(isinstance(error, RunError) for error in errors) == 40 - (MAX_UNANSWERED - 1)
    assert "it said 'As a model I must not.'" in line
    assert f"each of the first {MAX_UNANSWERED} questions" in line
    with ScriptedEndpoint(canned) as endpoint:  # nothing was cached, so that a fixed endpoint is asked again
        assert all(isinstance(entity, BridgeEntity) for entity in use(endpoint, cache, extract_all(docs)))
        assert len(endpoint.seen) == 40
        assert not any(request.note for request in endpoint.seen)


def test_one_valid_reply_lifts_the_limit_on_questions_at_once(cache: Path) -> None:
    broken = {f"Entity{n}" for n in (3, 5, 6, 7, 8, 9, 10)}

    def answer(messages: list[dict[str, str]], kind: str) -> Any:
        reply = canned(messages, kind)
        return reply if reply["entity"] not in broken else "no"

    endpoint = ScriptedEndpoint(answer)
    endpoint.hold = lambda: len(endpoint.seen) > MAX_UNANSWERED and endpoint.most_in_flight <= 2 * MAX_UNANSWERED
    with endpoint:
        results = use(endpoint, cache, extract_all(documents(40)))
        assert endpoint.most_in_flight > 2 * MAX_UNANSWERED
    assert sum(isinstance(result, BridgeEntity) for result in results) == 33
    assert sum(isinstance(result, TeacherError) for result in results) == 7
