"""Examples a minute of the generator, against an endpoint whose every reply takes the same time.

    python benchmarks/generation.py
    python benchmarks/generation.py --latency 1 --concurrency 32 128 --seconds 60

The endpoint is a process of its own that answers as the offline teacher would; corpus and encoder are made on the
spot. Each run is timed as a whole, from its first call to its last: the ramp-up (a block of sources must be extracted
and searched before the first is judged) and the drain (at the end, the last sources finish with less and less beside
them, and what was begun beyond the last example is thrown away) count against it. Loading the encoder and building the
index do not.

The sequential loop makes one call at a time and keeps nothing, as HopWeaver does. It is measured on fewer examples,
since it takes so long. Some sources take more calls than others, so that a run's speed-up is over what the loop would
need for that run's own sources: the calls that they take one after the other, at the loop's seconds a call.

The limit is one reply for each of the concurrent sources every ``latency`` seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "train_reranker"), str(ROOT / "tests")]
os.environ["HF_HUB_OFFLINE"] = "1"

from miniature import save_tiny_bert, write_corpus
from utils.config import Config
from utils.corpus.documents import Corpus
from utils.files import write_json
from utils.labelling.example_generation import Target, generate
from utils.labelling.journal import open_journal
from utils.labelling.record import ARM
from utils.labelling.scheduler import Pipeline
from utils.report.text import table
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import Retriever, open_retrieval
from utils.schema import Document, Outcome
from utils.teachers import prompts
from utils.teachers.ledger import Ledger
from utils.teachers.parsing import read_extraction, read_verdict
from utils.teachers.registry import open_teacher
from utils.teachers.reply_cache import Reply

RESULTS = ROOT / "benchmarks" / "results" / "generation.json"
CALLS_PER_EXAMPLE = 6  # about, on this corpus; decides how many examples fill the time
CANDIDATES = 4


class Measured(NamedTuple):
    """One run: what came out of it, what it took, and how many calls its sources take one after the other."""

    concurrency: int
    examples: int
    calls: int
    needed: int
    seconds: float
    cpu_seconds: float

    @property
    def examples_a_minute(self) -> float:
        """Examples over the whole run."""
        return 60 * self.examples / self.seconds

    def speed_up(self, seconds_a_call: float) -> float:
        """How many times as fast as a loop that makes the needed calls one after the other."""
        return self.needed * seconds_a_call / self.seconds

    def of_limit(self, latency: float) -> float:
        """Share of the examples a minute that were possible with a call always on its way for every source."""
        return self.needed * latency / self.concurrency / self.seconds

    @property
    def cpu_a_call(self) -> float:
        """Milliseconds of CPU time, of all threads, that this process took for a call."""
        return 1000 * self.cpu_seconds / self.calls


class Bench(NamedTuple):
    """What all runs share."""

    folder: Path
    config: Config
    corpus: Corpus
    retriever: Retriever

    def sources(self) -> Iterator[Document]:
        """Give the same sources in the same order to every run."""
        return self.corpus.sample(random.Random(0))

    def run(self, concurrency: int, examples: int) -> Measured:
        """Generate examples as the script does, with a reply cache of its own."""
        name = f"{concurrency}-{time.monotonic_ns()}"
        ledger = Ledger()
        teacher = open_teacher(self.config, self.corpus, self.folder / f"{name}.sqlite", ledger)
        pipeline = Pipeline(self.sources, teacher, self.retriever, CANDIDATES, concurrency)

        async def work() -> None:
            async with aclosing(teacher):
                await generate(pipeline, Target(examples), journal)

        began, cpu = time.perf_counter(), time.process_time()
        with open_journal(self.folder / f"{name}.jsonl", {}) as journal:
            asyncio.run(work())
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
        needed = sum(1 + len(row.verdicts) for row in journal.rows)
        return Measured(concurrency, examples, ledger.calls, needed, seconds, cpu_seconds)

    def loop(self, examples: int) -> Measured:
        """Generate examples one call at a time."""
        import openai

        client = openai.OpenAI(api_key="none", base_url=self.config.settings["openai_setting"]["base_url"])
        made = calls = 0
        began, cpu = time.perf_counter(), time.process_time()
        for source in self.sources():
            if made == examples:
                break
            entity = read_extraction(_ask(client, prompts.extraction(source)), source, 20)
            calls += 1
            if entity is None:
                continue
            found: Counter[Outcome] = Counter()
            for candidate in self.retriever.retrieve([ARM], [entity.query], [source], CANDIDATES)[0][ARM]:
                if len(found) == 2:
                    break
                found[read_verdict(_ask(client, prompts.judgement(entity, candidate.document))).outcome] += 1
                calls += 1
            made += len(found) == 2
        return Measured(1, made, calls, calls, time.perf_counter() - began, time.process_time() - cpu)


def _ask(client: object, question: prompts.Question) -> Reply:
    """Make one call and wait for it."""
    completion = client.chat.completions.create(model="scripted", messages=list(question.messages))  # type: ignore[attr-defined]
    return Reply(completion.choices[0].message.content, "stop", 0, 0)


@contextmanager
def endpoint(corpus: Path, latency: float) -> Iterator[str]:
    """Run the scripted endpoint as a process, and yield its address."""
    command = [sys.executable, str(ROOT / "tests" / "endpoint.py"), "--latency", str(latency), "--offline", str(corpus)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "train_reranker")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@contextmanager
def bench(latency: float, documents: int) -> Iterator[Bench]:
    """Make a corpus, an encoder, an index and an endpoint."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = Corpus(write_corpus(folder / "corpus.jsonl", documents))
        with endpoint(corpus.path, latency) as url:
            config = Config(
                corpus_path=str(corpus.path),
                retrieval_method="tiny",
                model2path={"tiny": str(save_tiny_bert(folder / "encoder", head=False))},
                retrieval_query_max_length=64,
                generator_model="scripted",
                settings={"openai_setting": {"api_key": "none", "base_url": url}},
            )
            retriever = open_retrieval(config, corpus, Lambdas.scaled(0.85, 0.05, 0.1))
            retriever.retrieve([ARM], ["to warm up"], [corpus[0]], CANDIDATES)
            yield Bench(folder, config, corpus, retriever)


