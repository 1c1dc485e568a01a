"""What the scripts share at their edge: flags, signals, and how an outcome becomes an exit code."""

from __future__ import annotations

import argparse
import asyncio
import errno
import io
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

from utils.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_UNUSABLE_INPUT, InputError, Interrupted, RunError
from utils.progress import log

T = TypeVar("T")


class _Help(argparse.HelpFormatter):
    """Names every flag's default, also where the help text forgot to."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.default is argparse.SUPPRESS or "default" in text:
            return text
        return f"{text} (default: {'none' if action.default is None else '%(default)s'})"


class Parser(argparse.ArgumentParser):
    """An argument parser whose help shows all defaults and whose complaints are one line."""

    def __init__(self, description: str | None) -> None:
        """Describe what the script does; abbreviated flags are refused, for they change meaning as flags come."""
        super().__init__(description=description, formatter_class=_Help, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line in one line and exit 2."""
        self.exit(EXIT_UNUSABLE_INPUT, f"{self.prog}: {message} (see --help)\n")


def positive(text: str) -> int:
    """Read a whole number of at least 1, for argparse's ``type``."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be at least 1")
    return value


def fraction(text: str) -> float:
    """Read a number from 0 up to, but not including, 1, for argparse's ``type``."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be from 0 up to, but not including, 1")
    return value


def add_lambdas(parser: argparse.ArgumentParser) -> None:
    """Add the diverse retriever's three weights; they come from the flags, else from the configuration."""
    meanings = ("relevance to the query", "likeness to the source", "likeness to what is chosen already")
    for number, meaning in enumerate(meanings, 1):
        parser.add_argument(f"--lambda{number}", type=float, help=f"weight of {meaning} (default: the configuration's)")


def run(main: Callable[[list[str] | None], int | None], argv: list[str] | None = None) -> NoReturn:
    """Call a script's ``main`` and turn its outcome into an exit code; no traceback for what a user can cause."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING, stream=sys.stderr)
    log.setLevel(logging.INFO)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr has it: a terminal may know ASCII only
    # Nothing may reach for a model hub behind the user's back: paths are local, and say so when they are not there.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        sys.exit(main(argv) or 0)
    except (InputError, RunError) as error:
        _say(error, error.exit_code)
    except OSError as error:  # a full disk, a folder that cannot be written
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _say(f"{error.filename or 'writing'}: {error.strerror}; mend that and run again", EXIT_FAILED)
    except KeyboardInterrupt:
        _say("interrupted", EXIT_INTERRUPTED)


def _say(message: object, code: int) -> NoReturn:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(code)


def add_teacher_flags(parser: argparse.ArgumentParser, cache: str) -> None:
    """Add what bounds and keeps a language model's work; the offline teacher has no use for them."""
    add = parser.add_argument
    add("--reply_cache", help=f"file of the model's replies, which are never paid for twice (default: {cache})")
    add("--max_llm_calls", type=int, help="stop, to be gone on with, before more calls than this (default: no limit)")
    add("--max_cost", type=float, help="stop, to be gone on with, before a higher cost than this (default: no limit)")
    # Where 50 sources give nothing, fewer than 6% do (3 in 50, with 95% confidence).
    add("--give_up_after", type=positive, default=50, help="fail once so many sources have come to nothing at all")
    add("--concurrency", type=positive, default=1, help="source documents in flight at a time")


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine; Ctrl-C and SIGTERM let it put away what it has.

    Raises:
        Interrupted: one of the two came; says how to go on.
    """

    async def stoppable() -> T:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(stoppable())
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise Interrupted(f"interrupted; what was paid for is kept. To go on: {command_line()}") from None


def command_line() -> str:
    """Return the command that this process was started with, fit to be pasted into a shell."""
    return shlex.join(["python", *(flag for flag in sys.argv if flag != "--overwrite")])


def use_gpus(gpu_id: str | None) -> None:
    """Pin the GPUs that a configuration names, unless the user has set ``CUDA_VISIBLE_DEVICES``.

    Must run before torch is imported.
    """
    if gpu_id is not None:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", gpu_id)
