"""A reranker with sensitive weights, pools that show every fault, and a real server of both protocols on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miniature import FACTS, TOWNS, save_tiny_bert
from utils.data.judged import JudgedPool
from utils.data.rows import pools_of_rows
from utils.schema import ContrastiveExample
from utils.scoring import Reranker, open_reranker

QUERY, PAIR = 16, 40  # tokens that the folder was trained at


def save_sensitive(folder: Path, seed: int = 0, **tokenizer: Any) -> Path:
    """Save a reranker whose random weights are large enough to tell its texts apart, with the lengths of a training."""
    import torch
    from transformers import AutoModelForSequenceClassification

    save_tiny_bert(folder, head=True)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.manual_seed(seed)
    for weights in model.parameters():
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=0.4)
    model.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"model_max_length": PAIR, "query_max_length": QUERY} | tokenizer
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session")
def sensitive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sensitive(tmp_path_factory.mktemp("sensitive") / "model")


@pytest.fixture(scope="session")
def reranker(sensitive: Path) -> Reranker:
    return open_reranker(sensitive, half=False)


def rows() -> list[ContrastiveExample]:
    """Return eight queries with six passages each, of which two are longer than the pair; one query is long."""
    found = []
    for number, town in enumerate(TOWNS):
        others = [*TOWNS[number + 1 :], *TOWNS[:number]]
        long = [f"{other} {FACTS[0]} and {FACTS[1]}, but {other} {FACTS[2]} " * 3 + town for other in others[:2]]
        short = [f"{other} {FACTS[i]}." for i, other in enumerate(others[2:5])]
        found.append(ContrastiveExample(f"What of {town}?", [f"{town} {FACTS[number % 3]}."], [*long, *short]))
    return found


@pytest.fixture(scope="session")
def pools() -> list[JudgedPool]:
    return pools_of_rows(rows())


Score = Callable[[str, list[str]], np.ndarray]


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Return a function that serves scores in one of the protocols and returns the address."""
    running = []

    def start(score: Score, protocol: str = "documents") -> str:
        import socket

        import uvicorn

        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(application(score, protocol), log_level="critical"))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()


def application(score: Score, protocol: str) -> Any:
    """Return an app that takes and returns what TEI ("texts") or the others ("documents") do, best first."""
    from fastapi import FastAPI
    from pydantic import create_model

    app = FastAPI()
    body = create_model("Body", query=(str, ...), **{protocol: (list[str], ...)})

    def rerank(request: body) -> Any:  # type: ignore[valid-type]
        texts = getattr(request, protocol)
        found = [(i, float(value)) for i, value in enumerate(score(request.query, texts))]
        found.sort(key=lambda one: -one[1])
        if protocol == "texts":
            return [{"index": i, "score": value} for i, value in found]
        return {"results": [{"index": i, "relevance_score": value} for i, value in found]}

    rerank.__annotations__["request"] = body
    app.post("/rerank")(rerank)
    return app


def cross_encoder(folder: Path, **options: Any) -> Any:
    """Return sentence-transformers' model of a folder, which returns logits unless told otherwise."""
    import torch
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(folder), **({"activation_fn": torch.nn.Identity(), "device": "cpu"} | options))


def scored_by(model: Any, query: str = "{}", passage: str = "{}") -> Score:
    """Return what a server computes with a model and templates."""
    return lambda text, passages: model.predict(
        [(query.format(text), passage.format(one)) for one in passages], show_progress_bar=False
    )
