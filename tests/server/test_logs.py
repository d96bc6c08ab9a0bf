"""What the server says of itself, and what it keeps to itself."""

import io
import sys
from collections.abc import Iterator

import pytest
import structlog

from legato.server.logs import configure_logging

PROMPT = "a prompt that is nobody's business"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_a_fault_is_told_without_what_was_being_worked_on(
    monkeypatch: pytest.MonkeyPatch, kind: type[io.StringIO]
) -> None:
    """Prompts, answers and keys are never logged, nor as the variables of a traceback."""
    logged = kind()
    monkeypatch.setattr(sys, "stderr", logged)
    configure_logging()

    def works_on(body: str) -> int:
        return len(body) // 0

    try:
        works_on(PROMPT)
    except ZeroDivisionError:
        structlog.get_logger().exception("bug", where="here")
    assert "ZeroDivisionError" in logged.getvalue()
    assert "works_on" in logged.getvalue(), "where it happened"
    assert PROMPT not in logged.getvalue()
