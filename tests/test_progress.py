"""Progress goes to stderr, and only for work that takes a while."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest

from utils.progress import log, log_to, logging_to_stderr, printable, progress_bar, report_less, report_more


def test_short_work_shows_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress_bar(range(3), desc="short")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work_for_a_minute() -> None:
    bar = progress_bar(total=2, desc="long", unit="step")
    bar.start_t = bar.last_print_t = bar.start_t - 60  # as if it had taken a minute
    bar.update()
    log.warning("between")
    bar.close()


def test_a_terminal_shows_a_bar_without_colour_below_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with logging_to_stderr():
        work_for_a_minute()
    written = terminal.getvalue()
    assert "long:  50%|" in written
    assert "\rWARNING between\n" in written  # the bar was cleared, and is drawn again
    assert "\x1b[3" not in written


def test_a_pipe_gets_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr():
        work_for_a_minute()
    out, err = capsys.readouterr()
    line, *_ = err.splitlines()
    assert out == ""
    assert line.startswith("INFO long: 50% (1 of 2, 01:0")
    assert "\r" not in err


def test_tqdm_refreshes_no_bar_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr():
        bar = progress_bar(total=20, desc="long")
        bar.update()
        bar.last_print_t -= 60
        bar.update(10)
        assert bar.miniters == 1  # its thread leaves such bars alone; another would get each line twice
        bar.close()


def test_less_is_shown_on_request_and_the_file_has_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr():
        report_less()
        log_to(tmp_path / "logs" / "run.log")
        work_for_a_minute()
        log.debug("with the key sk-%s", "aaaa1" * 8)
    assert capsys.readouterr().err == "WARNING between\n"
    logged = (tmp_path / "logs" / "run.log").read_text()
    assert " INFO long: 50%" in logged
    assert " WARNING between\n" in logged
    assert "aaaa" not in logged


def test_more_is_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    for more in (False, True):
        with logging_to_stderr():
            if more:
                report_more()
            logging.getLogger("library").info("said")
        assert ("INFO said" in capsys.readouterr().err) is more


def test_control_characters_are_escaped() -> None:
    assert printable("\x1b[31mred\x1b[0m \x9b2J \u202eevil\r") == "\\x1b[31mred\\x1b[0m \\x9b2J \\u202eevil\\r"
    assert printable("half \ud83d") == "half \\ud83d"
    assert printable("a\tb\nλ 有 e\u0301") == "a\tb\nλ 有 e\u0301"
