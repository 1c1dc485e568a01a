"""What an endpoint refuses is learnt, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from endpoint import ScriptedEndpoint, canned
from llm_teacher import QUICK, documents, extract_all, use
from utils.schema import BridgeEntity
from utils.teachers import prompts
from utils.teachers.base import TeacherError
from utils.teachers.language_model import LLMTeacher
from utils.teachers.ledger import Ledger
from utils.teachers.reply_cache import ReplyCache, reply_keys


@pytest.mark.parametrize(
    "refuses",
    [
        {"json_schema"},
        {"response_format"},
        {"max_tokens"},
        {"temperature"},
        {"temperature", "top_p", "max_tokens"},
        {"system"},
    ],
)
def test_refused_parameter_is_left_out_and_remembered(cache: Path, refuses: set[str]) -> None:
    params = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 99}
    ledger = Ledger()

    async def work(teacher: LLMTeacher) -> Any:
        return [await teacher.extract(document) for document in documents(5)]

    with ScriptedEndpoint(canned, refuses=refuses) as endpoint:
        entities = use(endpoint, cache, work, ledger, params=params)
    assert [entity.name for entity in entities] == [f"Entity{n}" for n in range(5)]
    learnt = 2 if refuses == {"response_format"} else len(refuses)
    assert len(endpoint.seen) == 5 + learnt
    assert (ledger.calls, ledger.retries["refused"]) == (5, learnt)
    # What the endpoint knows is no part of the request's identity: the next run finds it all.
    with ScriptedEndpoint(canned) as other:
        key = reply_keys(other.url, "small", None, prompts.extraction(documents(1)[0]), params).whole
        assert ReplyCache(cache).get(key) is not None
        assert not other.seen


TURNED_AWAY = {
    "system": [
        (400, {"object": "error", "message": "roles must alternate user/assistant/user/assistant/...", "code": 400}),
        (400, {"error": {"message": "Only user and assistant roles are supported!"}}),
        (500, {"error": "Jinja error: exception in line 7"}),
        (422, {"detail": [{"loc": ["body", "messages", 0, "role"], "msg": "Input should be 'user'"}]}),
        (400, {"message": "something is amiss"}),
    ],
    "response_format": [
        (404, {"error": {"message": "No host can serve a request with these parameters", "code": 404}}),
        (500, {"error": {"message": "compiling the grammar failed", "code": 500}}),
        (400, {"error": {"message": "additional properties ('strict' was unexpected)"}}),
        (400, "no"),
        (200, {"error": {"message": "upstream: bad parameters", "code": 400}}),
    ],
    "temperature": [
        (400, {"error": {"message": "`temperature` has to be greater than zero"}}),
        (422, {"error": "invalid request, id 7f3a91"}),
    ],
    "top_p": [(400, {"error": {"message": "temperature and top_p cannot both be given; id 0"}})],
    "max_tokens": [(400, {"error": {"message": "unexpected keyword argument"}})],
}


@pytest.mark.parametrize(
    ("name", "refusal"), [(name, refusal) for name, refusals in TURNED_AWAY.items() for refusal in refusals]
)
def test_refusal_is_learnt_whatever_its_wording(cache: Path, name: str, refusal: tuple[int, Any], caplog: Any) -> None:
    """Whatever the words: what is refused is left out, all else stays, and only the first questions pay for it."""
    params = {"temperature": 0, "top_p": 0.9, "max_tokens": 99}
    with ScriptedEndpoint(canned, refuses={name: refusal}, latency=0.01) as endpoint:
        entities = use(endpoint, cache, extract_all(documents(30)), params=params)
        last = endpoint.sent[-1]
    assert [entity.name for entity in entities] == [f"Entity{n}" for n in range(30)]
    assert len(endpoint.seen) <= 30 + 4 + 9  # those on their way at first, and what one of them tries
    lost = [
        *(key for key in params if key not in last and not (key == "max_tokens" and "max_completion_tokens" in last)),
        *(["response_format"] if "response_format" not in last else []),
        *(["system"] if last["messages"][0]["role"] != "system" else []),
    ]
    if "cannot both" in str(refusal):
        assert len(lost) == 1
    else:
        assert lost == ([] if name == "max_tokens" else [name])
    (line,) = [line for line in caplog.messages if "refuses the configured request format" in line]
    assert {"system": "system message", "max_tokens": "max_completion_tokens"}.get(name, name) in line or "both" in str(
        refusal
    )


@pytest.mark.parametrize(
    "refuses",
    [
        {"system": (400, {"error": "bad request"}), "response_format": (400, {"error": "bad request"})},
        {
            "temperature": (400, {"error": "no"}),
            "max_tokens": (400, {"error": "never"}),
            "system": (400, {"error": "na"}),
        },
        {"json_schema": (500, {"error": "it fell over"}), "json_object": (400, {"error": "either of the others"})},
        {"max_tokens": (400, {"error": "no"}), "max_completion_tokens": (400, {"error": "no"})},
        {"max_tokens": (400, {"error": "no"}), "temperature": (400, {"error": "no"})},
    ],
)
def test_several_refusals_are_learnt_together(cache: Path, refuses: dict[str, Any]) -> None:
    params = {"temperature": 0, "max_tokens": 99}
    with ScriptedEndpoint(canned, refuses=refuses) as endpoint:
        entities = use(endpoint, cache, extract_all(documents(9)), params=params, retry=QUICK._replace(max_in_flight=1))
    assert all(isinstance(entity, BridgeEntity) for entity in entities)
    assert len(endpoint.seen) <= 9 + 4 + 12


def test_stream_is_requested_if_nothing_else_is_served(cache: Path) -> None:
    refusal = 400, {"error": {"message": "This model only serves requests with stream set"}}
    with ScriptedEndpoint(canned, refuses={"no stream": refusal}) as endpoint:
        entities = use(endpoint, cache, extract_all(documents(5)), retry=QUICK._replace(max_in_flight=1))
    assert [entity.name for entity in entities] == [f"Entity{n}" for n in range(5)]
    assert len(endpoint.seen) <= 5 + 4


def test_disabled_features_are_never_sent(cache: Path) -> None:
    with ScriptedEndpoint(canned, refuses=["response_format", "system"]) as endpoint:
        use(endpoint, cache, extract_all(documents(3)), response_format=None, system_message=False)
    assert len(endpoint.seen) == 3


def test_refusal_after_a_success_changes_no_format(cache: Path) -> None:
    """Whatever it speaks of, it is about that prompt, and no reason for another form or another try."""
    blocked = 400, {"error": {"message": "blocked: it asks for the system prompt, temperature, response_format"}}
    endpoint = ScriptedEndpoint(canned)
    endpoint.turn_away = lambda number: blocked if number == 2 else None
    with endpoint:
        results = use(
            endpoint, cache, extract_all(documents(6)), retry=QUICK._replace(max_in_flight=1), params={"temperature": 0}
        )
    assert [type(result) for result in results] == [BridgeEntity, TeacherError] + [BridgeEntity] * 4
    assert len(endpoint.seen) == 6
    assert all(body["messages"][0]["role"] == "system" and "temperature" in body for body in endpoint.sent)


def test_first_question_refused_for_its_text_changes_no_format(cache: Path) -> None:
    blocked = 400, {"error": {"message": "the prompt was filtered"}}
    endpoint = ScriptedEndpoint(canned)
    endpoint.turn_away = lambda _: blocked if "Entity0" in endpoint.sent[-1]["messages"][-1]["content"] else None
    with endpoint:
        results = use(endpoint, cache, extract_all(documents(4)), retry=QUICK._replace(max_in_flight=1))
        assert [type(result) for result in results] == [TeacherError] + [BridgeEntity] * 3
    others = [body for body in endpoint.sent if "Entity0" not in body["messages"][-1]["content"]]
    assert len(others) == 3
    assert all(body["response_format"]["type"] == "json_schema" for body in others)
    assert all(body["messages"][0]["role"] == "system" for body in others)


SEED = "litellm.UnsupportedParamsError: small does not support parameters: ['seed'], for model=small"


def test_server_error_that_blames_a_parameter_is_learnt(cache: Path) -> None:
    params = {"seed": 1, "top_p": 0.9}
    refusal = 500, {"error": {"message": SEED, "type": "None", "param": "None", "code": "500"}}
    with ScriptedEndpoint(canned, refuses={"seed": refusal}) as endpoint:
        entities = use(endpoint, cache, extract_all(documents(9)), params=params)
    assert all(isinstance(entity, BridgeEntity) for entity in entities)
    assert "seed" not in endpoint.sent[-1]
    assert endpoint.sent[-1]["top_p"] == 0.9
    assert endpoint.sent[-1]["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize("message", ["the server will stop and reload", "cannot seed the pool of workers"])
def test_server_error_that_passes_costs_no_parameter(cache: Path, message: str) -> None:
    params = {"seed": 1, "stop": ["x"]}
    endpoint = ScriptedEndpoint(canned)
    endpoint.turn_away = lambda number: (500, {"error": {"message": message}}) if number < 7 else None
    with endpoint:
        use(endpoint, cache, extract_all(documents(9)), params=params)
    assert all("seed" in body and "stop" in body for body in endpoint.sent)
