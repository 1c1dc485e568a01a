"""What only the scripts use: flags, signals, and how an outcome becomes an exit code."""

import argparse
import asyncio
import errno
import math
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import partial
from typing import Any, NoReturn, TextIO, TypeVar

from utils import NAME, __version__
from utils.config import DEFAULT_CONFIG
from utils.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_UNUSABLE_INPUT, InputError, Interrupted, RunError
from utils.files import check_output
from utils.models.devices import is_out_of_memory
from utils.models.folders import TRUST_CODE
from utils.progress import log, log_to, logging_to_stderr, printable, report_less, report_more
from utils.redaction import redact

T = TypeVar("T")
LONGEST_MESSAGE = 2000  # characters; what an error quotes may be a whole file


class _Help(argparse.HelpFormatter):
    """Shows every flag's default, also where the help text does not."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.default is argparse.SUPPRESS or "default" in text:
            return text
        return f"{text} (default: {'none' if action.default is None else '%(default)s'})"


class Parser(argparse.ArgumentParser):
    """An argument parser that shows all defaults in its help and reports an error in one line."""

    def __init__(self, description: str | None, parents: tuple[argparse.ArgumentParser, ...] = ()) -> None:
        """Describe the script; abbreviated flags are refused, because a new flag could change their meaning."""
        parents = (*parents, common_flags())
        super().__init__(description=description, formatter_class=_Help, allow_abbrev=False, parents=parents)

    def error(self, message: str) -> NoReturn:
        """Report what is wrong with the command line in one line and exit 2."""
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


def amount(text: str) -> float:
    """Read a finite number of at least 0, for argparse's ``type``: NaN would be a limit that is never reached."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{value} must be a number of at least 0")
    return value


def weight(text: str) -> float:
    """Read a number from 0 to 1, for argparse's ``type``."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value} must be from 0 to 1")
    return value


class _TrustCode(argparse.Action):
    """Lets the code in models' folders run, in this process and those that it starts."""

    def __call__(self, *_: object) -> None:
        os.environ[TRUST_CODE] = "1"


class _AtOnce(argparse.Action):
    """Calls ``const`` as soon as the flag is read, with its value if it takes one."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: object, values: Any, flag: object = None) -> None:
        self.const(*([] if self.nargs == 0 else [values]))


def _log_to(name: str) -> None:
    log_to(check_output(name))
    log.debug("%s %s: %s", NAME, __version__, command_line())


def common_flags() -> argparse.ArgumentParser:
    """Return the flags of all scripts: what they report where."""
    parser = argparse.ArgumentParser(add_help=False)
    version = f"{NAME} {__version__}"
    parser.add_argument("--version", action="version", version=version, help="print the version and stop")
    add = partial(parser.add_argument, action=_AtOnce, default=argparse.SUPPRESS)
    add("--quiet", nargs=0, const=report_less, help="report only warnings, errors and results (default: no)")
    add("--verbose", nargs=0, const=report_more,
        help="report also what libraries say, and where an error arose (default: no)")  # fmt: skip
    add("--log_file", const=_log_to, metavar="FILE", help="file to append all reports to (default: none)")
    return parser


def model_flags() -> argparse.ArgumentParser:
    """Return the flag of all scripts that load models, for ``parents``."""
    parser = argparse.ArgumentParser(add_help=False)
    code = "run the code that comes in a model's folder, which you should have read (default: it never runs)"
    parser.add_argument("--trust_remote_code", nargs=0, action=_TrustCode, default=argparse.SUPPRESS, help=code)
    return parser


def test_flags() -> argparse.ArgumentParser:
    """Return the flags of all scripts that read pools to rank, for ``parents``."""
    parser = argparse.ArgumentParser(add_help=False, parents=[model_flags()])
    add = parser.add_argument
    data = "query/pos/neg rows (a file in any format, or a folder), or a BEIR folder"
    add("--test_data", default="./data/test_data.jsonl", help=data)
    add("--run", metavar="FILE", help="first stage of a BEIR folder, in TREC format (default: --config's retriever)")
    config = "YAML configuration of the first stage (default: the demo's for a BEIR folder, BM25 for rows)"
    add("--config", "--config_path", help=config)
    depth = "documents to rerank for each query of a BEIR folder (default: all of --run, else 100)"
    add("--depth", type=positive, help=depth)
    add("--batch_size", type=positive, default=16, help="pairs of the longest length that fit into memory at once")
    return parser


def agreement_flags() -> argparse.ArgumentParser:
    """Return the flags of all scripts that compare a trained folder with what serves it, for ``parents``."""
    parser = argparse.ArgumentParser(add_help=False, parents=[test_flags()])
    add = parser.add_argument
    add("--min_tau", type=weight, default=0.95, help="exit 3 if the queries' mean Kendall's tau is below this")
    apart = "exit 3 if more than 1 in 100 scores, or scores of cut pairs, are further apart, in standard deviations"
    add("--tolerance", type=amount, default=0.1, help=apart)
    return parser


def budget_flags() -> argparse.ArgumentParser:
    """Return the flags of all scripts that ask a language model, for ``parents``."""
    parser = argparse.ArgumentParser(add_help=False)
    add = parser.add_argument
    add("--reply_cache", help="file that keeps the model's replies, so that none is paid for twice "
        "(default: replies.sqlite in the generator's --output_dir, ./data)")  # fmt: skip
    add("--max_llm_calls", type=int, help="stop before exceeding this many calls; resumable (default: no limit)")
    add("--max_cost", type=amount, help="stop before exceeding this cost; resumable (default: no limit)")
    return parser


def labelling_flags() -> argparse.ArgumentParser:
    """Return the flags that the generator and the ablation share, for ``parents``."""
    parser = argparse.ArgumentParser(add_help=False, parents=[model_flags(), budget_flags()])
    add = parser.add_argument
    add("--config", "--config_path", default=DEFAULT_CONFIG, help="YAML configuration (default: the demo's)")
    add("--doc_ids", "--doc_ids_file", help="file of source ids, one per line, tried in order (default: a sample)")
    add("--min_length", type=int, default=300, help="shortest source document, in characters")
    add("--seed", type=int, help="seed of the sample of sources (default: the configuration's)")
    for number, meaning in enumerate(("relevance to the query", "similarity to the source", "redundancy"), 1):
        add(f"--lambda{number}", type=float, help=f"MMR weight of {meaning} (default: the configuration's)")
    add("--rerank_weight", type=weight, help="weight of a reranker's scores against the first stage's, 0 to 1 "
        "(default: the configuration's)")  # fmt: skip
    # Where 50 sources yield nothing, fewer than 6% do (3 in 50, with 95% confidence).
    add("--give_up_after", type=positive, default=50, help="fail after this many sources without any result")
    add("--concurrency", type=positive, default=1, help="source documents processed at a time")
    add("--retry_errors", action="store_true", help="retry the sources of an earlier run that ended in errors "
        "(default: keep their errors)")  # fmt: skip
    return parser


def run(main: Callable[[list[str] | None], int | None], argv: list[str] | None = None) -> NoReturn:
    """Call a script's ``main`` and turn its outcome into an exit code: no traceback for what a user can cause."""
    with redirect_stdout(_Stream(sys.stdout, printable)), redirect_stderr(_Stream(sys.stderr)), logging_to_stderr():
        _run(main, argv)


