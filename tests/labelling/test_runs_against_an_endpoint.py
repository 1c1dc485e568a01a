"""Whole runs of generator and ablation against endpoints: storms, kills, limits, and what every run leaves behind."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import random
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pytest
import yaml

import contrastive_data_generator
import rerank_ablation_test
from endpoint import EXTRACTION, JUDGEMENT, Answer, Failure, ScriptedEndpoint, free_port, never, offline, storm
from kills import run_script
from miniature import save_tiny_bert, write_corpus
from utils import cli
from utils.corpus.documents import Corpus
from utils.files import read_jsonl
from utils.retrieval.arms import ARMS
from utils.schema import Outcome, Verdict
from utils.teachers import reply_cache
from utils.teachers.language_model import LLMTeacher
from utils.teachers.rate_limit import RetryPolicy
from utils.teachers.words import content_words, sentences

KEY = "sk-proj-Wm4tRb7YzQe9LkNs"
SOURCES = 200
EVERY = ("--num_examples", "1000", "--max_doc_candidates", "4")
ALL = (*EVERY, "--max_attempts", str(SOURCES))
SOME = (*EVERY, "--max_attempts", "48")


class World(NamedTuple):
    """A corpus, its encoder and index, and what the offline teacher says of it."""

    folder: Path
    corpus: Path
    answer: Answer
    examples: bytes  # of ALL, taught by the offline teacher itself

    def config(self, path: Path, url: str, **changes: Any) -> Path:
        """Write a configuration for an endpoint, whose key is in the environment; a change to None removes a key."""
        values = {
            "corpus_path": str(self.corpus),
            "retrieval_method": "tiny",
            "model2path": {"tiny": str(self.folder / "encoder")},
            "method2index": {"tiny": str(self.folder / "tiny.index")},
            "generator_model": "small",
            "openai_setting": {"api_key": "${SCRIPTED_KEY}", "base_url": url, "timeout": 20},
            "seed": 7,
        }
        path.write_text(yaml.safe_dump({k: v for k, v in (values | changes).items() if v is not None}))
        return path


class Ended(NamedTuple):
    """How a run ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that it ended with."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in self.err
        return line


Call = Callable[..., Ended]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a folder of the test: what has no name of its own is written to the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    corpus = write_corpus(folder / "corpus.jsonl", 260)
    save_tiny_bert(folder / "encoder", head=False)
    made = World(folder, corpus, offline(corpus), b"")
    config = made.config(folder / "offline.yaml", "", generator_model="offline")
    contrastive_data_generator.main(["--config", str(config), *ALL, *to(folder, "offline")])
    return made._replace(examples=(folder / "offline.jsonl").read_bytes())


