"""A server as a scorer: both protocols, long lists in several requests, and one line for each failure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from utils.errors import InputError, RunError
from utils.serving.endpoint import KEY, RerankEndpoint

PAIRS = [("a", "bbb"), ("a", "b"), ("a", "bb"), ("c", "b" * 9)]


def lengths(query: str, passages: list[str]) -> np.ndarray:
    assert len(passages) <= 2
    return np.array([len(query) * len(one) for one in passages])


@pytest.mark.parametrize("protocol", ["documents", "texts"])
def test_scores_come_in_the_order_of_the_pairs(serve: Callable[..., str], protocol: str) -> None:
    endpoint = RerankEndpoint(serve(lengths, protocol), batch_size=2)
    assert endpoint.score(PAIRS).tolist() == [3, 1, 2, 9]
    assert endpoint.score([]).tolist() == []


def test_path_is_added_where_there_is_none() -> None:
    addresses = ["http://host", "http://host:80/", "https://host/v1", "http://host/models/rerank?x=1"]
    added = ["http://host/rerank", "http://host:80/rerank", "https://host/v1/rerank", "http://host/models/rerank?x=1"]
    assert [RerankEndpoint(one).url for one in addresses] == added
    with pytest.raises(InputError, match="is not an address"):
        RerankEndpoint("localhost:8080")


def test_failures_are_told_in_one_line(serve: Callable[..., str]) -> None:
    with pytest.raises(RunError, match="does not answer"):
        RerankEndpoint("http://127.0.0.1:9").score(PAIRS)
    with pytest.raises(InputError, match=r"'documents': 422 .*'texts': 422"):
        RerankEndpoint(serve(lengths, "inputs")).score(PAIRS)
    url = serve(lambda query, passages: [])
    with pytest.raises(InputError, match="no finite score for some of 3 passages"):
        RerankEndpoint(url).score(PAIRS)
    with pytest.raises(InputError, match="404"):
        RerankEndpoint(f"{url}/embed").score(PAIRS)
    with pytest.raises(InputError, match="does not answer as a reranker"):
        RerankEndpoint(url)._scores('{"embeddings": []}', 1)
    for answer in ('[{"index": 0, "score": NaN}]', '[{"index": 0, "score": 1}, {"index": 0, "score": 1}]'):
        with pytest.raises(InputError):
            RerankEndpoint(url)._scores(answer, 1)


def test_key_and_fields_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "a-key-that-is-secret")
    endpoint = RerankEndpoint("http://host", {"model": "mine"})
    assert endpoint._headers["Authorization"] == "Bearer a-key-that-is-secret"
    sent: list[dict] = []
    monkeypatch.setattr(endpoint, "_post", lambda body: sent.append(body) or (200, '[{"index": 0, "score": 1}]'))
    assert endpoint.score(PAIRS[:1]).tolist() == [1]
    assert sent == [{"query": "a", "documents": ["bbb"], "model": "mine"}]
    assert "a-key-that-is-secret" not in str(InputError("refused a-key-that-is-secret"))
