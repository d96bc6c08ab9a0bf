"""Errors as OpenAI's Responses API has them."""

import math
import re
from typing import Any, Final

import msgspec

from legato.core.errors import ApiError
from legato.core.front import Refusal

#: Codes that clients act on; every other failure is a `server_error`.
_CODES: Final = frozenset({"context_length_exceeded", "insufficient_quota"})

#: Members of a Chat Completions request, and where they are in a Responses request.
_PARAMS: Final = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "logprobs": "top_logprobs",
}

#: Words that say for how long to wait, as Codex reads them.
_ADVICE: Final = re.compile(r"try again in\s*\d+(\.\d+)?\s*(s|ms|seconds?)\b", re.IGNORECASE)

_FIRST: Final = re.compile(r"^\w+")


def failure(error: ApiError) -> dict[str, Any]:
    """`response.error` of a response that failed."""
    if error.code in _CODES:
        return {"code": error.code, "message": error.message}
    if error.status == 429:
        return {"code": "rate_limit_exceeded", "message": _rate_limit(error)}
    return {"code": "server_error", "message": error.public_message}


def _rate_limit(error: ApiError) -> str:
    """Codex waits for as long as this message says."""
    if error.retry_after is None:
        return error.public_message
    message = error.message.rstrip()
    if _ADVICE.search(message):
        return message  # the upstream's own
    if message and message[-1] not in ".!?":
        message += "."
    return f"{message} Please try again in {_seconds(error.retry_after)}s.".lstrip()


def _seconds(wait: float) -> str:
    tenths = math.ceil(max(wait, 0.1) * 10 - 1e-6)  # who comes too early is refused again
    return f"{tenths / 10:.1f}".removesuffix(".0")


def refusal(error: ApiError) -> Refusal:
    """OpenAI's error object; the field at fault is named as the client knows it."""
    shown = error.as_object()
    first = _FIRST.match(error.param or "")
    if first is not None and first[0] in _PARAMS:
        shown["error"]["param"] = _PARAMS[first[0]]
    return Refusal(error.status, msgspec.json.encode(shown))
