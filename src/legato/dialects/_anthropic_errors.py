"""Errors as Anthropic's API says them."""

from typing import Any, Final

from legato.core.chunk import as_object, decoded
from legato.core.errors import ApiError, bad_gateway, error_code, from_status, from_stream_event

#: What an error in a stream would have been as a status.
_STATUSES: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}


def in_band(fields: Any) -> ApiError:
    """An error that came as an event of a stream."""
    kind, message = _explain(fields)
    return from_stream_event(_STATUSES.get(kind or "", 502), _code(kind, message), message)


def refusal(status: int, body: bytes, retry_after: float | None = None) -> ApiError:
    kind, message = _explain(decoded(body))
    return from_status(status, _code(kind, message), message, retry_after=retry_after)


def _code(kind: str | None, message: str) -> str | None:
    if "exceed context limit" in message:
        return "context_length_exceeded"
    return None if kind == "invalid_request_error" else kind


def no_stream(body: bytes) -> ApiError:
    """What an upstream meant that answered 200 with something else than a stream of events."""
    fields = decoded(body)
    if (as_object(fields) or {}).get("error"):
        return in_band(fields)
    return bad_gateway("The upstream answered with something that is not a stream of events.")


def _explain(fields: Any) -> tuple[str | None, str]:
    """(type, message) of `{"type": "error", "error": {"type", "message"}}`."""
    error = (as_object(fields) or {}).get("error")
    said = as_object(error) or {}
    kind = said.get("type")
    message = error if isinstance(error, str) else said.get("message")
    shown = str(message or "the upstream gave no reason")[:500]
    return error_code(kind), shown
