"""What statuses, headers and error bodies mean."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from typing import Any

import pytest

from utils.teachers.endpoint import Scrubber
from utils.teachers.endpoint_errors import Kind, retry_after, status_error


def test_retry_after_is_read_from_headers_and_bodies() -> None:
    now = time.time()
    assert retry_after({"retry-after": "2.5"}) == 2.5
    assert retry_after({"retry-after-ms": "150", "retry-after": "9"}) == 0.15
    dates = {"retry-after": formatdate(now + 3600 + 7, usegmt=True), "date": formatdate(now + 3600, usegmt=True)}
    assert retry_after(dates) == 7.0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}, '{"retryDelay": "34s"}') == 34.0
    assert retry_after({}, "Please try again in 250ms.") == 0.25
    assert retry_after({}, "Please try again in 1m3.5s. Visit us") == 63.5
    assert retry_after({}, "try again in 2h0m1s") == 7201
    assert retry_after({}, "Try again in 20 seconds.") == 20
    assert retry_after({}, "try again in a moment") is None
    assert retry_after({"retry-after": "nan"}) is retry_after({"retry-after": "inf"}) is None


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, {"message": "no JSON came of it", "code": "json_validate_failed"}, Kind.SERVER),
        *((status, {"message": "later"}, Kind.SERVER) for status in (409, 421, 424, 425, 498, 499, 503, 520, 529)),
        (408, {"message": "too slow"}, Kind.TIMEOUT),
        (429, {"message": "3 requests a minute"}, Kind.RATE_LIMIT),
        (429, {"message": "daily limit reached"}, Kind.QUOTA),
        (429, {"message": "tokens per day. Please try again in 7m12.5s"}, Kind.RATE_LIMIT),
        (400, {"message": "the prompt is too long"}, Kind.REFUSED),
        (413, {"message": "the prompt is too long"}, Kind.REFUSED),
        (403, {"message": "not in your region"}, Kind.ACCESS),
        (410, {"message": "the model was retired"}, Kind.NOT_FOUND),
    ],
)
def test_status_and_message_decide_the_kind(status: int, error: Any, kind: Kind) -> None:
    assert status_error(status, {}, json.dumps({"error": error}), Scrubber([])).kind is kind


@pytest.mark.parametrize(
    "body",
    [
        {"error": ["no", "such", "model"]}, {"error": [{"message": ["a", {"b": 1}]}]},
        {"error": {"message": {"a": []}}},
        {"detail": [{"loc": [], "msg": "m"}]}, {"detail": [{"loc": ["body"], "type": []}]}, [[[]]], [], [None], 5, None,
        {"error": {"code": ["a"], "type": {}, "param": [1], "message": None}}, {"errors": [1, 2]},
    ],
)  # fmt: skip
def test_error_details_of_any_shape_are_told_in_a_line(body: Any) -> None:
    error = status_error(400, {}, json.dumps(body), Scrubber([]))
    assert str(error).startswith("refused 400")
    assert "\n" not in str(error)
    assert status_error(200, {}, json.dumps(body), Scrubber([])).kind is Kind.SERVER


@pytest.mark.parametrize("body", ["[" * 100_000, "<html>" + "<" * 100_000, "<html><script" + "<title" * 15_000])
def test_a_hostile_error_body_is_read_in_time_that_grows_with_its_length(body: str) -> None:
    started = time.process_time()
    assert status_error(500, {}, body, Scrubber([])).kind is Kind.SERVER
    assert time.process_time() - started < 2
    assert retry_after({}, f"retry in {'9' * 400}s") is None
