"""Configures logging: events on standard error."""

import logging
import sys

import structlog


def configure_logging() -> None:
    """Writes events to standard error: in columns at a terminal, otherwise as one JSON object per
    line."""
    at_terminal = sys.stderr.isatty()
    # structlog's default tracebacks show all local variables: prompts, answers and keys.
    columns = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[
            structlog.processors.TimeStamper(
                fmt="%H:%M:%S" if at_terminal else "iso", utc=not at_terminal
            ),
            structlog.processors.add_log_level,
            *(() if at_terminal else (structlog.processors.format_exc_info,)),
            columns if at_terminal else structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
