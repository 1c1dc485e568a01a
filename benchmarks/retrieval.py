"""Measure retrieval: the diverse arm, growing corpora, encoding. Prints tables, writes results/retrieval.json.

    python benchmarks/retrieval.py                    # all three, about eight minutes on two cores
    python benchmarks/retrieval.py --parts b --sizes 10000 100000

(a) the diverse arm against the plain algorithm, which encodes each candidate for each query; (b) opening, looking up,
sampling and searching corpora of growing size, with random vectors around random centres; (c) encoding against
sentence-transformers and FlagEmbedding. (a) and (c) need the demo's corpus and encoder (`make data`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "train_reranker"))

from utils import cli
from utils.config import load_config
from utils.corpus.documents import Corpus
from utils.files import write_json
from utils.labelling.scheduler import BLOCK
from utils.models.devices import half_precision, visible_devices
from utils.report.text import table
from utils.retrieval.encoder import PASSAGE, QUERY, Encoder, EncoderOptions
from utils.retrieval.faiss_files import build_index
from utils.retrieval.faiss_store import FaissIndex
from utils.retrieval.mmr import Lambdas
from utils.retrieval.retriever import Retriever, open_retrieval
from utils.schema import Document

DIMENSION, NEIGHBOURS, LOOKUPS = 64, 10, 2000


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    add("--queries", type=cli.positive, default=200, help="(a): queries")
    add("--sizes", type=cli.positive, nargs="+", default=[10_000, 100_000, 1_000_000, 2_000_000], help="(b): documents")
    add("--documents", type=cli.positive, default=512, help="(c): documents encoded in each round")
    add("--rounds", type=cli.positive, default=3, help="(c): rounds; the median counts")
    add("--seed", type=int, default=2025, help="seed of all samples")
    add("--output", type=Path, default=ROOT / "benchmarks/results/retrieval.json", help="JSON file of results")
    add("--probe", type=Path, help=argparse.SUPPRESS)  # used by (b): measures one corpus, in a process of its own
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measure the parts that are asked for; the file keeps the figures of the others."""
    args = parse_args(argv)
    if args.probe:
        print(json.dumps(probe(args.probe, args.seed)))
        return
    results = json.loads(args.output.read_text()) if args.output.exists() else {}
    results["cores"] = os.cpu_count()
    for part in args.parts:
        results[part] = PARTS[part](args)
        write_json(args.output, results)
    print(f"results: {args.output}")


def diverse_arm(args: argparse.Namespace) -> dict[str, Any]:
    """(a): compare lists and seconds per query of the diverse arm with those of the plain algorithm.

    In full precision: in half, a vector depends on its batch in the third digit, and close candidates swap places.
    """
    config = load_config()
    index = args.output.with_name(f"{config.retrieval_method}-fp32.index").resolve()
    config = replace(config, retrieval_use_fp16=False, method2index={config.retrieval_method: str(index)})
    retriever = open_retrieval(config, Corpus(config.corpus), Lambdas.scaled(0.85, 0.05, 0.1))
    sources = list(islice(retriever.corpus.sample(random.Random(args.seed), 300), args.queries))
    queries = [" ".join(source.contents.split()[:16]) for source in sources]
    retriever.retrieve(["diverse"], queries[:2], sources[:2], NEIGHBOURS)  # the first call warms up
    ours, with_encoding, without = [], 0.0, 0.0
    for start in range(0, len(queries), BLOCK):
        block = queries[start : start + BLOCK], sources[start : start + BLOCK]
        found, seconds = timed(retriever.retrieve, ["diverse"], *block, NEIGHBOURS)
        with_encoding += seconds
        without += seconds - timed(retriever.encoder.encode, block[0], QUERY)[1]
        ours += [[candidate.document.id for candidate in lists["diverse"]] for lists in found]
    theirs, reference = timed(list, map(partial(plain_diverse, retriever), queries, sources))
    count = len(queries)
    result = {
        "queries": count,
        "identical": sum(a == b for a, b in zip(ours, theirs, strict=True)),
        "reference_s": reference / count,
        "with_encoding_s": with_encoding / count,
        "without_encoding_s": without / count,
        "speedup_with_encoding": reference / with_encoding,
        "speedup_without_encoding": reference / without,
    }
    print(table(list(result.items()), ["(a) the diverse arm", f"{len(retriever.corpus)} documents"]), end="\n\n")
    return result


