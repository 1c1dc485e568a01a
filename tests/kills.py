"""Scripts that are killed in the middle of their work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from utils.files import SCRIPTS

# Builds an index or loads a collection in blocks of 16, says so after the third, and waits to be killed.
KILLED = """
import time
from pathlib import Path

from utils.retrieval import vectors
from utils.corpus.documents import Corpus
from utils.retrieval.encoder import PASSAGE, Encoder, EncoderOptions
from utils.retrieval.faiss_store import open_index
from utils.retrieval.milvus_store import open_milvus

vectors.DOCUMENTS_PER_BLOCK, encode, blocks = 16, Encoder.encode, 0

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
