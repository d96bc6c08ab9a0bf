"""Errors as Gemini's API says them: google.rpc.Status (cloud.google.com/apis/design/errors)."""

import re
from typing import Any, Final, cast

from msgspec import Struct

from legato.core.chunk import as_object, decoded
from legato.core.errors import (
    ApiError,
    bad_gateway,
    error_code,
    from_status,
    from_stream_event,
    malformed,
)
from legato.core.json_text import encode_leniently
from legato.dialects._gemini_parts import TEXTS

#: HTTP's numbers for google.rpc.Code, where an error tells only the word.
_STATUSES: Final = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}

_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s", re.ASCII)


class _Problem(Struct):
    """`{"error": {"code", "message", "status", "details"}}`, also as the only member of a list."""

    message: str
    status: int | None  # HTTP's
    word: str | None
    retry_after: float | None  # seconds


def in_band(fields: Any) -> ApiError:
    """An error that came as an event of a stream."""
    problem = _problem(fields)
    code = _code(problem) or (problem.word or "upstream_error").lower()
    status = problem.status or 502
    return from_stream_event(status, code, problem.message, retry_after=problem.retry_after)


def refusal(status: int, body: bytes, retry_after: float | None = None) -> ApiError:
    problem = _problem(decoded(body))
    if status == 400 and problem.status in (401, 403):
        status = problem.status
    wait = retry_after if retry_after is not None else problem.retry_after
    return from_status(status, _code(problem), problem.message, retry_after=wait)


def _code(problem: _Problem) -> str | None:
    too_long = "exceeds the maximum number of tokens" in problem.message
    return "context_length_exceeded" if too_long else None


def no_stream(body: bytes) -> ApiError:
    """What an upstream meant that answered 200 with something else than a stream of events."""
    fields = decoded(body)
    if _said(fields) is not None:
        return in_band(fields)
    return bad_gateway("The upstream answered with something that is not a stream of events.")


def unstreamed(body: bytes) -> list[bytes]:
    """Without `alt=sse` the same API gives its events as a list."""
    fields = decoded(body, TEXTS)
    events = cast("list[Any]", fields if isinstance(fields, list) else [fields])
    if _said(fields) is not None or not (as_object(events[0] if events else None) or {}):
        return []
    return [encode_leniently(each) for each in events]


def unreadable(data: bytes, error: Exception) -> ApiError:
    fields = decoded(data)
    return in_band(fields) if _said(fields) is not None else malformed(error)


def _said(fields: Any) -> Any:
    if isinstance(fields, list) and fields:
        fields = cast("list[Any]", fields)[0]
    return (as_object(fields) or {}).get("error")


def _problem(fields: Any) -> _Problem:
    said = _said(fields)
    error = as_object(said) or {}
    message = said if isinstance(said, str) else error.get("message")
    name, code, details = error.get("status"), error.get("code"), error.get("details")
    problem = _Problem(str(message or "the upstream gave no reason")[:500], None, None, None)
    if (said_word := error_code(name)) is not None:
        problem.word = said_word
        problem.status = _STATUSES.get(said_word)
    if isinstance(code, int) and 400 <= code < 600:
        problem.status = code
    if name == "FAILED_PRECONDITION":
        problem.status = 403  # our country, or our bills: not what this caller asked for
    for each in cast("list[Any]", details) if isinstance(details, list) else ():
        detail = as_object(each) or {}
        if detail.get("reason") == "API_KEY_INVALID":
            problem.status = 401  # it is said with a 400
        problem.retry_after = _seconds(detail.get("retryDelay")) or problem.retry_after
    return problem


def _seconds(duration: Any) -> float | None:
    """google.protobuf.Duration as JSON has it: `"34.07s"`."""
    found = _DURATION.fullmatch(duration) if isinstance(duration, str) else None
    return float(found[1]) if found else None
