"""Reads errors of upstreams, whatever envelope they come in: one reader for all dialects.

Servers borrow each other's formats, and gateways wrap what their own upstream has answered. The
innermost words that say why are what a client needs; the outer ones are used where there are none.
"""

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

#: HTTP's status for the words that vendors have for a kind of error.
_STATUSES: Final = {
    "invalid_request_error": 400,
    "BadRequestError": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
    # google.rpc.Code
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 403,  # our country, or our bills: not what this caller asked for
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}

#: Members that hold an error, or more about it, from the outside in.
_HOLDERS: Final = ("error", "errors", "base_resp", "metadata", "raw", "detail", "details")
#: Members that say why in words.
_WORDS: Final = ("message", "msg", "status_msg", "error_msg", "error_message", "reason")
#: Values of a `code` that say that there is no error.
_SUCCESS: Final = (None, 0, "0", 200, "200", "", "ok", "OK", "success", "SUCCESS")
#: Values of an `error` that say that there is none.
_NOTHING: Final[tuple[Any, ...]] = (None, False, "", {}, [])

_LONGEST: Final = 500
_DEEPEST: Final = 8

_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s", re.ASCII)


class Problem(Struct):
    """What an upstream says of an error. `status` is HTTP's; `retry_after` is in seconds."""

    message: str = ""
    code: str | None = None
    kind: str | None = None
    rpc: str | None = None  # google.rpc.Code
    param: str | None = None
    status: int | None = None
    retry_after: float | None = None

    @property
    def words(self) -> str:
        return self.message[:_LONGEST] or "the upstream gave no reason"

    @property
    def name(self) -> str | None:
        """Its code; else its kind, where that says more than that it is the caller's fault."""
        kind = None if self.kind in ("invalid_request_error", "error") else self.kind
        return self.code or kind


def problem_of(value: Any) -> Problem:
    """What `value`, which stands in the place of an error, says."""
    problem = Problem()
    _read(value, problem, 0)
    return problem


def is_failure(fields: dict[str, Any]) -> bool:
    """Whether an object that came as an event of a stream, or as a whole answer, says that the
    upstream failed. Some servers put `"error": null` or `"code": 0` into each good answer."""
    if fields.get("error") not in _NOTHING or fields.get("object") == "error":
        return True
    base = as_object(fields.get("base_resp")) or {}
    if base.get("status_code") not in _SUCCESS:
        return True
    if any(fields.get(name) for name in ("choices", "candidates", "message", "content", "done")):
        return fields.get("success") is False or _has_code(fields)
    return (
        fields.get("success") is False
        or fields.keys() == {"error"}
        or bool(fields.get("detail"))
        or bool(fields.get("errors"))
        or _has_code(fields)
    )


def _has_code(fields: dict[str, Any]) -> bool:
    is_said = any(isinstance(fields.get(name), str) for name in _WORDS)
    return is_said and "choices" not in fields and fields.get("code") not in _SUCCESS


def in_band(value: Any) -> ApiError:
    """The error in an event of a stream."""
    problem = problem_of(value)
    name = problem.name or (problem.rpc or "").lower() or None
    status = problem.status or 502
    return from_stream_event(status, name, problem.words, retry_after=problem.retry_after)


def refusal(status: int, body: bytes, retry_after: float | None = None) -> ApiError:
    """The error in an answer with an error status. A 400 is the caller's own and is an `ApiError`;
    what concerns our credential or our use of the upstream is an `UpstreamError`."""
    problem = problem_of(decoded(body))
    if status == 400 and problem.status in (401, 403):
        status = problem.status  # it is said with a 400
    wait = retry_after if retry_after is not None else problem.retry_after
    return from_status(status, problem.name, problem.words, param=problem.param, retry_after=wait)


def no_stream(body: bytes) -> ApiError:
    """What a 200 means whose body is neither a stream nor an answer."""
    value = decoded(body)
    fields = _first_object(value)
    if fields is not None and is_failure(fields):
        return in_band(value)
    return bad_gateway("The upstream answered with something that is not a stream of events.")


def unreadable(data: bytes, error: Exception) -> ApiError:
    """What an event means that is not one of its dialect; `error`: why it is not."""
    fields = _first_object(decoded(data))
    return in_band(fields) if fields is not None and is_failure(fields) else malformed(error)


def _first_object(value: Any) -> dict[str, Any] | None:
    """An object, or the first one of a list."""
    if isinstance(value, list) and value:
        return as_object(cast("list[Any]", value)[0])
    return as_object(value)


# Inside


def _read(value: Any, problem: Problem, depth: int) -> None:
    """Inner words replace outer ones."""
    if depth > _DEEPEST:
        return
    if isinstance(value, str):
        nested = decoded(value.encode("utf-8", "replace")) if value.lstrip()[:1] in "{[" else None
        if isinstance(nested, dict | list):
            _read(nested, problem, depth + 1)
        elif value:
            problem.message = value
    elif isinstance(value, list):
        _read_list(cast("list[Any]", value), problem, depth)
    elif (fields := as_object(value)) is not None:
        _read_object(fields, problem, depth)


def _read_list(items: list[Any], problem: Problem, depth: int) -> None:
    objects = [as_object(each) or {} for each in items]
    found = [words for each in objects if (words := _located(each))]
    if found:  # what a validator says of each place
        problem.message = "; ".join(found)
    elif items:
        _read(items[0], problem, depth + 1)


def _located(fields: dict[str, Any]) -> str:
    """`{"loc": ["body", "messages", 0], "msg": "…"}` of FastAPI, in words."""
    loc, words = fields.get("loc"), fields.get("msg") or fields.get("message")
    if not isinstance(loc, list) or not isinstance(words, str):
        return ""
    place = ".".join([str(each) for each in cast("list[Any]", loc) if each != "body"])
    return f"{place}: {words}" if place else words


def _read_object(fields: dict[str, Any], problem: Problem, depth: int) -> None:
    _read_names(fields, problem)
    for name in _WORDS:
        words = fields.get(name)
        if isinstance(words, str) and words:
            _read(words, problem, depth + 1)
            break
        if isinstance(words, dict | list) and words:
            _read(words, problem, depth + 1)
            break
    for name in _HOLDERS:
        inner = fields.get(name)
        if inner in _NOTHING:
            continue
        if name == "details" and isinstance(inner, list):
            _read_details(cast("list[Any]", inner), problem)
        elif name != "raw" or depth:
            _read(inner, problem, depth + 1)


def _read_names(fields: dict[str, Any], problem: Problem) -> None:
    code = fields.get("code", fields.get("status_code"))
    if isinstance(code, int) and not isinstance(code, bool):
        if 400 <= code < 600:
            problem.status = code
    elif (word := error_code(code)) is not None:
        problem.code = word
    kind, rpc = error_code(fields.get("type")), error_code(fields.get("status"))
    problem.kind, problem.rpc = kind or problem.kind, rpc or problem.rpc
    problem.status = _STATUSES.get(kind or "") or _STATUSES.get(rpc or "") or problem.status
    param = fields.get("param")
    if isinstance(param, str) and param:
        problem.param = param


def _read_details(details: list[Any], problem: Problem) -> None:
    """google.rpc: the reason of a refused key, and the wait before another try."""
    for each in details:
        detail = as_object(each) or {}
        if detail.get("reason") == "API_KEY_INVALID":
            problem.status = 401
        delay = detail.get("retryDelay")
        found = _DURATION.fullmatch(delay) if isinstance(delay, str) else None
        if found:
            problem.retry_after = float(found[1]) or None
