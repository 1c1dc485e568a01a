"""A scripted chat endpoint: a real HTTP server on loopback that reads the documents in the prompt, and can fail.

In a test:

    with ScriptedEndpoint(answer) as endpoint:
        ... endpoint.url, endpoint.seen

As a process of its own, for benchmarks and for tests that kill the client (prints its address, serves until killed):

    python tests/endpoint.py --latency 0.5 --answer package.module:function
    PYTHONPATH=train_reranker python tests/endpoint.py --latency 0.5 --offline corpus.jsonl
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib
import json
import random
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

Messages = list[dict[str, str]]
Answer = Callable[[Messages, str], Mapping[str, Any] | str]  # a text is the content as it stands

EXTRACTION, JUDGEMENT = "bridge_entity", "verdict"
NOTE = "\n\nEarlier answers to this could not be used:\n"  # what another attempt adds to its question

TRANSPORT_FAULTS = ("429", "500", "hang", "reset", "cut_body")
BROKEN_REPLIES = ("cut_json", "off_schema", "empty")
WRAPPED_REPLIES = ("prose", "fence", "think")


class Prompt(NamedTuple):
    """The texts of a prompt: one document to extract from, or an entity with A and B to judge."""

    kind: str
    title: str
    text: str
    entity: str = ""
    entity_type: str = ""
    segment: str = ""


def read_prompt(messages: Messages) -> Prompt:
    """Return the texts that stand between the tags of the last message."""
    content = messages[-1]["content"]

    def between(tag: str, text: str) -> str:
        # From the last on, since the instructions, which may stand before the texts, name the tags, too.
        return text.rpartition(f"<{tag}>")[2].split(f"</{tag}>", 1)[0]

    def document(tag: str) -> tuple[str, str]:
        body = between(tag, content)
        return between("title", body), between("text", body)[1:-1]

    if "<document_b>" not in content:
        return Prompt(EXTRACTION, *document("document"))
    entity = between("entity", content)
    segment = between("document_a", content)[1:-1]
    return Prompt(JUDGEMENT, *document("document_b"), between("name", entity), between("type", entity), segment)


class Request(NamedTuple):
    """One logged request. ``question`` is the same for all attempts of one question; ``nth`` counts them from 0."""

    body: str
    question: str
    nth: int
    key: str
    model: str
    schema_name: str
    arrived: float
    fault: str | None
    note: bool


Failure = Callable[[str, int], str | None]  # (hash of the question, number of earlier attempts) -> fault


def storm(
    rate: float,
    kinds: Collection[str] = (*TRANSPORT_FAULTS, *BROKEN_REPLIES, *WRAPPED_REPLIES),
    *,
    seed: int = 0,
    most: int = 2,
) -> Failure:
    """Return faults that hit ``rate`` of all requests, in any order, and one question at most ``most`` times."""
    names = sorted(kinds)

    def fault(question: str, nth: int) -> str | None:
        draw = hashlib.sha256(f"{seed} {question} {nth}".encode()).digest()
        hit = int.from_bytes(draw[:8], "big") / 2**64 < rate
        return names[draw[8] % len(names)] if hit and nth < most else None

    return fault


def never() -> bool:
    """Hold nothing back."""
    return False


class ScriptedEndpoint:
    """Serves ``/v1/chat/completions`` and ``/v1/models`` on loopback, from a thread of its own.

    Args:
        answer: from the messages and the schema's name to the reply's JSON.
        fault: which fault hits which request (see :func:`storm`).
        latency: seconds per reply.
        retry_after: the header of a 429; None for none.
        hang: seconds for which a hanging request is held.
        refuses: what is refused, by name or with its own (status, body): any parameter, ``json_schema`` or
            ``json_object`` for that format alone, ``system`` for the role, ``no stream`` for a request without one.
        keys: accepted API keys; None accepts all.
        spent_keys: keys out of quota.
        models: known models; None knows all.
        usage: whether replies report their tokens.
    """

    def __init__(
        self,
        answer: Answer,
        *,
        fault: Failure | None = None,
        latency: float = 0.0,
        retry_after: str | None = "0.05",
        hang: float = 60.0,
        refuses: Collection[str] | Mapping[str, tuple[int, Any]] = (),
        keys: Collection[str] | None = None,
        spent_keys: Collection[str] = (),
        models: Collection[str] | None = None,
        usage: bool = True,
        port: int = 0,
    ) -> None:
        self.answer, self.fault = answer, fault
        self.latency, self.retry_after, self.hang = latency, retry_after, hang
        self.refuses, self.keys, self.spent_keys, self.models = refuses, keys, spent_keys, models
        self.usage, self.port = usage, port
        self.body: Callable[[bytes], bytes] = lambda body: body  # what becomes of the body of a good reply
        self.headers: dict[str, str] = {}  # of a good reply
        self.turn_away: Callable[[int], tuple[Any, ...] | None] = lambda number: None  # number of the request, from 1
        self.hold: Callable[[], bool] = never  # while it is true, no reply is given
        self.seen: list[Request] = []
        self.sent: list[dict[str, Any]] = []  # the bodies of all requests
        self.paths: list[str] = []  # of all requests, with their queries
        self.connections = self.in_flight = self.most_in_flight = 0
        self._asked: Counter[str] = Counter()

    @property
    def url(self) -> str:
        """The base URL to put into a configuration."""
        return f"http://127.0.0.1:{self.port}/v1"

    def repeated(self) -> list[Request]:
        """Return the requests whose very bytes were seen before."""
        seen: set[str] = set()
        return [request for request in self.seen if request.body in seen or seen.add(request.body)]

    def __enter__(self) -> ScriptedEndpoint:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve(ready.set)), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def serve(self, ready: Callable[[], None]) -> None:
        """Serve until stopped; ``ready`` is called once :attr:`port` is known."""
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._handlers: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        ready()
        await self._stop.wait()
        server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)
        self.connections += 1
        try:
            while await self._serve_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        except asyncio.CancelledError:
            pass  # stopped; asyncio would log it
        finally:
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request, and return whether the connection lives on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.paths.append(first.split(" ")[1])
        path = self.paths[-1].partition("?")[0]
        if path == "/seen":  # for those in another process
            _write(writer, 200, [request._asdict() | {"key": ""} for request in self.seen])
        elif path == "/v1/models":
            _write(writer, 200, {"object": "list", "data": [{"id": name} for name in self.models or ("any",)]})
        elif not path.endswith("/chat/completions"):
            _write(writer, 404, {"error": {"message": f"no such path: {path}"}})
        else:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            try:
                return await self._complete(headers, body, writer)
            except (KeyError, ValueError, IndexError) as error:  # a prompt that the script cannot read: say so
                _write(writer, 400, {"error": {"message": f"scripted endpoint: {error!r}"}})
                return True
            finally:
                self.in_flight -= 1
        return True

    async def _complete(self, headers: Mapping[str, str], body: bytes, writer: asyncio.StreamWriter) -> bool:
        payload = json.loads(body)
        self.sent.append(payload)
        key = headers.get("api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        refusal = self._refusal(payload, key)
        request = self._log(payload, body, key, None if refusal else self.fault)
        if refusal:
            _write(writer, *refusal)  # a third is headers
            return True
        if request.fault == "hang":
            await asyncio.sleep(self.hang)
            return False
        if self.latency:
            await asyncio.sleep(self.latency)
        while self.hold():
            await asyncio.sleep(0.001)
        return self._reply(payload, request, writer)

    def _log(self, payload: Mapping[str, Any], body: bytes, key: str, fault: Failure | None) -> Request:
        prompt, note = read_prompt(payload["messages"]), NOTE in payload["messages"][-1]["content"]
        question = hashlib.sha256(f"{payload['model']} {prompt}".encode()).hexdigest()
        nth = self._asked[question]
        kind = fault(question, nth) if fault else None
        self._asked[question] += fault is not None
        whole = hashlib.sha256(body).hexdigest()
        request = Request(whole, question, nth, key, payload["model"], prompt.kind, time.monotonic(), kind, note)
        self.seen.append(request)
        return request

    def _refusal(self, payload: Mapping[str, Any], key: str) -> tuple[Any, ...] | None:
        """Return the status and body of a request that is refused, or None."""
        if self.keys is not None and key not in self.keys:
            message = f"Incorrect API key provided: {key}. The masked one is {key[:6]}*****{key[-4:]}."
            return 401, {"error": {"message": message, "code": "invalid_api_key"}}
        if key in self.spent_keys:
            message = f"You exceeded your current quota ({key}), please check your plan."
            return 429, {"error": {"message": message, "code": "insufficient_quota"}}
        if self.models is not None and payload["model"] not in self.models:
            message = f"The model `{payload['model']}` does not exist or you do not have access to it."
            return 404, {"error": {"message": message, "code": "model_not_found"}}
        for name in self.refuses:
            format_, role = payload.get("response_format", {}).get("type"), payload["messages"][0]["role"]
            if name in (*payload, format_, role) or (name == "no stream" and not payload.get("stream")):
                return self.refuses[name] if isinstance(self.refuses, Mapping) else (400, _unsupported(name))
        return self.turn_away(len(self.sent))

    def _reply(self, payload: Mapping[str, Any], request: Request, writer: asyncio.StreamWriter) -> bool:
        """Write the reply, with its fault, and return whether the connection lives on."""
        if request.fault == "429":
            header = {} if self.retry_after is None else {"Retry-After": self.retry_after}
            _write(writer, 429, {"error": {"message": "Slow down.", "code": "rate_limit_exceeded"}}, header)
            return True
        if request.fault == "403":
            _write(writer, 403, {"error": {"message": f"flagged ({request.key})"}})
            return True
        if request.fault == "500":
            _write(writer, 500, {"error": {"message": f"internal error ({request.key})"}})
            return True
        if request.fault == "html":
            writer.write(_head(200, 6) + b"<html>")
            return True
        if request.fault == "reset":
            _reset(writer)
            return False
        content = self.answer(payload["messages"], request.schema_name)
        content = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        completion = self._completion(payload, _spoil(content, request.fault))
        if payload.get("stream"):
            writer.write(_head(200, len(body := _stream(content))) + body)
            return True
        if request.fault == "length":
            completion["choices"][0]["finish_reason"] = "length"
        if request.fault == "cut_body":
            raw = json.dumps(completion).encode()
            writer.write(_head(200, len(raw)) + raw[: len(raw) // 2])
            return False
        raw = self.body(json.dumps(completion).encode())
        writer.write(_head(200, len(raw), self.headers) + raw)
        return True

    def _completion(self, payload: Mapping[str, Any], content: str) -> dict[str, Any]:
        tokens = sum(len(message["content"]) for message in payload["messages"]) // 4
        usage = {"prompt_tokens": tokens, "completion_tokens": len(content) // 4}
        message = {"role": "assistant", "content": content}
        return {
            "id": "chatcmpl-scripted",
            "object": "chat.completion",
            "model": payload["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            **({"usage": usage} if self.usage else {}),
        }


def _spoil(content: str, fault: str | None) -> str:
    """Return a reply's content with a fault."""
    spoiled = {
        "cut_json": content[: len(content) // 2],
        "off_schema": json.dumps({"answer": content.split(":")}),
        "empty": "",
        "prose": f"Sure {{as asked}}! Here it is:\n\n{content}\n\nTell me if {{you}} need more.",
        "fence": f"```json\n{content}\n```",
        "think": f'<think>Could it be {{"entity": "no"}}? Rather not.</think>\n{content}',
        "open_think": f"<think>\nLet me see. It is this:\n{content}",
    }
    return spoiled.get(fault or "", content)


def _stream(content: str) -> bytes:
    """Return a reply as server-sent events, a few characters each."""
    pieces = [{"choices": [{"index": 0, "delta": {"content": content[i : i + 9]}}]} for i in range(0, len(content), 9)]
    ends: list[Any] = [
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": None},
    ]
    return "".join(f"data: {json.dumps(piece)}\n\n" for piece in [*pieces, *ends]).encode() + b"data: [DONE]\n\n"


def _unsupported(name: str) -> dict[str, Any]:
    use = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
    if name == "json_schema":
        return {"error": {"message": "response_format json_schema is unavailable for this model"}}
    if name == "system":
        return {"error": {"message": "System role not supported", "type": "BadRequestError"}}
    message = f"Unsupported parameter: '{name}' is not supported with this model.{use}"
    return {"error": {"message": message, "code": "unsupported_parameter", "param": name}}


def _head(status: int, length: int, headers: Mapping[str, str] | None = None) -> bytes:
    headers = {"Content-Type": "application/json", "Content-Length": length, **(headers or {})}
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _write(writer: asyncio.StreamWriter, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    writer.write(_head(status, len(body), headers) + body)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Reset a connection, so that the client gets "connection reset by peer"."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def canned(messages: Messages, schema_name: str) -> Mapping[str, Any]:
    """Answer by one rule: the entity is the text's last word, and B is valid if its text has it."""
    prompt = read_prompt(messages)
    if schema_name == EXTRACTION:
        name, segment = re.findall(r"\w+", prompt.text)[-1], " ".join(prompt.text.split()[-30:])
        query = f"What else is known of {name} beyond what is told of it in other places"
        return {"entity": name, "type": "thing", "segment": segment, "query": query}
    valid = prompt.entity in prompt.text
    return {
        "valid": valid,
        "reason": "it is there" if valid else "it is not there",
        "bridge_connection": "",
        "doc_b_segment": " ".join(prompt.text.split()[:30]) if valid else "",
        "reasoning_path": "",
        "sub_questions": hops(prompt) if valid else [],
    }


def offline(corpus: Path) -> Answer:
    """Answer as the offline teacher of a corpus would."""
    from utils.corpus.documents import Corpus
    from utils.schema import BridgeEntity, Document, Outcome
    from utils.teachers.offline import OfflineTeacher

    teacher = OfflineTeacher(Corpus(corpus))

    def answer(messages: Messages, schema_name: str) -> Mapping[str, Any]:
        prompt = read_prompt(messages)
        document = Document("", prompt.title, prompt.text)
        if schema_name == EXTRACTION:
            found = _at_once(teacher.extract(document)) or BridgeEntity("", "", "", "")
            return {"entity": found.name, **{key: getattr(found, key) for key in ("type", "segment", "query")}}
        entity = BridgeEntity(prompt.entity, prompt.entity_type, prompt.segment, "")
        verdict = _at_once(teacher.judge(entity, document))
        return {
            "valid": verdict.outcome is Outcome.USABLE,
            "reason": verdict.reason,
            **dict.fromkeys(("bridge_connection", "reasoning_path"), ""),
            "doc_b_segment": verdict.doc_b_segment,
            "sub_questions": [hop._asdict() for hop in verdict.sub_questions],
        }

    return answer


def copied(text: str) -> str:
    """Return a text as models copy it: other quotes and dashes, a slip, something left out."""
    words = text.replace('"', "“").replace("'", "’").replace("-", "—").split()
    place = max(range(len(words)), key=lambda i: len(words[i]))
    words[place] = words[place][:2] + words[place][3:]
    return " ".join([*words[:9], "…", *words[11:]] if len(words) > 20 else words)


def sloppy(answer: Answer) -> Answer:
    """Answer as another does, but copy as models do."""

    def reply(messages: Messages, schema_name: str) -> Mapping[str, Any]:
        fields = answer(messages, schema_name)
        assert isinstance(fields, Mapping)
        return {key: copied(value) if key.endswith("segment") and value else value for key, value in fields.items()}

    return reply


INVENTED = " ".join(["The treaty was signed by nine penguins in a submarine while a band played marches."] * 3)

# What a judge that makes things up replies instead, by what it is counted as; its verdict is always "valid".
LIES: dict[str, Callable[[Prompt], dict[str, Any]]] = {
    "segment_not_in_source": lambda prompt: {"segment": INVENTED},
    "entity_not_in_candidate": lambda prompt: {},  # obeys a document that says so
    "segment_not_in_candidate": lambda prompt: {"doc_b_segment": INVENTED},
    "answer_not_entity": lambda prompt: {"sub_questions": hops(prompt, answer="forty-two")},
    "question_names_entity": lambda prompt: {"sub_questions": hops(prompt, first=f"Who is {prompt.entity}?")},
    "question_lacks_entity": lambda prompt: {"sub_questions": hops(prompt, second="What else is told?")},
}


def hops(prompt: Prompt, first: str = "Which one is it?", answer: str = "", second: str = "") -> list[dict[str, str]]:
    """Return the two questions of a verdict, honest but for what is given."""
    second = second or f"What is told of {prompt.entity}?"
    return [
        {"question": first, "answer": answer or prompt.entity, "document": "A"},
        {"question": second, "answer": prompt.text[:40], "document": "B"},
    ]


def lying(lie: str, answer: Answer = canned) -> Answer:
    """Answer as another does, but tell one of the ``LIES``, and call every candidate valid."""

    def reply(messages: Messages, schema_name: str) -> Mapping[str, Any]:
        fields, prompt = answer(messages, schema_name), read_prompt(messages)
        assert isinstance(fields, Mapping)
        told = LIES[lie](prompt)
        if schema_name == EXTRACTION:
            return {**fields, **told} if "segment" in told else fields
        shown = " ".join(prompt.text.split()[:30])
        return {**fields, "valid": True, "doc_b_segment": shown, "sub_questions": hops(prompt), **told}

    return reply


def _at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits for something")


def free_port() -> int:
    """Return a free port below those that systems hand out, which nobody else is given before it is used."""
    # Trainings seed the global generator: two suites side by side would draw the same port.
    for port in random.SystemRandom().sample(range(10_000, 30_000), 100):
        with socket.socket() as trial, suppress(OSError):
            trial.bind(("127.0.0.1", port))
            return port
    raise AssertionError("100 ports are in use")


def main(argv: list[str] | None = None) -> None:
    """Serve until killed; the address is the first line on stdout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 takes any that is free")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that every reply takes")
    parser.add_argument("--answer", default="endpoint:canned", metavar="MODULE:FUNCTION", help="what replies")
    parser.add_argument("--offline", type=Path, metavar="CORPUS", help="reply as this corpus's offline teacher")
    parser.add_argument("--storm", type=float, default=0.0, metavar="RATE", help="share of requests that fail")
    args = parser.parse_args(argv)
    module, _, function = args.answer.partition(":")
    answer = offline(args.offline) if args.offline else getattr(importlib.import_module(module), function)
    fault = storm(args.storm) if args.storm else None
    endpoint = ScriptedEndpoint(answer, latency=args.latency, port=args.port, fault=fault)
    asyncio.run(endpoint.serve(lambda: print(endpoint.url, flush=True)))


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1] / "train_reranker"))
    sys.exit(main())
