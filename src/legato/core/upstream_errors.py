"""Errors that upstreams send in place of an answer: one reader for all dialects.

Servers borrow each other's formats, and gateways wrap what their own upstream has answered. So each
dialect takes the errors of all of them: as the body of an error status, as the whole body of a 200,
and as an event of a stream.
"""

from typing import Any, Final, cast

from legato.core import sse
from legato.core.chunk import as_object, decoded
from legato.core.error_envelopes import (
    CODES,
    MOST,
    NOTHING,
    SUCCESS,
    TEXTS,
    http_status,
    is_success,
    plain_names,
    problem_of,
)
from legato.core.errors import (
    ApiError,
    bad_gateway,
    from_status,
    from_stream_event,
    malformed,
)

#: Values of a `status` that mean a failure.
_FAILED: Final = ("error", "fail", "failed", "failure")
#: Members that only an answer has.
_OF_ANSWERS: Final = ("choices", "candidates", "content", "delta", "done")
#: Members of an object that has nothing but a sentence.
_SENTENCE: Final = frozenset({"message", "msg", "errormessage", "errormsg"})
_BESIDE_SENTENCE: Final = frozenset({"id", "requestid", "timestamp", "traceid"})

#: Bytes of a body without JSON that are taken for a sentence.
_LONGEST_TEXT: Final = 2_000


def is_failure(value: Any) -> bool:
    """Whether a value that came as an event of a stream, or as a whole answer, is an error of the
    upstream. Some servers put `"error": null` or `"code": 0` into each good answer."""
    if isinstance(value, list):
        return any(isinstance(each, dict) and is_failure(each) for each in _some(value))
    fields = as_object(value)
    if not fields:
        return False
    members = plain_names(fields)
    if _fails_an_answer(members) or fields.keys() == {"error"}:
        return True
    if any(members.get(name) for name in _OF_ANSWERS) or as_object(members.get("message")):
        return False
    if any(members.get(name) not in NOTHING for name in ("detail", "errors", "fault")):
        return True
    return _has_words(members) and _has_code(members)


def event_failure(name: bytes, data: bytes) -> ApiError | None:
    """The failure that an event of a stream stands for; None where it is none. `name`: the
    event's."""
    value = _decoded(data)
    if name == b"error":
        text = "" if data.strip() == b"null" else _text(data)
        return in_band(text if value is None else value)
    if is_failure(value):
        return in_band(value)
    if not _is_sentence(value):
        return None
    error = in_band(value)
    # It may be something else. After the finish it fails no answer.
    is_unnamed = error.code == "upstream_error"
    return bad_gateway(error.message, code="upstream_malformed") if is_unnamed else error


def unreadable(name: bytes, data: bytes, error: Exception) -> ApiError:
    """The error for an event that its dialect cannot read; `error`: why it cannot."""
    return event_failure(name, data) or malformed(error)


def in_band(value: Any) -> ApiError:
    """The error in an event of a stream."""
    problem = problem_of(value)
    return from_stream_event(
        problem.status or 502,
        problem.name or (problem.rpc or "").lower() or None,
        problem.words,
        param=problem.param,
        retry_after=problem.retry_after,
    )


def refusal(status: int, body: bytes, retry_after: float | None = None) -> ApiError:
    """The error in an answer with an error status. A 400 is the caller's own and is an `ApiError`;
    what concerns our credential or our use of the upstream is an `UpstreamError`."""
    value = _value_in(body)
    problem = problem_of(_text(body) if value is None else value)
    if status == 400 and problem.status in (401, 402, 403, 404, 429):
        status = problem.status  # it is sent with a 400
    wait = retry_after if retry_after is not None else problem.retry_after
    return from_status(status, problem.name, problem.words, param=problem.param, retry_after=wait)


def no_stream(body: bytes) -> ApiError:
    """What a 200 means whose body is neither a stream nor an answer."""
    value = _value_in(body)
    if is_failure(value) or _is_sentence(value):
        return in_band(value)
    return bad_gateway("The upstream answered with something that is not a stream of events.")


# Whether it is an error


def _fails_an_answer(members: dict[str, Any]) -> bool:
    """Whether there is a sign of a failure that counts in a chunk, too."""
    base = plain_names(as_object(members.get("baseresp")) or {})
    return (
        members.get("error") not in NOTHING
        or "error" in [members.get(name) for name in ("object", "type", "event")]
        or members.get("success") is False
        or not is_success(base.get("statuscode"))
        or any(_is_failed_choice(each) for each in _some(members.get("choices")))
    )


def _is_failed_choice(choice: Any) -> bool:
    return (as_object(choice) or {}).get("error") not in NOTHING


def _some(value: Any) -> list[Any]:
    return cast("list[Any]", value)[:MOST] if isinstance(value, list) else []


def _has_words(members: dict[str, Any]) -> bool:
    values = [members.get(name) for name in TEXTS]
    return any(isinstance(each, str | list) and each not in NOTHING for each in values)


def _has_code(members: dict[str, Any]) -> bool:
    words = members.get("message", members.get("msg"))
    if isinstance(words, str) and words.strip(" .!").lower() in SUCCESS:
        return False  # the code is one of success that is not known
    if any(not is_success(members.get(name)) for name in (*CODES, "errortype")):
        return True
    kind, status = str(members.get("type")).lower(), members.get("status")
    is_error = kind.endswith(("error", "exception", "failure"))
    return is_error or status in _FAILED or http_status(status) is not None


def _is_sentence(value: Any) -> bool:
    """Whether a value is an object with a sentence and nothing else, as gateways answer."""
    members = plain_names(as_object(value) or {})
    words = [each for name, each in members.items() if name in _SENTENCE]
    others = members.keys() - _SENTENCE - _BESIDE_SENTENCE
    return not others and any(isinstance(each, str) and bool(each) for each in words)


# What stands in a body


def _value_in(body: bytes) -> Any:
    """The value in a body that is JSON, some lines of JSON or a stream of events; else None."""
    value = _decoded(body)
    if value is not None:
        return value
    found = [decoded(line) for line in body.splitlines()[:MOST]]
    found += [decoded(data) for _, data in _events(body)]
    return next((each for each in found if as_object(each) is not None), None)


def _decoded(data: bytes) -> Any:
    """The value of some JSON, which may stand in a JSON string."""
    value = decoded(data)
    return (decoded(value.encode()) or value) if isinstance(value, str) else value


def _events(body: bytes) -> list[sse.Event]:
    decoder = sse.Decoder()
    try:
        return [*decoder.feed(body), *decoder.close()][:MOST]
    except sse.EventTooLarge:
        return []


def _text(body: bytes) -> str:
    """A sentence that came as it is; empty for a page, a piece of JSON, and for what is no text."""
    text = " ".join(body[:_LONGEST_TEXT].decode("utf-8-sig", "ignore").split())
    return "" if text[:1] in ("<", "{", "[") or not text.isprintable() else text
