"""Hooks of pytest: one seed for all of its processes, and a line in its summary."""

import os
import secrets
from typing import Any, Final

#: The environment variable with the seed of the suite's conversations.
SEED: Final = "ORACLE_SEED"

#: The property of a test report: (conversations, seconds, seed).
PROPERTY: Final = "oracle"


def pytest_configure(config: Any) -> None:
    os.environ.setdefault(SEED, str(secrets.randbits(32)))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    parts = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == PROPERTY
    ]
    if parts:
        count, seconds = sum(each[0] for each in parts), sum(each[1] for each in parts)
        terminalreporter.write_line(
            f"oracle: {count} conversations in {seconds:.1f} s, seed {parts[0][2]}"
        )