def plain_diverse(retriever: Retriever, query: str, source: Document) -> list[str]:
    """Return the ids of the diverse arm as HopWeaver computes it: every candidate is encoded alone, for every query."""
    encoder, weights = retriever.encoder, retriever.weights
    vector = encoder.encode([query], QUERY)
    _, rows = retriever.index.search(vector, 3 * NEIGHBOURS)
    pool = [document for row in rows[0] if (document := retriever.corpus[row]).article != source.article]
    d0 = encoder.encode([source.text], PASSAGE)[0]
    vectors = [encoder.encode([document.text], PASSAGE)[0] for document in pool]
    chosen: list[int] = []
    while len(chosen) < min(NEIGHBOURS, len(pool)):
        scores = {
            i: weights.relevance * float(vector[0] @ d)
            - weights.source * float(d @ d0)
            - weights.chosen * max([0.0] + [float(d @ vectors[s]) for s in chosen])
            for i, d in enumerate(vectors)
            if i not in chosen
        }
        chosen.append(max(scores, key=lambda i: scores[i]))
    return [pool[i].id for i in chosen]


def growth(args: argparse.Namespace) -> dict[str, Any]:
    """(b): measure corpora of growing size, each in a temporary folder."""
    corpora, searches = {}, {}
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "corpus.jsonl"
            write_corpus(path, size)
            _, built = timed(Corpus, path)
            command = [sys.executable, __file__, "--probe", str(path), "--seed", str(args.seed)]
            opened = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            index_mb = path.with_name("corpus.jsonl.offsets").stat().st_size / 1e6
            corpora[size] = {"build_s": built, **opened, "offsets_mb": index_mb}
            searches[size] = search_costs(Path(folder), size, args.seed)
    rows = [(size, *figures.values()) for size, figures in corpora.items()]
    print(table(rows, ["(b) documents", *next(iter(corpora.values()))]), end="\n\n")
    found = [(size, *row.values()) for size, rows in searches.items() for row in rows]
    print(table(found, ["(b) documents", *next(iter(searches.values()))[0]]), end="\n\n")
    return {"dimension": DIMENSION, "corpora": corpora, "searches": searches}


def write_corpus(path: Path, size: int) -> None:
    """Write documents of a few words each."""
    with path.open("w") as out:
        for row in range(size):
            contents = f"Document {row} of {size}. " + "It says little. " * (row % 8)
            out.write(f'{{"id": "{row}", "title": "Document {row}", "contents": "{contents}"}}\n')


def probe(path: Path, seed: int) -> dict[str, float]:
    """Measure opening a corpus again, looking up and sampling, and the memory of the whole process."""
    corpus, opened = timed(Corpus, path)
    rng = random.Random(seed)
    ids = [str(rng.randrange(len(corpus))) for _ in range(LOOKUPS)]
    get = median(timed(corpus.get, document_id)[1] for document_id in ids)
    _, first = timed(next, corpus.sample(rng, 100))
    drawn = corpus.sample(rng, 100)
    sample = median(timed(next, drawn)[1] for _ in range(min(LOOKUPS, corpus.count(100))))
    return {
        "open_ms": opened * 1e3,
        "get_ms": get * 1e3,
        "first_sample_ms": first * 1e3,
        "sample_ms": sample * 1e3,
        "memory_mb": peak_memory() / 1e6,
    }


