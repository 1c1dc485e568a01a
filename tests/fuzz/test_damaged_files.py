"""Whatever a file holds, it is accepted, or refused in one line, in bounded time and memory: never a traceback."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given

from fuzz.readers import KINDS, told
from utils import redaction
from utils.errors import InputError

MOST_SECONDS, MOST_MIB = 5.0, 200


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_file(kind: str, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    drawn, read, name = KINDS[kind]
    path, outcomes, slowest = tmp_path / name, Counter[str](), 0.0

    @given(drawn)
    def check(raw: bytes) -> None:
        nonlocal slowest
        path.write_bytes(raw)
        redaction._known.clear()  # a script reads one configuration, and hides the keys of one
        started = time.process_time()
        try:
            read(path)
            outcomes["accepted"] += 1
        except InputError as error:
            told(error, path)
            outcomes["refused"] += 1
        seconds = time.process_time() - started
        slowest = max(slowest, seconds)
        assert seconds < MOST_SECONDS

    started, before = time.process_time(), peak_mib()
    try:
        check()
    finally:
        seconds, mib = time.process_time() - started, peak_mib() - before
        record_property(
            "figures",
            f"{kind:14} {outcomes.total():6} cases, {outcomes['accepted']} accepted, {outcomes['refused']} refused, "
            f"{seconds:.0f} s of processor time, slowest {slowest:.2f} s, {mib} MiB more",
        )
    assert mib < MOST_MIB
    if outcomes.total() > 50:
        assert (
            min(outcomes["accepted"], outcomes["refused"]) > 0 or kind == "reply"
        )  # or the damage is too small, or great


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