class _Stream:
    """A standard stream that whoever reads it may close early, as ``| head`` does: the run still ends as it would have.

    What its encoding lacks is escaped, since a terminal may be ASCII only.
    """

    def __init__(self, stream: TextIO | None, clean: Callable[[str], str] = str) -> None:
        """Write through ``clean``, since only progress bars may control the terminal; None is a closed stream."""
        self._stream, self._clean = stream or open(os.devnull, "w", encoding="utf-8"), clean  # noqa: SIM115

    def write(self, text: str) -> int:
        """Write a text."""
        encoding = self._stream.encoding or "utf-8"
        shown = self._clean(text).encode(encoding, "backslashreplace").decode(encoding)
        self._unless_closed(self._stream.write, shown)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        self._unless_closed(self._stream.flush)

    def _unless_closed(self, write: Callable[..., object], *text: str) -> None:
        try:
            write(*text)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # for the rest of the run, and what is still buffered
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _run(main: Callable[[list[str] | None], int | None], argv: list[str] | None) -> NoReturn:
    sys.excepthook = lambda *error: sys.stderr.write(redact("".join(traceback.format_exception(*error))))
    os.environ.pop(TRUST_CODE, None)  # only the flag sets it
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all models are local; nothing is downloaded behind the user's back
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        code = main(argv) or 0
        sys.stdout.flush()
        sys.exit(code)
    except (InputError, RunError) as error:
        _fail(error, error.exit_code)
    except OSError as error:  # a full disk, a folder that cannot be written
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _fail(f"{error.filename or 'writing'}: {error.strerror}; fix that and run again", EXIT_FAILED)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).partition(". ")[0]
        _fail(f"out of memory ({reason}): lower the batch size or the length, or use another device", EXIT_FAILED)
    except KeyboardInterrupt:
        _fail("interrupted", EXIT_INTERRUPTED)


def _fail(message: object, code: int) -> NoReturn:
    with suppress(OSError):
        sys.stdout.flush()
    line = " ".join(str(message).split("\n"))
    sys.stderr.write(f"error: {printable(redact(line)[:LONGEST_MESSAGE])}\n")
    log.debug("ended with exit code %d: %s", code, line, exc_info=True)
    sys.exit(code)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine; on Ctrl-C, SIGTERM or SIGHUP it is cancelled, may save what it has, and Interrupted is raised.

    Further signals change nothing: what it still waits for is paid for.
    """

    async def cancellable() -> T:
        task = asyncio.current_task()
        assert task is not None

        def end() -> None:
            if task.cancelling():
                log.warning("waiting for the replies to what has been sent, which are paid for; SIGKILL loses them")
            else:
                task.cancel()

        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(name) is not signal.SIG_IGN:  # as nohup sets it
                asyncio.get_running_loop().add_signal_handler(name, end)
        return await work

    try:
        return asyncio.run(cancellable())
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise Interrupted(f"interrupted; what was paid for is kept. To resume: {command_line()}") from None


def command_line(*more: str) -> str:
    """Return the command of this process without ``--overwrite``, and with more flags, to be pasted into a shell."""
    return shlex.join(["python", *(flag for flag in sys.argv if flag != "--overwrite"), *more])


def retry_command(flags: argparse.Namespace, output: object) -> str:
    """Return the command that retries the errors of this process's run, which made ``output``."""
    named = [] if flags.output_file else ["--output_file", str(output)]
    return command_line(*named, *([] if flags.retry_errors else ["--retry_errors"]))


def use_gpus(gpu_id: str | None) -> None:
    """Pin a configuration's GPUs before torch is imported, unless the user has set ``CUDA_VISIBLE_DEVICES``."""
    if gpu_id is not None:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", gpu_id)
