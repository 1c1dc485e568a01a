"""Scripts that are killed in the middle of their work."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

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
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs with it ignored
    signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored == signal.SIGHUP else signal.SIG_DFL)  # as nohup does
    os.environ.update(environment)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    sys.argv = [f"{script}.py", *argv]
    cli.run(importlib.import_module(script).main, argv)
