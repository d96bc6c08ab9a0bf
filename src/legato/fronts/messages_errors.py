"""Errors as Anthropic's Messages API has them: type, message and the status that goes along."""

import re
from typing import Any, Final

import msgspec

from legato.core.errors import ApiError, ErrorSource
from legato.core.front import Refusal

#: The `type` that goes with a status.
_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}

#: Numbers that stand alone: not a part of a model's name, of a date or of a fraction.
_NUMBER: Final = re.compile(r"(?<![\w.,/-])\d{1,3}(?:,\d{3})+(?![\w/-])|(?<![\w.,/-])\d+(?![\w/-])")
_SUM: Final = re.compile(r"(\d+) \+ (\d+) > (\d+)")


def refusal(error: ApiError, request_id: str) -> Refusal:
    """An error before the first frame. One that an upstream of this format sent goes as it came."""
    source = error.source
    if source is not None and source.format == "messages" and not _needs_our_words(error, source):
        return Refusal(source.status, source.body)
    status, kind = _public(error)
    body = _object(kind, _message(error))
    if request_id:
        body["request_id"] = request_id
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if kind == "billing_error":
        headers = ((b"x-should-retry", b"false"),)
    return Refusal(status, msgspec.json.encode(body), headers)


def _needs_our_words(error: ApiError, source: ErrorSource) -> bool:
    """Servers that copy the format say in their own words that a prompt is too long."""
    too_long = error.code == "context_length_exceeded"
    return too_long and b"prompt is too long" not in source.body.lower()


def stream_error(error: ApiError) -> bytes:
    """The data of the event `error`."""
    kind = "overloaded_error" if error.is_curable else _public(error)[1]
    return msgspec.json.encode(_object(kind, _message(error)))


def _object(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


def _public(error: ApiError) -> tuple[int, str]:
    """Status and type. Clients try again after a 529."""
    status = error.status
    if error.code == "insufficient_quota":
        return status, "billing_error"
    if status == 503 or (status == 502 and error.is_curable):
        status = 529
    elif status == 502:
        status = 500
    kind = "invalid_request_error" if status < 500 else "api_error"
    return status, _TYPES.get(status, kind)


def _message(error: ApiError) -> str:
    if error.code == "context_length_exceeded":
        return _too_long(error.message)
    return error.public_message


def _too_long(words: str) -> str:
    """The words by which clients know that they have to shorten the conversation, with the numbers
    of an upstream's own words."""
    if (found := _SUM.search(words)) is not None:
        prompt, room, most = [int(each) for each in found.groups()]
        return f"prompt is too long: {prompt + room} tokens > {most} maximum"
    numbers: list[int] = []
    for each in _NUMBER.findall(words):
        number = int(each.replace(",", ""))
        if number and number not in numbers:
            numbers.append(number)
    if not numbers:
        return "prompt is too long for this model"
    if len(numbers) == 1:
        return f"prompt is too long: the maximum is {numbers[0]} tokens"
    least, most = sorted(numbers[:2])
    return f"prompt is too long: {most} tokens > {least} maximum"
