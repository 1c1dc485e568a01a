"""The errors that end a run with one line, and the exit codes of all scripts.

    Exception
    ├── InputError       2    input that cannot be used: the line names the file, the line or key, and the remedy
    └── RunError         1    the run failed, or produced nothing
        ├── BudgetSpent  1    --max_llm_calls or --max_cost is reached; what was done is written, the run can be resumed
        └── Interrupted  130  Ctrl-C, SIGTERM or SIGHUP; what was done is saved

0 is success, and 3 a comparison whose outcome the user asked to fail on (``--fail_on_regression``).
"""

from utils.redaction import redact

EXIT_FAILED, EXIT_UNUSABLE_INPUT, EXIT_REGRESSION, EXIT_INTERRUPTED = 1, 2, 3, 130


class InputError(Exception):
    """Input that cannot be used; the message names the file, the line or key, and the remedy."""

    exit_code = EXIT_UNUSABLE_INPUT

    def __str__(self) -> str:
        """Return the message without secrets."""
        return redact(super().__str__())


class RunError(Exception):
    """A run that failed for a reason outside its input; the message says what failed and what to do."""

    exit_code = EXIT_FAILED

    def __str__(self) -> str:
        """Return the message without secrets."""
        return redact(super().__str__())


class BudgetSpent(RunError):
    """One more call might exceed the limit on calls or cost; the run can be resumed."""


class Interrupted(RunError):
    """A run that was stopped by Ctrl-C, SIGTERM or SIGHUP after saving what it had."""

    exit_code = EXIT_INTERRUPTED