def peak_memory() -> int:
    """Return the peak memory of this process in bytes, mapped pages included.

    From /proc, where there is one: getrusage includes what the parent held when it started this process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class RandomVectors:
    """Random unit vectors around random centres, with the interface of :class:`VectorFile`."""

    def __init__(self, size: int, seed: int) -> None:
        """Draw them."""
        rng = np.random.default_rng(seed)
        centres = rng.standard_normal((max(1, size // 1000), DIMENSION), dtype=np.float32)
        noise = rng.standard_normal((size, DIMENSION), dtype=np.float32)
        vectors = centres[rng.integers(len(centres), size=size)] + 0.7 * noise
        self.all = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        self.shape = self.all.shape

    def read(self, rows: Any) -> np.ndarray:
        """Return vectors of rows."""
        return self.all[rows.start : rows.stop] if isinstance(rows, range) else self.all[rows]

    def move(self, path: Path) -> None:
        """Write the flat index."""
        import faiss

        flat = faiss.IndexFlatIP(DIMENSION)
        flat.add(self.all)
        faiss.write_index(flat, str(path))

    def remove(self) -> None:
        """Do nothing: they are in memory only."""


def search_costs(folder: Path, size: int, seed: int) -> list[dict[str, Any]]:
    """Measure flat and IVF search in blocks of queries, as the pipeline sends them, and IVF's recall against flat."""
    import faiss

    vectors: Any = RandomVectors(size, seed)
    queries = vectors.all[np.random.default_rng(seed + 1).integers(size, size=8 * BLOCK)] + np.float32(0.02)
    lists = 2 ** round(np.log2(size**0.5))
    rows, truth = [], None
    for factory, params in (
        ("Flat", None),
        *((f"IVF{lists},Flat", f"nprobe={max(1, lists // share)}") for share in (128, 32, 8)),
    ):
        path = folder / f"{factory}.index"
        build_s = 0.0 if path.exists() else timed(build_index, vectors, path, factory, seed)[1]
        index = FaissIndex(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC), vectors.read, search_params=params)
        os.sync()  # else the index would be written to disk during the first searches
        blocks = [queries[start : start + BLOCK] for start in range(0, len(queries), BLOCK)]
        index.search(blocks[0], NEIGHBOURS)
        timings = [timed(index.search, block, NEIGHBOURS) for block in (*blocks, *blocks, *blocks)]
        found = np.concatenate([nearest for (_, nearest), _ in timings[: len(blocks)]])
        truth = found if truth is None else truth
        hits = np.mean([len(set(a) & set(b)) / NEIGHBOURS for a, b in zip(found, truth, strict=True)])
        rows.append(
            {
                "index": factory,
                "params": params,
                "build_s": build_s or None,
                "ms_a_query": median(seconds for _, seconds in timings) / BLOCK * 1e3,
                "recall_at_10": float(hits),
                "index_mb": path.stat().st_size / 1e6,
            }
        )
    return rows


def encoding(args: argparse.Namespace) -> dict[str, Any]:
    """(c): compare documents per second, and vectors, with other libraries', in alternating order."""
    config = load_config()
    corpus, path = Corpus(config.corpus), config.encoder_path
    texts = [document.text for document in islice(corpus.sample(random.Random(args.seed)), args.documents)]
    others = other_libraries(path)
    encoders = others | {"ours, fp32": ours(path, half=False)}
    dtype = half_precision(visible_devices()[0])
    if dtype is None:
        print("this device is not fast in half precision: not measured")
    else:
        encoders[f"ours, {str(dtype).removeprefix('torch.')}"] = ours(path, half=True)
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    vectors: dict[str, np.ndarray] = {}
    for encode in encoders.values():
        encode(texts[:8])  # the first call warms up
    for number in range(args.rounds):
        for name in list(encoders)[:: 1 if number % 2 else -1]:
            vectors[name], taken = timed(encoders[name], texts)
            seconds[name].append(taken)
    reference = vectors["sentence-transformers, fp32"]
    result = {
        name: {
            "documents_a_second": len(texts) / median(taken),
            "greatest_difference": float(np.abs(vectors[name] - reference).max()),
            "times_the_fastest_other": median(
                min(seconds[other][i] for other in others) / taken[i] for i in range(args.rounds)
            ),
        }
        for name, taken in seconds.items()
    }
    rows = [(name, *figures.values()) for name, figures in result.items()]
    print(table(rows, [f"(c) {len(texts)} documents", *next(iter(result.values()))]), end="\n\n")
    return {"documents": len(texts), "rounds": args.rounds, "half_precision": str(dtype), "encoders": result}


def ours(path: Path, half: bool) -> Callable[[list[str]], np.ndarray]:
    """Return this project's encoder."""
    encoder = Encoder(path, EncoderOptions(half=half, max_length=256))
    return lambda texts: encoder.encode(texts, PASSAGE)


def other_libraries(path: Path) -> dict[str, Callable[[list[str]], np.ndarray]]:
    """Return the other libraries' encoders, in full precision, with their own batch sizes, cut at as many tokens."""
    from FlagEmbedding import FlagModel
    from sentence_transformers import SentenceTransformer

    sentence = SentenceTransformer(str(path))
    sentence.max_seq_length = 256
    flag = FlagModel(str(path), pooling_method="mean", use_fp16=False, passage_max_length=256)
    return {
        "sentence-transformers, fp32": lambda texts: sentence.encode(texts, normalize_embeddings=True),
        "FlagEmbedding, fp32": lambda texts: flag.encode_corpus(texts),
    }


def timed(call: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    """Return what a call returns and the seconds it took."""
    started = time.perf_counter()
    result = call(*args)
    return result, time.perf_counter() - started


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {"a": diverse_arm, "b": growth, "c": encoding}


if __name__ == "__main__":
    cli.run(main)
