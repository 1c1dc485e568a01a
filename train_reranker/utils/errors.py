"""Errors and exit codes."""

from __future__ import annotations

EXIT_FAILED, EXIT_UNUSABLE_INPUT, EXIT_REGRESSION, EXIT_INTERRUPTED = 1, 2, 3, 130


class InputError(Exception):
    """Input that cannot be used: one line that names the file, the line or key, and the mend."""

    exit_code = EXIT_UNUSABLE_INPUT


class RunError(Exception):
    """A run that failed for a reason outside its input: one line that says what and what now."""

    exit_code = EXIT_FAILED


class Interrupted(RunError):
    """A run that was asked to end (Ctrl-C, SIGTERM) and has put away what it had."""

    exit_code = EXIT_INTERRUPTED