def report(loop: Measured, runs: list[Measured], latency: float) -> None:
    """Print a table, and write it with what it was made of."""
    seconds_a_call = loop.seconds / loop.calls
    headers = ["concurrency", "examples", "calls", "seconds", "examples/min", "speed-up", "of the limit", "CPU ms/call"]
    rows = [
        [
            name,
            run.examples,
            run.calls,
            run.seconds,
            run.examples_a_minute,
            f"{run.speed_up(seconds_a_call):.1f}x",
            f"{run.of_limit(latency):.0%}",
            run.cpu_a_call,
        ]
        for name, run in [("sequential loop", loop), *((str(run.concurrency), run) for run in runs)]
    ]
    print(f"an endpoint that takes {latency:g} s for a reply; load of this machine {os.getloadavg()[0]:.1f}")
    print(table(rows, headers))
    value = [dict(zip(headers, row, strict=True)) | run._asdict() for row, run in zip(rows, [loop, *runs], strict=True)]
    write_json(RESULTS, {"latency": latency, "load": os.getloadavg(), "cores": os.cpu_count(), "runs": value})
    print(f"results are in {RESULTS}")


def main() -> None:
    """Measure the loop and the generator at some concurrencies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latency", type=float, default=0.5, help="seconds that every reply takes")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=40, help="about how long each run takes")
    args = parser.parse_args()

    def examples(concurrency: int) -> int:
        return max(1, round(args.seconds * concurrency / args.latency / CALLS_PER_EXAMPLE))

    with bench(args.latency, documents=200 + 2 * examples(max(args.concurrency))) as made:
        loop = made.loop(examples(1))
        runs = [made.run(concurrency, examples(concurrency)) for concurrency in args.concurrency]
    report(loop, runs, args.latency)


if __name__ == "__main__":
    main()
