"""What reads each kind of file: miniature valid ones, and all that the toolkit does with them short of a model."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import strategies as st

from fuzz.mutations import damaged_json, damaged_jsonl, damaged_yaml
from llm_teacher import ANSWER, KEY, ROAD, ROMANS, USABLE, completion_of
from miniature import CORPUS, lines, row
from trials import result_of, sources
from utils.config import load_config
from utils.corpus.documents import Corpus
from utils.data.judged import rankable
from utils.data.rows import fill_negatives, pools_of_rows, read_examples
from utils.errors import InputError
from utils.evaluation.run_comparison import Run, compare_runs
from utils.files import ROOT, dumps
from utils.labelling.journal import open_journal
from utils.progress import printable
from utils.report.text import ablation_text
from utils.teachers.endpoint import Scrubber
from utils.teachers.endpoint_errors import EndpointError, status_error
from utils.teachers.parsing import read_extraction, read_verdict
from utils.teachers.registry import configured_endpoint
from utils.teachers.reply_json import InvalidReply
from utils.teachers.transport import read_completion

ENDPOINT = b"""
generator_model: &model small
generation_params: {temperature: 0, max_tokens: 4096, stop: ["a"]}
price_per_million_tokens: {small: {input: 1, output: 2.5}}
openai_setting:
  {api_key: sk-secret-1, base_url: "http://127.0.0.1:1/v1", timeout: 3, response_format: json_object}
