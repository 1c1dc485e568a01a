"""The /rerank endpoint of a server as a scorer: Text Embeddings Inference's protocol, or the one that the others share.

TEI takes ``{"query", "texts"}`` and returns ``[{"index", "score"}]``; vLLM, infinity, Jina and Cohere take
``{"query", "documents"}`` and return ``{"results": [{"index", "relevance_score"}]}``.
"""

import itertools
import json
import math
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from utils.errors import InputError, RunError
from utils.files import loads
from utils.progress import progress_bar
from utils.redaction import remember_variable

KEY = "RERANK_API_KEY"  # the environment variable whose value is sent as the bearer token
# The key of the passages in a request, and what must stand beside it for long pairs to be cut rather than refused.
PROTOCOLS: dict[str, dict[str, Any]] = {"documents": {}, "texts": {"truncate": True}}
TIMEOUT = 300  # seconds for a request: a server without a GPU may need them
QUOTED = 300  # characters of a server's own words


class RerankEndpoint:
    """Scores pairs by requests to a server, whose protocol is found with the first one."""

    def __init__(self, url: str, fields: Mapping[str, Any] | None = None, batch_size: int = 32) -> None:
        """Take an address, without a path if it is /rerank.

        Args:
            url: of the endpoint, or of its server.
            fields: more fields of each request, such as ``model``.
            batch_size: passages in a request; TEI refuses more than 32 unless it was started with more.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InputError(f"--url {url} is not an address: give one such as http://localhost:8080/rerank")
        bare = parts.path.strip("/") in ("", "v1", "v2")
        self.url = parts._replace(path=f"{parts.path.rstrip('/')}/rerank").geturl() if bare else url
        self._fields, self._batch_size = dict(fields or {}), batch_size
        self._protocols = list(PROTOCOLS)  # those that it may speak
        self._headers = {"Content-Type": "application/json"}
        if os.environ.get(KEY):
            self._headers["Authorization"] = f"Bearer {remember_variable(KEY)}"

    def score(self, pairs: Sequence[tuple[str, str]], desc: str | None = None) -> np.ndarray:
        """Return the server's score for each (query, passage), float64 of shape (pairs,)."""
        scores: list[float] = []
        with progress_bar(desc=desc, total=len(pairs), unit="pair", disable=desc is None) as bar:
            for query, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
                passages = [passage for _, passage in group]
                for start in range(0, len(passages), self._batch_size):
                    batch = passages[start : start + self._batch_size]
                    scores += self._rerank(query, batch)
                    bar.update(len(batch))
        return np.array(scores)

    def _rerank(self, query: str, passages: list[str]) -> list[float]:
        """Return the scores of a query's passages, in their order."""
        refused = ""
        for protocol in self._protocols:
            body = {"query": query, protocol: passages, **PROTOCOLS[protocol], **self._fields}
            status, answer = self._post(body)
            if status == 200:
                self._protocols = [protocol]
                return self._scores(answer, len(passages))
            refused += f"; {protocol!r}: {status} {' '.join(answer.split())[:QUOTED]}"
            if status not in (400, 422):
                break
        raise InputError(f"{self.url} refuses a query with {len(passages)} passages{refused}")

    def _post(self, body: Mapping[str, Any]) -> tuple[int, str]:
        """Return the status and the body of the answer."""
        request = urllib.request.Request(self.url, json.dumps(body).encode(), self._headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
                return reply.status, reply.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode("utf-8", "replace")
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise RunError(f"{self.url} does not answer ({reason}): start the server, or fix --url") from None

    def _scores(self, answer: str, count: int) -> list[float]:
        """Return the scores that an answer gives for ``count`` passages; an InputError unless each has one."""
        try:
            found = loads(answer)
            rows = found if isinstance(found, list) else found.get("results", found.get("data"))
            scores = {row["index"]: float(row.get("relevance_score", row.get("score"))) for row in rows}
        except (ValueError, TypeError, KeyError, AttributeError):
            shown = " ".join(answer.split())[:QUOTED]
            raise InputError(f"{self.url} does not answer as a reranker, but {shown!r}: give its /rerank") from None
        if sorted(scores) != list(range(count)) or len(rows) != count or not all(map(math.isfinite, scores.values())):
            raise InputError(
                f"{self.url} returns no finite score for some of {count} passages: have it return them all"
            )
        return [scores[place] for place in range(count)]
