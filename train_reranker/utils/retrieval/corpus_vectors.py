"""Encoding a corpus into a file of vectors: in blocks, on every device, resumable after a kill."""

import hashlib
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from utils.corpus.documents import Corpus
from utils.files import append_jsonl, dumps, write_jsonl
from utils.progress import log, progress_bar
from utils.retrieval.encoder import PASSAGE, Encoder
from utils.retrieval.model_conventions import EncoderOptions

Rows = Sequence[int] | np.ndarray
# Encoded together, in length-bucketed batches. A vector depends in its last bits on what is in its batch: because
# blocks never change, an index is the same however often its making was killed.
DOCUMENTS_PER_BLOCK = 2048


def blocks_of(documents: int) -> list[range]:
    """Return the rows of each block of a corpus."""
    starts = range(0, documents, DOCUMENTS_PER_BLOCK)
    return [range(start, min(start + DOCUMENTS_PER_BLOCK, documents)) for start in starts]


def encode_blocks(corpus: Corpus, encoder: Encoder, blocks: Sequence[range]) -> Iterator[np.ndarray]:
    """Yield each block's vectors in order, with a progress bar; several devices work on a block each, in processes."""
    finished = len(corpus) - sum(map(len, blocks))
    with progress_bar(desc="encoding the corpus", unit="doc", total=len(corpus), initial=finished) as bar:
        if len(encoder.devices) == 1:
            for rows in blocks:
                yield encode_rows(corpus, encoder, rows, bar.update)
        else:
            for vectors in _encode_in_processes(corpus, encoder, blocks):
                bar.update(len(vectors))
                yield vectors


def encode_rows(
    corpus: Corpus, encoder: Encoder, rows: Rows, done: Callable[[int], object] | None = None
) -> np.ndarray:
    """Return the vectors of rows, float32 of shape (rows, dimension); ``done`` as for :meth:`Encoder.encode`."""
    return encoder.encode([corpus[row].text for row in rows], PASSAGE, done)


def _encode_in_processes(corpus: Corpus, encoder: Encoder, blocks: Sequence[range]) -> Iterator[np.ndarray]:
    """Yield each block's vectors in order, with two blocks waiting for each device."""
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    devices, count = context.Queue(), len(encoder.devices)
    for device in encoder.devices:
        devices.put(device)
    opened_with = (corpus.path, encoder.path, encoder.options, devices, count)
    with ProcessPoolExecutor(count, context, _open_worker, opened_with) as pool:
        pending: deque[Future[np.ndarray]] = deque()
        for rows in blocks:
            pending.append(pool.submit(_work, rows))
            if len(pending) > 2 * count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


_opened: dict[str, Any] = {}  # a worker process's corpus and encoder


def _open_worker(corpus: Path, encoder: Path, options: EncoderOptions, devices: Any, count: int) -> None:
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    _opened.update(corpus=Corpus(corpus), encoder=Encoder(encoder, options, [devices.get()]))


def _work(rows: range) -> np.ndarray:
    return encode_rows(_opened["corpus"], _opened["encoder"], rows)


class VectorFile:
    """The vectors of a corpus in a file that survives a kill, in the layout of FAISS's flat inner-product index.

    A block is written in its place, then noted with its hash in a log beside the file. A block that is not what was
    noted is encoded again; for another corpus or encoder, all are.
    """

    def __init__(self, path: Path, made_from: dict[str, Any], documents: int, dimension: int) -> None:
        """Open or start the file at ``path``; ``made_from`` is what its vectors depend on, fit for JSON."""
        self.path, self.log = path, path.with_name(f"{path.name}.log")
        self.shape = (documents, dimension)
        header, blocks = flat_header(documents, dimension), blocks_of(documents)
        self._start = len(header)
        header_row, *noted = _read_lines(self.log) or [""]
        resumed = header_row == dumps(made_from) and path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if resumed else "wb") as file:
            file.write(header)
            file.truncate(len(header) + documents * dimension * 4)
        if not resumed:
            write_jsonl(self.log, [made_from])
        known = set(noted if resumed else ())
        # In order, so that there are no more blocks than notes.
        self._done = {n for n, rows in enumerate(blocks[: len(known)]) if dumps(_note(n, self.read(rows))) in known}
        if known:
            lost = len(known) - len(self._done)
            wrong = f"; {lost} notes do not fit the file, and their blocks are encoded again" if lost else ""
            log.info("resuming %s: %d of %d blocks are encoded%s", path, len(self._done), len(blocks), wrong)

    def fill(self, corpus: Corpus, encoder: Encoder) -> None:
        """Encode the blocks that are missing."""
        left = {number: rows for number, rows in enumerate(blocks_of(len(corpus))) if number not in self._done}
        encoded = encode_blocks(corpus, encoder, list(left.values()))
        with self.path.open("r+b") as file, self.log.open("a", encoding="utf-8") as noted:
            for (number, rows), vectors in zip(left.items(), encoded, strict=True):
                file.seek(self._start + rows.start * vectors.shape[1] * 4)
                file.write(vectors.data)
                file.flush()
                os.fsync(file.fileno())
                append_jsonl(noted, _note(number, vectors))

    def read(self, rows: Any) -> np.ndarray:
        """Return the vectors of a range or an array of rows, float32 of shape (rows, dimension)."""
        chosen = slice(rows.start, rows.stop) if isinstance(rows, range) else rows
        return np.array(np.memmap(self.path, np.float32, "r", self._start, self.shape)[chosen])

    def move(self, path: Path) -> None:
        """Turn the complete file into the flat index at ``path``."""
        self.path.replace(path)
        self.log.unlink()

    def remove(self) -> None:
        """Delete the file and its log."""
        self.path.unlink()
        self.log.unlink()


def flat_header(documents: int, dimension: int) -> bytes:
    """Return the start of FAISS's file of an ``IndexFlatIP``; documents x dimension float32 values follow."""
    import faiss

    header = bytearray(faiss.serialize_index(faiss.IndexFlatIP(dimension)).tobytes())
    header[8:16] = documents.to_bytes(8, "little")  # after the type's four letters and the dimension
    header[-8:] = (documents * dimension).to_bytes(8, "little")
    return bytes(header)


def _note(number: int, vectors: np.ndarray) -> dict[str, Any]:
    return {"block": number, "sha256": hashlib.sha256(vectors.data).hexdigest()}


def _read_lines(path: Path) -> list[str]:
    """Return a log's lines, without a last one that a kill has cut short."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    except OSError:
        return []
