"""Progress goes to stderr, and only for work that takes a while."""

from __future__ import annotations

import pytest

from utils.progress import printable, progress_bar


def test_short_work_shows_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress_bar(range(3), desc="short")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_long_work_shows_a_bar_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    bar = progress_bar(total=2, desc="long")
    bar.start_t -= 60  # as if it had taken a minute
    bar.update()
    bar.refresh()
    bar.close()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "long" in printed.err


def test_control_characters_are_escaped() -> None:
    assert printable("\x1b[31mred\x1b[0m \x9b2J \u202eevil\r") == "\\x1b[31mred\\x1b[0m \\x9b2J \\u202eevil\\r"
    assert printable("half \ud83d") == "half \\ud83d"
    assert printable("a\tb\nλ 有 e\u0301") == "a\tb\nλ 有 e\u0301"
