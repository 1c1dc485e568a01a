"""How many cases are tried: a few in every run of the tests, and 10,000 of each kind in `make fuzz`."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, Phase, settings

# No deadline in wall-clock time: the cases bound their own time on the processor. No shrinking: a case is a file.
COMMON: dict[str, Any] = {
    "deadline": None, "database": None, "print_blob": False, "suppress_health_check": list(HealthCheck),
    "phases": [Phase.explicit, Phase.generate],
}  # fmt: skip
settings.register_profile("few", max_examples=60, derandomize=True, **COMMON)
settings.register_profile("fuzz", max_examples=10_000, **COMMON)
settings.load_profile("few")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show cases, outcomes, time and memory of each kind."""
    if settings.get_current_profile_name() == "fuzz":
        terminalreporter.section("damaged files")
        for report in (*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")):
            terminalreporter.write_line(dict(report.user_properties).get("figures", report.nodeid))