seed: 7
retrieval_devices: [0, cpu]
rerank_weight: 0.5
"""
YAML = [(ROOT / "config_lib" / "demo_config.yaml").read_bytes(), ENDPOINT]
CHUNKS = lines(
    {"id": 1, "contents": "A title\nand its text", "doc_id": "a"},
    {"id": 2, "contents": "more", "title": None, "doc_id": "a"},
    {"_id": "3", "text": "of BEIR", "title": ""}, {"_id": "4", "text": " ", "title": "a title alone"},
)  # fmt: skip
CORPORA = [b"".join(CORPUS.read_bytes().splitlines(keepends=True)[:4]), CHUNKS]
ROWS = [
    lines(row("a"), row("b", pos_scores=[0.5], neg_scores=[-0.5]), row("c", neg=["a is so", "d"], pos_grades=[2])),
    lines(row("a", neg=None), row("A ", pos=["x", "y"]), row("b", id=3, type="t")),
]
VERDICT = {
    "valid": True, "reason": "it does", "doc_b_segment": USABLE.contents,
    "sub_questions": [
        {"question": "Who paved the road?", "answer": "Claudius", "document": "A"},
        {"question": "What did Claudius begin?", "answer": "an aqueduct", "document": "B"},
    ],
}  # fmt: skip
STREAM = [
    json.dumps({"choices": [{"index": 0, "delta": {"content": part}, "finish_reason": end}]}).encode()
    for part, end in ((ANSWER[:40], None), (ANSWER[40:], "stop"))
]
ERRORS = [
    {"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key", "param": None, "type": "x"}},
    [{"error": {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED", "details": [{"retryDelay": "34s"}]}}],
    {"detail": [{"loc": ["body", "max_tokens"], "msg": "too large", "type": "value_error"}]}, {"message": "down"},
]  # fmt: skip
ANSWERS = [
    ANSWER,
    json.dumps(VERDICT),
    '{"valid": false, "reason": "no"}',
    f"<think>hm {{</think>```json\n{ANSWER}\n```",
]
BODIES = [completion_of(content=answer) for answer in ANSWERS] + [json.dumps(error).encode() for error in ERRORS]


def read_yaml(path: Path) -> None:
    """Load a configuration, and all settings in it that need no model."""
    config = load_config(path)
    for ask in (
        lambda: config.corpus, lambda: config.encoder_path, lambda: config.index_path, lambda: config.pooling,
        lambda: config.devices("retrieval_devices"), lambda: config.devices("reranker_devices"),
        lambda: configured_endpoint(config, "entity_extractor_model"),
    ):  # fmt: skip
        try:
            ask()
        except InputError as error:
            told(error, path)


def read_corpus(path: Path) -> None:
    """Open a corpus, and read, look up and sample its documents."""
    path.with_name(f"{path.name}.offsets").unlink(missing_ok=True)
    corpus = Corpus(path)
    found = [corpus.get(document.id) for document in corpus]
    assert len(found) == len(corpus)
    for document in corpus.sample(random.Random(1)):
        document.text.encode()


def read_rows(path: Path) -> None:
    """Read rows, fill them, and make pools of them."""
    examples = read_examples([path], warn=lambda _: None)
    rankable(pools_of_rows(fill_negatives(examples, 2, random.Random(1))))


def read_journal(path: Path) -> None:
    """Open a journal to go on with it, and use all its sources."""
    with open_journal(path, {"seed": 1}) as journal:
        for source in journal.sources:
            use(source)


def use(source: Any) -> None:
    """Ask a judged source all that a run asks of it."""
    assert all(trial.failed or trial.success in (True, False) for trial in source.trials.values())
    assert source.outcome
    assert source.unanswered in (True, False)
    str(source.complaint)
    json.dumps(source.to_json(), ensure_ascii=False).encode()


def read_reply(path: Path) -> None:
    """Read a body as a completion, its text as an extraction and a verdict, and the body as an error."""
    body, scrub = path.read_bytes(), Scrubber([KEY])
    found: Any = read_completion(body, 100, scrub)
    for status in (200, 400, 429, 500):
        error = status_error(
            status, {"retry-after": body[:20].decode("latin-1")}, body.decode("utf-8", "replace"), scrub
        )
        shown(str(error))
    if isinstance(found, EndpointError):
        shown(str(found))
        return
    assert found.reply.tokens_in >= 0
    assert found.reply.tokens_out >= 0
    for read in (
        lambda: read_extraction(found.reply, ROMANS, 5), lambda: read_verdict(found.reply, ROAD, USABLE),
    ):  # fmt: skip
        try:
            json.dumps(read(), ensure_ascii=False).encode()
        except InvalidReply as error:
            shown(error.explain(found.reply))


def read_result(path: Path) -> None:
    """Compare a result file with itself, and show what that says."""
    ablation_text(compare_runs([Run.read(str(path))] * 2)).encode()


def shown(text: str) -> None:
    """Fail unless a text is one line of moderate length; control characters is escaped when it is shown."""
    assert "\n" not in text, ascii(text)
    assert len(text) < 3000, len(text)
    printable(text).encode()


def told(error: Exception, path: Path) -> None:
    """Fail unless an error names the file, or the section of it; scripts show it in one line."""
    assert re.search(rf"{path.name}|{path.stem}|_setting|generation_params", str(error)), str(error)
    printable(str(error)).encode()


def _journals() -> list[bytes]:
    """Return a journal with checksums, and one of before, whose damaged rows are read for what they say."""
    rows = sources(diverse=[1, 2, None, "error", 1] * 2)
    with TemporaryDirectory() as folder:
        path = Path(folder, "seed.jsonl")
        with open_journal(path, {"seed": 1}) as journal:
            for place, source in enumerate(rows):
                journal.add(place, source)
            journal.note("left_out", {"x": "y"})
        sealed = path.read_bytes()
    before = [{"version": 2, "settings": {"seed": 1}}, *(source.to_json() for source in rows)]
    return [sealed, "".join(f"{dumps(row)}\n" for row in before).encode()]


_ABLATION = result_of(sources(base=[2, None, "error"], a=[1, 1, 2]), ["base", "a"]).to_json()
RESULTS = [json.dumps(_ABLATION).encode(), (ROOT / "tests/fixtures/ablation_v1.json").read_bytes()]


def _events(lines: bytes) -> bytes:
    return b"".join(b"data: " + line + b"\n\n" for line in lines.splitlines())


REPLIES = st.one_of(
    damaged_json(BODIES),
    damaged_json([answer.encode() for answer in ANSWERS[:3]]).map(
        lambda raw: completion_of(content=raw.decode("latin-1"))
    ),
    damaged_jsonl([b"\n".join(STREAM)]).map(_events),
)
# By kind: what is drawn, what reads it, and the file's name.
KINDS: dict[str, tuple[st.SearchStrategy[bytes], Callable[[Path], None], str]] = {
    "configuration": (damaged_yaml(YAML), read_yaml, "config.yaml"),
    "corpus": (damaged_jsonl(CORPORA), read_corpus, "corpus.jsonl"),
    "rows": (damaged_jsonl(ROWS), read_rows, "rows.jsonl"),
    "journal": (damaged_jsonl(_journals()), read_journal, "journal.jsonl"),
    "reply": (REPLIES, read_reply, "reply.json"),
    "result": (damaged_json(RESULTS), read_result, "result.json"),
}
