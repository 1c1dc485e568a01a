"""Scripts that are killed in the middle of their work."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils import cli
from utils.files import SCRIPTS

# Builds an index or loads a collection in blocks of 16, says so after the third, and waits to be killed.
KILLED = """
import time
from pathlib import Path

from utils.retrieval import corpus_vectors
from utils.corpus.documents import Corpus
from utils.retrieval.encoder import PASSAGE, Encoder, EncoderOptions
from utils.retrieval.faiss_store import open_index
from utils.retrieval.milvus_store import open_milvus

corpus_vectors.DOCUMENTS_PER_BLOCK, encode, blocks = 16, Encoder.encode, 0

def encode_three(*args):
    global blocks
    if blocks == 3:
        print("three blocks", flush=True)
        time.sleep(600)
    blocks += 1
    return encode(*args)

Encoder.encode = encode_three
corpus, encoder = Corpus(Path({corpus!r})), Encoder(Path({encoder!r}), EncoderOptions(method="tiny", half=False))
{then}
"""


def kill_after_three_blocks(corpus: Path, encoder: Path, then: str) -> None:
    """Run ``then`` with ``corpus`` and ``encoder`` in a process of its own and kill it in its fourth block."""
    code = textwrap.dedent(KILLED).format(corpus=str(corpus), encoder=str(encoder), then=then)
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "three blocks\n"
        process.send_signal(signal.SIGKILL)


def run_script(
    script: str, argv: list[str], environment: Mapping[str, str], log: str, ignored: int | None = None
) -> None:
    """Run a script in this process as its own would: with its arguments, environment, output and signals."""
    become_script(environment, log, ignored)
    sys.argv = [f"{script}.py", *argv]
    cli.run(importlib.import_module(script).main, argv)


def become_script(environment: Mapping[str, str], log: str, ignored: int | None = None) -> None:
    """Give this process the environment, the output and the signals of a script's own."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs with it ignored
    signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored == signal.SIGHUP else signal.SIG_DFL)  # as nohup does
    os.environ.update(environment)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)


FILE_EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link")
# What takes seconds to import, for processes that are forked.
PRELOADED = ["torch", "transformers.models.bert.modeling_bert", "transformers.models.auto.modeling_auto"]
PRELOADED += ["utils.training.fit", "utils.training.run", "matplotlib.backends.backend_agg"]


def train_counted(folder: str, moment: int, victim: str, argv: list[str]) -> None:
    """Train, and kill at one of the moments: after a step, or before it does something to a file of the folder.

    The victim is this process ("script"), or the one that launches or is the first of several processes ("launcher",
    "first"): the first counts.
    """
    from utils.training import fit, launch

    counted, step_end, launch_all = 0, fit.StepCallback.on_step_end, launch.launch

    def count() -> None:
        nonlocal counted
        counted += 1
        if counted == moment:
            os.kill(os.getppid() if victim == "launcher" else os.getpid(), signal.SIGKILL)

    def on_step_end(*args: Any, **kwargs: Any) -> None:
        step_end(*args, **kwargs)
        count()

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_EVENTS and isinstance(arguments[0], str | Path) and str(arguments[0]).startswith(f"{folder}/"):
            count()

    def launch_counted(script: str, argv: Sequence[str], processes: int) -> int:
        return launch_all(__file__, [folder, str(moment), victim, *argv], processes)

    launch.launch = launch_counted  # type: ignore[assignment]
    if os.environ.get("RANK", "0") == "0" and ("RANK" in os.environ) == (victim != "script"):
        fit.StepCallback.on_step_end = on_step_end  # type: ignore[method-assign]
        sys.addaudithook(audit)
    try:
        cli.run(importlib.import_module("train_reranker").main, argv)
    finally:
        if counted:
            Path(f"{folder}.moments").write_text(str(counted))


@dataclass(frozen=True)
class CountedTraining:
    """A training, into a folder that is named ``out``, which can be killed at any of its moments."""

    output: Path
    flags: Sequence[str]

    def run(self, *flags: str, moment: int = 0, victim: str = "script") -> int:
        """Train until the moment at which the victim is killed, or to the end; return the exit code."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        argv = ["--output_dir", str(self.output), *self.flags, *flags]
        environment = {"PYTHONPATH": f"{SCRIPTS}:{Path(__file__).parent}", "OMP_NUM_THREADS": "1"}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        arguments = (environment, f"{self.output}.log", str(self.output), moment, victim, argv)
        self.output.parent.mkdir(exist_ok=True)
        process = context.Process(target=_train_counted, args=arguments)
        process.start()
        process.join()
        return process.exitcode or 0

    @property
    def log(self) -> str:
        """The last of what was written to the standard output and error."""
        return Path(f"{self.output}.log").read_text()[-2000:]

    @property
    def moments(self) -> int:
        """How many moments the last training had that ended by itself."""
        return int(Path(f"{self.output}.moments").read_text())

    @property
    def files(self) -> dict[str, bytes]:
        """What the training has left."""
        found = (file for file in self.output.rglob("*") if file.is_file())
        return {str(file.relative_to(self.output)): file.read_bytes() for file in found}

    def living(self) -> list[str]:
        """Return the processes that still have this training in their command line."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(self.output).encode() in (process / "cmdline").read_bytes():
                    found.append(process.name)
        return found


def _train_counted(environment: Mapping[str, str], log: str, *counted: Any) -> None:
    import torch

    become_script(environment, log)
    torch.set_num_threads(1)  # the variable comes too late for what is preloaded
    train_counted(*counted)


if __name__ == "__main__":  # one of several processes
    train_counted(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:])