@pytest.fixture
def call(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Call]:
    """Call a script's main; in the end, search all that was written, logged and printed for the key."""
    monkeypatch.setenv("SCRIPTED_KEY", KEY)
    said: list[str] = []

    def call(main: Callable[[list[str]], None], *argv: object) -> Ended:
        arguments = [str(argument) for argument in argv]
        monkeypatch.setattr("sys.argv", ["script.py", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.run(main, arguments)
        said.extend(capfd.readouterr())
        return Ended(end.value.code or 0, *said[-2:])  # type: ignore[arg-type]

    with caplog.at_level(logging.INFO):
        yield call
    said += [caplog.text, *capfd.readouterr()]
    said += [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    parts = [KEY[start : start + 6] for start in range(8, len(KEY) - 5)]  # 6 characters of it are too many
    assert not any(part in text for part in parts for text in said)


generate: Any = contrastive_data_generator.main
ablate: Any = rerank_ablation_test.main


def to(folder: Path, name: str) -> list[str]:
    """Return the flags that name a run's files."""
    return ["--output_dir", str(folder), "--output_file", f"{name}.jsonl"]


def provenance(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return a run's rows, each with its arm's candidates and verdicts, without the header."""
    rows = [row for _, row in read_jsonl(folder / f"{name}.provenance.jsonl")][1:]
    return [row | row["arms"].get("diverse", {"retrieved": [], "verdicts": []}) for row in rows]


def summary(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.summary.json").read_text())["summary"]


def final_files(folder: Path, name: str) -> tuple[bytes, bytes]:
    """Return the bytes of examples and provenance."""
    return (folder / f"{name}.jsonl").read_bytes(), (folder / f"{name}.provenance.jsonl").read_bytes()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten what is waited after a fault."""
    monkeypatch.setattr("utils.teachers.client.RetryPolicy", partial(RetryPolicy, first_wait=0.05, longest_wait=0.5))


# Storms


def test_storm_leaves_the_same_examples(world: World, tmp_path: Path, call: Call, quick: None) -> None:
    with ScriptedEndpoint(world.answer, fault=storm(0.3)) as endpoint:
        setting = {"api_key": "${SCRIPTED_KEY}", "base_url": endpoint.url, "timeout": 2}
        config = world.config(tmp_path / "config.yaml", endpoint.url, openai_setting=setting)
        ended = call(generate, "--config", config, *ALL, *to(tmp_path, "storm"), "--concurrency", 32)
        faults = Counter(request.fault for request in endpoint.seen)
    assert ended.code == 0
    assert len(faults) == 12  # every kind, and none
    assert 0.25 < 1 - faults[None] / faults.total() < 0.35
    assert len(provenance(tmp_path, "storm")) == SOURCES
    assert (tmp_path / "storm.jsonl").read_bytes() == world.examples
    made = summary(tmp_path, "storm")
    assert made["failures"] == {}
    assert "error" not in made["verdicts"]
    assert set(made["retries"]) >= {"rate_limit", "server_error", "timeout", "connection", "invalid_reply"}


def stubborn(kind: str, share: float) -> Failure:
    """A storm in which a share of the questions is never answered."""
    passing = storm(0.2)

    def fault(question: str, nth: int) -> str | None:
        return kind if int(question[:8], 16) / 2**32 < share else passing(question, nth)

    return fault


def is_usable(segment: str, name: str, text: str) -> bool:
    """Say of a candidate what the offline teacher's rule says, by hand."""
    known = content_words(segment) | content_words(name)
    return any(name in sentence and len(content_words(sentence) - known) >= 5 for sentence in sentences(text))


@pytest.mark.parametrize("kind", ["off_schema", "500"])
def test_what_stays_broken_is_an_error_and_no_evidence(
    world: World, tmp_path: Path, call: Call, quick: None, kind: str
) -> None:
    with ScriptedEndpoint(world.answer, fault=stubborn(kind, 0.15)) as endpoint:
        setting = {"api_key": "${SCRIPTED_KEY}", "base_url": endpoint.url, "timeout": 2}
        config = world.config(tmp_path / "config.yaml", endpoint.url, openai_setting=setting)
        cache = ("--reply_cache", tmp_path / "cache", "--concurrency", 16)
        assert call(generate, "--config", config, *SOME, *to(tmp_path, "run"), *cache).code == 0
        arguments = ("--config", config, "--single", "diverse", "--num", 40, "--candidates", 4)
        assert call(ablate, *arguments, *cache, "--output_file", tmp_path / "ablation.json").code == 0
    corpus = Corpus(world.corpus)
    rows = provenance(tmp_path, "run")
    verdicts = [
        (verdict["outcome"], is_usable(row["entity"]["segment"], row["entity"]["name"], corpus.get(document).text))
        for row in rows
        for document, verdict in zip(row["retrieved"], row["verdicts"], strict=False)
    ]
    count = Counter(verdicts)
    assert not count["usable", False]
    assert not count["unusable", True]
    assert min(count["error", True], count["error", False]) > 0
    assert any(row["error"] and not row["verdicts"] for row in rows)  # an extraction that stays broken
    unusable = {corpus.get(d).text for row in rows for d in judged(row, "unusable")}
    errors = {corpus.get(d).text for row in rows for d in judged(row, "error")} - unusable
    negatives = {text for _, example in read_jsonl(tmp_path / "run.jsonl") for text in example["neg"]}
    assert negatives <= unusable
    assert not negatives & errors
    check_ablation(json.loads((tmp_path / "ablation.json").read_text()))


def judged(row: Mapping[str, Any], outcome: str) -> list[str]:
    """Return the ids of a row's candidates of an outcome."""
    pairs = zip(row["retrieved"], row["verdicts"], strict=False)
    return [document for document, verdict in pairs if verdict["outcome"] == outcome]


def check_ablation(ablation: Mapping[str, Any]) -> None:
    """A trial with an ERROR has no attempts, and none of its candidates counts in the table."""
    trials = [source["arms"]["diverse"] for source in ablation["sources"] if source["arms"]]
    failed = [trial for trial in trials if any(v["outcome"] == "error" for v in trial["verdicts"])]
    ended = [trial for trial in trials if trial not in failed]
    assert failed
    assert all(trial["attempts"] is trial["success"] is None for trial in failed)
    assert any(source["error"] for source in ablation["sources"])
    (row,) = ablation["table"]
    assert (row["sources"], row["errors"]) == (len(ended), len(failed))
    assert row["mean_attempts"] == pytest.approx(fmean(trial["attempts"] for trial in ended if trial["success"]))
    assert row["mean_judged"] == pytest.approx(fmean(len(trial["verdicts"]) for trial in ended))


# Any concurrency, and what is cached


def test_same_bytes_at_any_concurrency_and_nothing_is_paid_twice(world: World, tmp_path: Path, call: Call) -> None:
    with ScriptedEndpoint(world.answer) as endpoint:
        config = world.config(tmp_path / "config.yaml", endpoint.url)
        made = set()
        for concurrency in (1, 8, 64):
            name = f"at{concurrency}"
            cache = ("--concurrency", concurrency, "--reply_cache", tmp_path / name)
            # After the first few replies, more are given only once as many are asked for as may be.
            endpoint.most_in_flight, first = 0, len(endpoint.seen) + 4
            endpoint.hold = lambda c=concurrency, n=first: endpoint.most_in_flight < c and len(endpoint.seen) > n
            assert call(generate, "--config", config, *ALL, *to(tmp_path, name), *cache).code == 0
            made.add(final_files(tmp_path, name))
            assert endpoint.most_in_flight == concurrency
        ((examples, _),) = made
        assert examples == world.examples

        calls = len(endpoint.seen)
        for again in ([*to(tmp_path, "at8"), "--overwrite"], to(tmp_path, "other")):
            cache = ("--reply_cache", tmp_path / "at8", "--concurrency", 8)
            assert call(generate, "--config", config, *ALL, *again, *cache).code == 0
            assert final_files(tmp_path, again[3].removesuffix(".jsonl")) in made
        ablation = ("--config", config, "--single", "diverse", "--num", 150, "--candidates", 4)
        assert call(ablate, *ablation, *cache, "--output_file", tmp_path / "ablation.json").code == 0
        assert len(endpoint.seen) == calls

        arms = ("--config", config, "--single", "standard", "--num", 40, "--candidates", 4)
        assert call(ablate, *arms, *cache, "--output_file", tmp_path / "arms.json").code == 0
        bodies = [request.body for request in endpoint.seen]
        assert len(bodies) > calls  # candidates that only this arm retrieves
        assert not set(bodies[calls:]) & set(bodies[:calls])


# Kills


Start = Callable[..., Any]


@pytest.fixture
def start(call: Call, tmp_path: Path) -> Iterator[Start]:
    """Start a script as a real process, forked from one that has imported what takes seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch", "transformers.models.bert.modeling_bert", "transformers.models.auto.modeling_auto", "faiss", "openai"]
    )
    environment = {"SCRIPTED_KEY": KEY, "HF_HUB_OFFLINE": "1"}
    started = []

    def start(argv: list[str], script: str = "contrastive_data_generator", ignored: int | None = None) -> Any:
        arguments = (script, argv, environment, str(tmp_path / "process.log"), ignored)
        started.append(context.Process(target=run_script, args=arguments, daemon=True))
        started[-1].start()
        return started[-1]

    yield start
    for process in started:
        process.kill()


def wait_until(condition: Callable[[], object], seconds: float = 300) -> None:
    """Return once ``condition`` holds, which it does sooner or later if nothing is wrong."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


FEW_OR_MANY = [5, pytest.param(50, marks=pytest.mark.slow)]


@pytest.mark.parametrize("kills", FEW_OR_MANY)
def test_generator_killed_at_any_moment_resumes_byte_for_byte(
    world: World, tmp_path: Path, call: Call, start: Start, kills: int
) -> None:
    concurrency, rng = 8, random.Random(20)
    with ScriptedEndpoint(world.answer) as endpoint:
        config = world.config(tmp_path / "config.yaml", endpoint.url)
        flags = ["--config", str(config), *ALL, "--concurrency", str(concurrency)]
        command = [*flags, *to(tmp_path, "killed")]
        for kill in range(kills):
            # Some die while they start; most die once they have asked so much, and get no more replies until then.
            more = 0 if kill % 5 == 4 else rng.randrange(1, 70 * 20 // max(kills, 20))
            last = len(endpoint.seen) + more
            endpoint.hold = lambda last=last: len(endpoint.seen) >= last
            process = start(command)
            wait_until(lambda p=process: endpoint.hold() or not p.is_alive())
            time.sleep(rng.random() * (0.02 if more else 2))
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            assert process.exitcode == -signal.SIGKILL
        asked = len(endpoint.seen)
        endpoint.hold = never
        process = start(command)
        process.join()
        assert process.exitcode == 0
        repeated = Counter(request.body for request in endpoint.seen)
        assert 40 < asked < len(endpoint.seen)
        assert len(endpoint.repeated()) <= kills * concurrency
        assert max(repeated.values()) <= kills + 1

        whole = [*flags, *to(tmp_path, "whole"), "--reply_cache", str(tmp_path / "fresh.sqlite")]
        assert call(generate, *whole).code == 0
    assert final_files(tmp_path, "killed") == final_files(tmp_path, "whole")
    assert (tmp_path / "killed.jsonl").read_bytes() == world.examples


def test_a_kill_between_the_last_files_is_resumed(world: World, tmp_path: Path, call: Call) -> None:
    """The examples and a part of the split are there, and the summary says that they are this run's, and not all."""
    with ScriptedEndpoint(world.answer) as endpoint:
        config = world.config(tmp_path / "config.yaml", endpoint.url)
        command = ("--config", config, *SOME, *to(tmp_path, "run"), "--test_fraction", 0.25, "--concurrency", 8)
        assert call(generate, *command).code == 0
        split = [(tmp_path / name).read_bytes() for name in ("train_data.jsonl", "test_data.jsonl")]
        calls = len(endpoint.seen)
        noted = json.loads((tmp_path / "run.summary.json").read_text())
        noted["summary"]["finished"] = False
        (tmp_path / "run.summary.json").write_text(json.dumps(noted))
        (tmp_path / "test_data.jsonl").unlink()
        assert call(generate, *command).code == 0
        assert [(tmp_path / name).read_bytes() for name in ("train_data.jsonl", "test_data.jsonl")] == split
        assert len(endpoint.seen) == calls
        refused = call(generate, *command)
    assert refused.code == 2
    assert "--overwrite" in refused.error


# Signals


@pytest.mark.parametrize(
    "sent",
    [
        [signal.SIGINT],
        [signal.SIGTERM],
        [signal.SIGHUP],
        [signal.SIGTERM, signal.SIGTERM, signal.SIGINT],
        [signal.SIGINT, signal.SIGINT, signal.SIGHUP],
    ],
    ids=lambda sent: "+".join(one.name for one in sent),
)
def test_a_signal_ends_cleanly_and_says_how_to_resume(
    world: World, tmp_path: Path, call: Call, start: Start, sent: list[signal.Signals]
) -> None:
    with ScriptedEndpoint(world.answer) as endpoint:
        setting = {"api_key": "${SCRIPTED_KEY}", "base_url": endpoint.url, "timeout": 300}
        config = world.config(tmp_path / "config.yaml", endpoint.url, openai_setting=setting)
        flags = ["--config", str(config), *SOME, "--concurrency", "32"]
        endpoint.hold = lambda: len(endpoint.seen) > 40
        process = start([*flags, *to(tmp_path, "run")])
        wait_until(lambda: len(endpoint.seen) > 40 and endpoint.in_flight > 8)
        second = call(generate, *flags, *to(tmp_path, "run"))
        log = tmp_path / "process.log"
        for number, one in enumerate(sent):
            os.kill(process.pid, one)
            if number:  # a second one is told, and waits for what is paid for, as the first does
                wait_until(lambda n=number: log.read_text().count("which are paid for; SIGKILL") == n)
            else:
                time.sleep(0.5 * (len(sent) > 1))
        endpoint.hold = never
        process.join(300)
        assert process.exitcode == 130
        assert endpoint.in_flight == 0
        assert count_replies(tmp_path / "replies.sqlite") == len(endpoint.seen)
        assert not summary(tmp_path, "run")["finished"]

        assert call(generate, *command_shown(last_error(tmp_path / "process.log"))).code == 0
        assert not endpoint.repeated()
        assert call(generate, *flags, *to(tmp_path, "whole"), "--reply_cache", tmp_path / "fresh").code == 0
    assert final_files(tmp_path, "run") == final_files(tmp_path, "whole")
    assert second.code == 2
    assert f"another run (process {process.pid}) is writing" in second.error


def test_nohup_keeps_a_run_going(world: World, tmp_path: Path, start: Start, call: Call) -> None:
    with ScriptedEndpoint(world.answer) as endpoint:
        config = world.config(tmp_path / "config.yaml", endpoint.url)
        endpoint.hold = lambda: len(endpoint.seen) > 40
        run = ["--config", str(config), *SOME, *to(tmp_path, "run"), "--concurrency", "16"]
        process = start(run, ignored=signal.SIGHUP)
        wait_until(endpoint.hold)
        os.kill(process.pid, signal.SIGHUP)
        time.sleep(0.2)
        endpoint.hold = never
        process.join(300)
    assert process.exitcode == 0


# Errors, and how to retry them


def shown_by(log: str) -> list[str]:
    """Return the arguments of the command that retries errors."""
    (told,) = [line for line in log.splitlines() if "To retry these alone: " in line]
    _, _, *argv = shlex.split(told.partition("To retry these alone: ")[2])
    return argv


@pytest.mark.parametrize(
    ("main", "kind", "kept"),
    [
        (generate, "off_schema", True),
        (ablate, "off_schema", True),
        pytest.param(generate, "500", True, marks=pytest.mark.slow),
        pytest.param(ablate, "500", True, marks=pytest.mark.slow),
        (generate, "500", False),
        pytest.param(generate, "off_schema", False, marks=pytest.mark.slow),
        pytest.param(ablate, "off_schema", False, marks=pytest.mark.slow),
        pytest.param(ablate, "500", False, marks=pytest.mark.slow),
    ],
)
def test_errors_are_told_and_asked_again_alone(
    world: World, tmp_path: Path, call: Call, quick: None, caplog: Any, kind: str, main: Any, kept: bool
) -> None:
    """With the cache, only what failed is paid for; in any case the files are those of a run without a fault."""
    generates = main is generate
    with ScriptedEndpoint(world.answer, fault=stubborn(kind, 0.1)) as endpoint:
        config = world.config(tmp_path / "config.yaml", endpoint.url)
        flags = ["--config", config, *(SOME if generates else ("--single", "diverse", "--num", 30, "--candidates", 4))]
        flags += ["--concurrency", 8]

        def named(name: str) -> list[Any]:
            cache = ["--reply_cache", tmp_path / f"{name}.sqlite"]
            return [*(to(tmp_path, name) if generates else ["--output_file", tmp_path / f"{name}.json"]), *cache]

        assert call(main, *flags, *named("run")).code == 0
        command = shown_by(caplog.text)
        assert command[-1] == "--retry_errors"
        caplog.clear()
        endpoint.fault = None
        if not kept:
            (tmp_path / "run.sqlite").unlink()
        asked = len(endpoint.seen)
        paid = {request.body for request in endpoint.seen if request.fault is None}
        assert call(main, *command).code == 0
        again = endpoint.seen[asked:]
        assert 0 < len(again) < asked / 2
        assert not kept or not paid & {request.body for request in again}
        assert "To retry" not in caplog.text
        assert call(main, *flags, *named("whole")).code == 0
    if generates:
        assert final_files(tmp_path, "run") == final_files(tmp_path, "whole")
    else:
        assert result_of(tmp_path / "run.json", single=True) == result_of(tmp_path / "whole.json", single=True)
        assert not (tmp_path / "run.journal.jsonl").exists()


def test_a_new_run_does_not_replay_errors_from_the_cache(
    world: World, tmp_path: Path, call: Call, quick: None, caplog: Any
) -> None:
    with ScriptedEndpoint(world.answer, fault=stubborn("off_schema", 0.1)) as endpoint:
        config = world.config(tmp_path / "config.yaml", endpoint.url)
        run = ("--config", config, *SOME, *to(tmp_path, "run"), "--concurrency", 8)
        assert call(generate, *run).code == 0
        assert shown_by(caplog.text)
        caplog.clear()
        endpoint.fault = None
        assert call(generate, *run, "--overwrite").code == 0
    assert "To retry" not in caplog.text
    assert "error" not in summary(tmp_path, "run")["verdicts"]


# A corpus that changes


def changed_in_place(corpus: bytes) -> bytes:
    """Return a corpus of the same lines' lengths in which every text is another."""
    return re.sub(rb"(?<=\"contents\": \")[^\"]{8}", lambda m: m[0].swapcase(), corpus)


def test_no_example_holds_a_new_text_under_an_old_verdict(
    world: World, tmp_path: Path, call: Call, start: Start
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    old = world.corpus.read_bytes()
    corpus.write_bytes(old)
    new = changed_in_place(old)
    assert len(new) == len(old)
    assert new != old
    with ScriptedEndpoint(world.answer) as endpoint:
        config = world.config(
            tmp_path / "config.yaml", endpoint.url, corpus_path=str(corpus),
            method2index={"tiny": str(tmp_path / "tiny.index")},
        )  # fmt: skip
        command = ["--config", str(config), *SOME, *to(tmp_path, "run"), "--concurrency", "8"]
        endpoint.hold = lambda: len(endpoint.seen) > 80
        process = start(command)
        wait_until(lambda: endpoint.hold() and endpoint.in_flight)
        with corpus.open("r+b") as file:
            file.write(new)
        endpoint.hold = never
        process.join(300)
        assert process.exitcode == 2
        assert "is not what was judged, the file has changed during the run" in last_error(tmp_path / "process.log")
        assert not (tmp_path / "run.jsonl").exists()
        refused = call(generate, *command)
        assert "belongs to a run with other settings (corpus: " in refused.error
        with corpus.open("r+b") as file:
            file.write(old)
        assert call(generate, *command).code == 0
        assert call(generate, *command[:-6], *to(tmp_path, "whole"), "--reply_cache", tmp_path / "fresh").code == 0
    assert final_files(tmp_path, "run") == final_files(tmp_path, "whole")


# One cache, several processes, and a full disk


def test_two_processes_on_one_cache_pay_once(world: World, tmp_path: Path, call: Call, start: Start) -> None:
    with ScriptedEndpoint(world.answer, latency=0.02) as endpoint:
        setting = {"api_key": "${SCRIPTED_KEY}", "base_url": endpoint.url, "timeout": 300}
        config = world.config(tmp_path / "config.yaml", endpoint.url, openai_setting=setting)
        flags = ["--config", str(config), *SOME, "--concurrency", "8"]
        endpoint.hold = lambda: len(endpoint.seen) > 20  # until the other waits for the same replies
        processes = [start([*flags, *to(tmp_path, "one")])]
        wait_until(endpoint.hold)
        processes.append(start([*flags, *to(tmp_path, "two")]))
        wait_until((tmp_path / "two.provenance.jsonl").exists)
        endpoint.hold = never
        for process in processes:
            process.join(300)
            assert process.exitcode == 0
        assert not endpoint.repeated()
        assert summary(tmp_path, "one")["calls"] + summary(tmp_path, "two")["calls"] == len(endpoint.seen)
    assert final_files(tmp_path, "one") == final_files(tmp_path, "two")


def test_a_question_s_lock_dies_with_its_process(world: World, tmp_path: Path, start: Start, call: Call) -> None:
    with ScriptedEndpoint(world.answer) as endpoint:
        config = world.config(tmp_path / "config.yaml", endpoint.url)
        flags = ["--config", str(config), *SOME, "--concurrency", "8"]
        endpoint.hold = lambda: len(endpoint.seen) > 20
        one = start([*flags, *to(tmp_path, "one")])
        wait_until(lambda: endpoint.hold() and endpoint.in_flight)
        os.kill(one.pid, signal.SIGKILL)
        one.join()
        endpoint.hold = never
        assert call(generate, *flags, *to(tmp_path, "two")).code == 0
        assert len(endpoint.repeated()) <= 8


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def limited_cache(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SQLite find the disk full once the cache has 24 pages."""
    connect = reply_cache._connect

    def limited(path: Path) -> sqlite3.Connection:
        database = connect(path)
        database.execute("PRAGMA max_page_count = 24")
        return database

    monkeypatch.setattr(reply_cache, "_connect", limited)


@pytest.mark.parametrize("real", [False, True])
def test_a_full_disk_stops_asking_at_once(
    world: World, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, request: Any, real: bool
) -> None:
    place = request.getfixturevalue("small_disk") if real else tmp_path
    concurrency = 8
    with ScriptedEndpoint(world.answer, latency=0.01) as endpoint:
        config = world.config(tmp_path / "config.yaml", endpoint.url)
        names = [*to(tmp_path, "run"), "--reply_cache", place / "replies.sqlite", "--concurrency", concurrency]
        run = ("--config", config, *ALL, *names)
        with monkeypatch.context() as patch:
            if not real:
                limited_cache(place, patch)
            ended = call(generate, *run)
        assert ended.code == 1
        assert "disk is full" in ended.error or "disk I/O" in ended.error
        kept = count_replies(place / "replies.sqlite")
        assert kept > 20
        assert len(endpoint.seen) - kept <= concurrency
        if real:  # there is room again
            subprocess.run(["mount", "-o", "remount,size=9m", place], check=True)
        assert call(generate, *run).code == 0
        assert len(endpoint.repeated()) <= concurrency
    assert (tmp_path / "run.jsonl").read_bytes() == world.examples


def count_replies(cache: Path) -> int:
    with closing(sqlite3.connect(cache)) as database:
        return int(database.execute("SELECT count(*) FROM replies").fetchone()[0])


def test_a_journal_on_a_full_disk_stops_the_run(world: World, tmp_path: Path, call: Call, small_disk: Path) -> None:
    with ScriptedEndpoint(world.answer, latency=0.01) as endpoint:
        config = world.config(tmp_path / "config.yaml", endpoint.url)
        names = [*to(small_disk, "run"), "--reply_cache", tmp_path / "replies.sqlite", "--concurrency", 8]
        run = ("--config", config, *ALL, *names)
        (small_disk / "ballast").write_bytes(b"0" * 300_000)
        ended = call(generate, *run)
        assert ended.code == 1
        assert "No space left on device" in ended.error
        assert count_replies(tmp_path / "replies.sqlite") == len(endpoint.seen) < 600
        (small_disk / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=9m", small_disk], check=True)
        assert call(generate, *run).code == 0
        assert not endpoint.repeated()
    assert (small_disk / "run.jsonl").read_bytes() == world.examples


def command_shown(error: str) -> list[str]:
    """Return the arguments of the command that an error line says to resume with."""
    python, script, *argv = shlex.split(error.partition("To resume: ")[2])
    assert python == "python"
    assert script.endswith(".py")
    return argv


def last_error(log: Path) -> str:
    return [line for line in log.read_text().splitlines() if line.startswith("error: ")][-1]


# The ablation, killed and limited


@pytest.fixture(scope="module")
def swept(world: World) -> list[str]:
    """The flags of an ablation of four arms with a sweep, in a world that has a base reranker."""
    save_tiny_bert(world.folder / "reranker", head=True)
    flags = ["--num", "40", "--candidates", "4", "--ft_model", "absent", "--concurrency", "4"]
    return [*flags, "--sweep_lambdas", "0.5,0.25,0.25", "0.2,0.4,0.4", "--sweep_pool_factor", "1", "2"]


def result_of(path: Path, single: bool = False) -> bytes:
    """Return a result file without what this process measured: its pace and its calls."""
    result = json.loads(path.read_text())
    assert result["finished"]
    assert result.pop("latency_ms").keys() == result["left_out"].keys() ^ ARMS.keys() or single
    assert result.pop("ledger")
    return json.dumps(result).encode()


def bodies(endpoint: ScriptedEndpoint, start: int) -> list[str]:
    return [request.body for request in endpoint.seen[start:]]


@pytest.mark.parametrize("kills", FEW_OR_MANY)
def test_ablation_killed_at_any_moment_resumes_byte_for_byte(
    world: World, swept: list[str], tmp_path: Path, call: Call, start: Start, kills: int
) -> None:
    with ScriptedEndpoint(world.answer) as endpoint:
        config = world.config(tmp_path / "config.yaml", endpoint.url, reranker_path=str(world.folder / "reranker"))
        flags = ["--config", str(config), *swept]
        whole = ("--output_file", tmp_path / "whole.json", "--reply_cache", tmp_path / "whole.sqlite")
        assert call(ablate, *flags, *whole).code == 0
        rows = json.loads((tmp_path / "whole.json").read_text())["sweep"]
        calls, in_sweep = len(endpoint.seen), sum(row["verdicts_asked"] for row in rows)
        assert in_sweep > 10
        assert len(rows) == 8

        command = [*flags, "--output_file", str(tmp_path / "a.json"), "--reply_cache", str(tmp_path / "a.sqlite")]
        before = calls - in_sweep
        # What is asked ahead depends on timing, so that a run may be finished before it comes to the last ones.
        moments: Any = (2, before // 2, before + 3, before + in_sweep // 2, calls - 2)
        if kills > len(moments):
            moments = range(2, calls - 1, max(1, calls // kills))
        killed = 0
        for moment in (*moments, math.inf):
            endpoint.hold = lambda moment=moment: len(set(bodies(endpoint, calls))) >= moment
            process = start(command, "rerank_ablation_test")
            wait_until(lambda p=process: endpoint.hold() or not p.is_alive())
            if process.exitcode is not None:
                break
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            assert process.exitcode == -signal.SIGKILL
            killed += 1
            assert not (tmp_path / "a.json").exists()
            endpoint.hold = never
            wait_until(lambda: endpoint.in_flight == 0)
        assert process.exitcode == 0
        assert killed >= min(kills, len(moments)) - 4
        asked = bodies(endpoint, calls)
        at_a_time = 4 * 3  # sources, and arms with a list of their own
        assert len(asked) - len(set(asked)) <= killed * at_a_time  # only what was on its way is asked again
    assert result_of(tmp_path / "a.json") == result_of(tmp_path / "whole.json")
    assert not (tmp_path / "a.journal.jsonl").exists()


def test_an_interrupted_ablation_writes_what_it_has_and_resumes(
    world: World, swept: list[str], tmp_path: Path, call: Call, start: Start
) -> None:
    with ScriptedEndpoint(world.answer) as endpoint:
        config = world.config(tmp_path / "config.yaml", endpoint.url, reranker_path=str(world.folder / "reranker"))
        flags = ["--config", str(config), *swept]
        names = ["--output_file", str(tmp_path / "a.json"), "--reply_cache", str(tmp_path / "a.sqlite")]
        endpoint.hold = lambda: len(endpoint.seen) > 120
        process = start([*flags, *names], "rerank_ablation_test")
        wait_until(lambda: len(endpoint.seen) > 120)
        second = call(ablate, *flags, *names)
        os.kill(process.pid, signal.SIGINT)
        endpoint.hold = never
        process.join(300)
        assert process.exitcode == 130
        assert 0 < len(json.loads((tmp_path / "a.json").read_text())["sources"]) < 40
        assert (tmp_path / "a.html").exists()
        assert call(ablate, *command_shown(last_error(tmp_path / "process.log"))).code == 0
        assert not endpoint.repeated()
        whole = ("--output_file", tmp_path / "whole.json", "--reply_cache", tmp_path / "whole.sqlite")
        assert call(ablate, *flags, *whole).code == 0
    assert result_of(tmp_path / "a.json") == result_of(tmp_path / "whole.json")
    assert second.code == 2
    assert f"another run (process {process.pid}) is writing" in second.error


def test_a_budget_ends_the_ablation_with_what_it_has_and_the_command_finishes_it(
    world: World, swept: list[str], tmp_path: Path, call: Call
) -> None:
    with ScriptedEndpoint(world.answer) as endpoint:
        config = world.config(tmp_path / "config.yaml", endpoint.url, reranker_path=str(world.folder / "reranker"))
        flags = ["--config", config, *swept]
        names = ["--output_file", tmp_path / "a.json", "--reply_cache", tmp_path / "a.sqlite"]
        ended, compared, sweeps = call(ablate, *flags, *names, "--max_llm_calls", 70), [0], [0]
        while ended.code:
            assert ended.code == 1
            assert "limit" in ended.error
            result = json.loads((tmp_path / "a.json").read_text())
            assert result["ledger"]["calls"] == 70
            assert not result["finished"]
            compared.append(len(result["sources"]))
            sweeps.append(len(result["sweep"]))
            assert "results are in" in ended.out
            ended = call(ablate, *command_shown(ended.error))
        assert compared == sorted(compared)
        assert compared[1] < compared[-1] == 40
        assert 0 < sweeps[-1] < 8  # one of the budgets ended in the sweep
        assert not endpoint.repeated()
        whole = ("--output_file", tmp_path / "whole.json", "--reply_cache", tmp_path / "whole.sqlite")
        assert call(ablate, *flags, *whole).code == 0
    assert result_of(tmp_path / "a.json") == result_of(tmp_path / "whole.json")


@pytest.mark.parametrize("main", [generate, ablate])
def test_a_budget_that_ends_before_any_result_resumes_alike(
    world: World, tmp_path: Path, call: Call, main: Any
) -> None:
    with ScriptedEndpoint(world.answer) as endpoint:
        config = world.config(tmp_path / "config.yaml", endpoint.url)
        names = to(tmp_path, "run") if main is generate else ["--single", "diverse", "--output_file", tmp_path / "a"]
        wanted = ("--num_examples", 2) if main is generate else ("--num", 2)
        run = ("--config", config, *names, *wanted, "--reply_cache", tmp_path / "replies")
        ended = call(main, *run, "--max_llm_calls", 1)
        assert ended.code == 1
        command = command_shown(ended.error)
        assert call(main, *command[:-1], "500").code == 0
        assert not endpoint.repeated()


# Limits and plans


@pytest.mark.parametrize("limit", [("--max_llm_calls", 70), ("--max_cost", 0.1)])
def test_limits_stop_cleanly_and_the_run_resumes(
    world: World, tmp_path: Path, call: Call, limit: tuple[object, ...]
) -> None:
    with ScriptedEndpoint(world.answer) as endpoint:
        price = {"small": {"input": 2.0, "output": 10.0}}
        config = world.config(tmp_path / "config.yaml", endpoint.url, price_per_million_tokens=price)
        flags = ["--config", config, *SOME, "--concurrency", 16]
        stops, before = 0, {"calls": 0, "cost": 0.0}
        while True:
            ended = call(generate, *flags, *to(tmp_path, "run"), *limit)
            made = summary(tmp_path, "run")
            calls, cost = (made[name] - before[name] for name in ("calls", "cost"))
            before = made
            assert ended.code == (0 if made["finished"] else 1)
            assert made["calls"] == len(endpoint.seen)
            assert calls <= 70 or limit[0] != "--max_llm_calls"
            assert cost <= 0.1 + 1e-9 or limit[0] != "--max_cost"
            if made["finished"]:
                break
            stops += 1
            assert calls > 30
            assert "limit" in made["stopped because"]
            assert f"To resume: python script.py --config {config}" in ended.error
        assert 1 < stops < 9
        assert not endpoint.repeated()
        assert call(generate, *flags, *to(tmp_path, "whole"), "--reply_cache", tmp_path / "fresh").code == 0
    assert final_files(tmp_path, "run") == final_files(tmp_path, "whole")


def test_dry_run_makes_no_call_and_no_file(world: World, tmp_path: Path, call: Call) -> None:
    with ScriptedEndpoint(world.answer) as endpoint:
        config = world.config(tmp_path / "config.yaml", endpoint.url)
        ended = call(generate, "--config", config, *ALL, *to(tmp_path / "out", "run"), "--dry_run")
    assert (ended.code, len(endpoint.seen)) == (0, 0)
    expected, most = map(int, re.findall(r"(\d+) (?:calls expected|at most)", ended.out))
    assert SOURCES < expected < most == SOURCES * 5 * 3
    assert not (tmp_path / "out").exists()


def test_other_settings_are_refused_and_overwrite_starts_from_scratch(world: World, tmp_path: Path, call: Call) -> None:
    with ScriptedEndpoint(world.answer) as endpoint:
        config = world.config(tmp_path / "config.yaml", endpoint.url)
        run = ("--config", config, *SOME, *to(tmp_path, "run"), "--concurrency", 8)
        assert call(generate, *run, "--max_llm_calls", 100).code == 1
        before = final_files(tmp_path, "run")
        refused = call(generate, *run, "--seed", 8)
        assert refused.code == 2
        assert "seed: 7 then, 8 now" in refused.error
        other = world.config(tmp_path / "other.yaml", endpoint.url, generator_model="big")
        refused = call(generate, "--config", other, *run[2:])
        assert refused.code == 2
        assert "'model': 'small'" in refused.error
        assert "'model': 'big'" in refused.error
        assert final_files(tmp_path, "run") == before
        assert call(generate, *run, "--seed", 8, "--overwrite").code == 0
        assert call(generate, *run[:-4], *to(tmp_path, "whole"), "--seed", 8).code == 0
    assert final_files(tmp_path, "run") == final_files(tmp_path, "whole")


# What does not change an answer does not lock a run


def test_another_port_and_a_longer_limit_resume_and_nothing_is_paid_again(
    world: World, tmp_path: Path, call: Call
) -> None:
    with ScriptedEndpoint(world.answer) as one, ScriptedEndpoint(world.answer) as other:
        run = (*SOME, *to(tmp_path, "run"), "--concurrency", 8)
        first = world.config(tmp_path / "one.yaml", one.url, generation_params={"max_tokens": 300})
        assert call(generate, "--config", first, *run, "--max_llm_calls", 100).code == 1
        changes = {"generation_params": {"max_tokens": 900, "user": "me"}}
        config = world.config(tmp_path / "other.yaml", other.url, **changes)
        assert call(generate, "--config", config, *run).code == 0
        made = final_files(tmp_path, "run")
        asked = {request.body for request in one.seen}, len(other.seen)
        assert len(asked[0]) == 100
        assert call(generate, "--config", first, *run, "--overwrite").code == 0
        assert final_files(tmp_path, "run") == made
        assert (len(one.seen), len(other.seen)) == (100, asked[1])
        whole = call(generate, "--config", config, *SOME, *to(tmp_path, "whole"), "--reply_cache", tmp_path / "fresh")
        assert whole.code == 0
        assert len(other.seen) == 100 + 2 * asked[1]
    assert final_files(tmp_path, "whole") == made


def halved(answer: Answer) -> Answer:
    """Answer with half an emoji in every text that is kept, as an escape in the JSON."""

    def spoilt(messages: Any, name: str) -> str:
        said = dict(answer(messages, name))  # type: ignore[arg-type]
        key = "query" if name == EXTRACTION else "reason"
        said[key] += " \ud83d\x00" if said[key] else ""
        return json.dumps(said)

    return spoilt


def test_half_an_emoji_ends_no_run_and_no_resume(world: World, tmp_path: Path, call: Call) -> None:
    with ScriptedEndpoint(halved(world.answer)) as endpoint:
        config = world.config(tmp_path / "config.yaml", endpoint.url)
        run = ("--config", config, *SOME, *to(tmp_path, "run"), "--concurrency", 8)
        assert call(generate, *run).code == 0
        made, calls = final_files(tmp_path, "run"), len(endpoint.seen)
        (tmp_path / "run.summary.json").unlink()
        (tmp_path / "run.provenance.jsonl").write_bytes(made[1][: len(made[1]) // 2])  # as a kill leaves it
        assert call(generate, *run).code == 0
        assert final_files(tmp_path, "run") == made
        assert len(endpoint.seen) == calls
    assert made[0].count(b"\n") > 10
    assert made[0] == b"".join(world.examples.splitlines(True)[: made[0].count(b"\n")])


# Runs that come to nothing


def nothing(**fields: Any) -> Mapping[str, Any]:
    return {**dict.fromkeys(("entity", "type", "segment", "query")), **fields}


@pytest.mark.parametrize("main", [generate, ablate])
@pytest.mark.parametrize(
    ("content", "fault", "told"),
    [
        ("I cannot help with that.", None, "it said 'I cannot help with that.'"),
        ("<think>Perhaps none: " + json.dumps(nothing()), None, "within a thought"),
        ("{}", "length", "finish_reason length; raise generation_params.max_tokens"),
    ],
)
def test_useless_replies_end_the_run_at_the_first_questions(
    world: World, tmp_path: Path, call: Call, main: Any, content: str, fault: str | None, told: str
) -> None:
    with ScriptedEndpoint(lambda *_: content, fault=lambda *_: fault) as endpoint:
        config = world.config(tmp_path / "config.yaml", endpoint.url)
        name = (
            to(tmp_path, "run") if main is generate else ["--single", "diverse", "--output_file", tmp_path / "a.json"]
        )
        limit = ("--num_examples", 4) if main is generate else ("--num", 4)
        run = ("--config", config, *name, *limit, "--concurrency", 32, "--reply_cache", tmp_path / "replies")
        ended = call(main, *run)
        assert ended.code == 1
        assert told in ended.error
        assert "each of the first 5 questions" in ended.error
        assert len(endpoint.seen) <= 27
        assert "next:" not in ended.out
        endpoint.answer, endpoint.fault = world.answer, None  # fixed: the same command resumes
        assert call(main, *run).code == 0


def judging(answer: Answer, verdict: Mapping[str, Any]) -> Answer:
    """Answer, but judge every candidate alike."""
    return lambda messages, name: verdict if name == JUDGEMENT else answer(messages, name)


HOPS = [{"question": "q", "answer": "a", "document": letter} for letter in "AB"]


@pytest.mark.parametrize(
    ("answer", "counted", "helps"),
    [
        (lambda _: lambda *_: nothing(entity="None"), "no entity 50", "entity_extractor_model"),
        (lambda answer: judging(answer, {"valid": False, "reason": "so what"}), "no positive", "unusable (so what)"),
        (
            lambda answer: judging(answer, {"valid": True, "reason": "why not", "sub_questions": HOPS}),
            "no negative",
            "usable (why not)",
        ),
    ],
)
def test_a_run_that_accepts_nothing_ends_and_says_what_was_said(
    world: World, tmp_path: Path, call: Call, answer: Any, counted: str, helps: str
) -> None:
    with ScriptedEndpoint(answer(world.answer)) as endpoint:
        # A judge that accepts everything has no evidence for it.
        config = world.config(tmp_path / "config.yaml", endpoint.url, evidence="none")
        run = ("--config", config, *EVERY, *to(tmp_path, "run"), "--concurrency", 8)
        ended = call(generate, *run)
        assert ended.code == 1
        assert "no example was made of 50 sources" in ended.error
        assert all(told in ended.error for told in (counted, helps, "--give_up_after"))
        assert "next:" not in ended.out
        assert len(provenance(tmp_path, "run")) == 50
        before = len(endpoint.seen)
        assert call(generate, *run, "--give_up_after", 64).code == 1
        assert len(provenance(tmp_path, "run")) == 64
        assert not endpoint.repeated()
        assert len(endpoint.seen) > before

        few = call(generate, "--config", config, *EVERY, *to(tmp_path, "few"), "--max_attempts", 20)
        assert few.code == 1
        assert "no example was made of 20 sources" in few.error
        assert "20 sources were tried" in few.error
        assert "next:" not in few.out


def test_an_ablation_without_an_entity_ends(world: World, tmp_path: Path, call: Call) -> None:
    with ScriptedEndpoint(lambda *_: nothing()) as endpoint:
        config = world.config(tmp_path / "config.yaml", endpoint.url)
        ended = call(ablate, "--config", config, "--single", "diverse", "--output_file", tmp_path / "a.json")
        assert ended.code == 1
        assert "none of 50 sources has an entity; try another entity_extractor_model" in ended.error
        assert len(endpoint.seen) <= 50 + 16


# Configurations and keys


@pytest.mark.parametrize("main", [generate, ablate])
@pytest.mark.parametrize(
    ("server", "change", "told"),
    [
        ({"keys": ["another"]}, {}, "the API key is refused (401); fix openai_setting.api_key"),
        ({"models": ["big"]}, {}, "fix generator_model or openai_setting.base_url"),
        ({"spent_keys": [KEY]}, {}, "every API key of openai_setting is out of quota"),
        ({}, {"base_url": "http://127.0.0.1:9/v1"}, "cannot be reached"),
    ],
)
def test_what_only_the_user_can_fix_ends_the_run_at_the_first_calls(
    world: World, tmp_path: Path, call: Call, quick: None, main: Any, server: Any, change: Any, told: str
) -> None:
    with ScriptedEndpoint(world.answer, **server) as endpoint:
        setting = {"api_key": "${SCRIPTED_KEY}", "base_url": endpoint.url, **change}
        config = world.config(tmp_path / "config.yaml", endpoint.url, openai_setting=setting)
        flags = to(tmp_path, "run") if main is generate else ["--single", "diverse", "--output_file", tmp_path / "a"]
        ended = call(main, "--config", config, *flags, "--concurrency", 8, "--reply_cache", tmp_path / "cache")
        assert ended.code == 1
        assert told in ended.error
        assert len(endpoint.seen) <= 8
        if change and main is generate:  # what was to be fixed does not make it another run
            config = world.config(tmp_path / "config.yaml", endpoint.url)
            ended = call(main, "--config", config, *flags, "--concurrency", 8, "--reply_cache", tmp_path / "cache")
            assert ended.code == 0, ended.error


def test_a_key_that_is_not_set_is_named(world: World, tmp_path: Path, call: Call) -> None:
    for section in ({"api_key": "${NO_SUCH_KEY}"}, {"api_keys": ["${SCRIPTED_KEY}", "${NO_SUCH_KEY}"]}):
        config = world.config(tmp_path / "config.yaml", "", openai_setting=section)
        ended = call(generate, "--config", config, *to(tmp_path, "run"))
        assert ended.code == 2
        assert "openai_setting.api_key" in ended.error
        assert "${NO_SUCH_KEY} is not set; export NO_SUCH_KEY=" in ended.error


def test_a_configuration_of_hopweaver_works_as_it_is(world: World, tmp_path: Path, call: Call) -> None:
    with ScriptedEndpoint(world.answer, keys=[KEY]) as endpoint:
        config = world.config(
            tmp_path / "config.yaml",
            endpoint.url,
            seed=None,
            generator_model="gpt-4o",
            entity_extractor_model="gpt-4o-mini",
            question_generator_model="gpt-4o",
            polisher_model="gpt-4o",
            filter_model="gpt-4o",
            openai_setting={"api_keys": ["${SCRIPTED_KEY}"], "base_url": endpoint.url},
            generator_max_input_len=2048,
            generator_batch_size=2,
            generation_params={"do_sample": True, "max_tokens": 2048, "temperature": 0.7},
        )
        ended = call(generate, "--config", config, "--num_examples", 10, *to(tmp_path, "run"), "--concurrency", 4)
    assert ended.code == 0
    assert summary(tmp_path, "run")["examples"] == 10
    assert {(request.schema_name, request.model) for request in endpoint.seen} == {
        (EXTRACTION, "gpt-4o-mini"),
        (JUDGEMENT, "gpt-4o"),
    }


# A real server that answers nonsense


def save_babbler(folder: Path) -> Path:
    """Save a Llama of a few kilobytes with random weights, whose every word is nonsense."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", "<end>", *(f"{a}{b}" for a in ("ba", "go", "mi", "zu") for b in ("ra", "lo", "ne", "ti"))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>", pad_token="<end>")
    fast.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    fast.save_pretrained(folder)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(words), max_position_embeddings=8192, eos_token_id=1, pad_token_id=1, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def babbling_server(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """``transformers serve`` as a process; gives its address and the model's name."""
    model = str(save_babbler(tmp_path / "deepseek-babbler"))
    port = free_port()
    program = Path(sys.executable).parent / "transformers"
    log = (tmp_path / "server.log").open("wb")
    command = [program, "serve", model, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})

    def answers() -> bool:
        assert server.poll() is None, (tmp_path / "server.log").read_text()
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
        except OSError:
            time.sleep(0.2)
            return False

    try:
        wait_until(answers)
        yield f"http://127.0.0.1:{port}/v1", model
    finally:
        server.kill()
        server.wait()
        log.close()


def test_nonsense_of_a_real_server_makes_errors_and_ends(
    world: World, tmp_path: Path, call: Call, babbling_server: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.labelling.judging.MAX_UNANSWERED", 2)
    monkeypatch.setattr("utils.labelling.judging.PAUSES", (0.1,))
    monkeypatch.setattr("utils.teachers.language_model.MAX_UNANSWERED", 99)  # as in a run that has had answers
    verdicts: list[Verdict] = []
    judge = LLMTeacher.judge

    async def noting(*arguments: Any) -> Verdict:
        verdicts.append(await judge(*arguments))
        return verdicts[-1]

    monkeypatch.setattr(LLMTeacher, "judge", noting)
    (tmp_path / "ids.txt").write_text("20\n21\n22\n23\n")
    few = (*EVERY, "--doc_ids_file", tmp_path / "ids.txt")
    url, model = babbling_server
    nonsense = {"base_url": url, "timeout": 60}
    with ScriptedEndpoint(world.answer) as endpoint:
        changes = {"deepseek_setting": nonsense, "generation_params": {"max_tokens": 2}}
        both = world.config(tmp_path / "both.yaml", endpoint.url, generator_model=model, **changes)
        one = world.config(tmp_path / "one.yaml", endpoint.url, question_generator_model=model, **changes)
        ended = {config: call(generate, "--config", config, *few, *to(tmp_path, config.stem)) for config in (both, one)}
        sources = (
            "--single",
            "diverse",
            "--num",
            1,
            "--doc_ids",
            tmp_path / "ids.txt",
            "--output_file",
            tmp_path / "ablation.json",
        )
        compared = call(ablate, "--config", both, *sources, "--reply_cache", tmp_path / "replies.sqlite")
    for config, run in ended.items():
        assert run.code == 1
        assert "no usable reply for 2 sources in a row" in run.error
        assert "in 3 attempts" in run.error
        assert final_files(tmp_path, config.stem)[0] == b""
        assert provenance(tmp_path, config.stem) == []
    assert len(verdicts) >= 2 * 2 * 4
    assert {verdict.outcome for verdict in verdicts} == {Outcome.ERROR}
    assert compared.code == 1
    assert "no arm completed on any of" in compared.error
