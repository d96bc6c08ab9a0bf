"""The response object: in the events of beginning and end, and as an answer without stream."""

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from legato.core.chunk import NOT_JSON, Usage, as_object, decoded
from legato.core.front import AnswerHead
from legato.core.json_text import encoded, one_line
from legato.core.span_edit import with_members
from legato.core.usage import count
from legato.fronts.responses_request import Echo

Fields = dict[str, Any]


class _Created(Struct, gc=False):
    created_at: int | float | None = None


_decode_created: Final = msgspec.json.Decoder(_Created).decode


class ResponseBody:
    """Renders the response object of one answer. `created_at` is that of the first one."""

    __slots__ = ("_created", "_echo", "_head", "_is_told")

    def __init__(self, head: AnswerHead, echo: Echo) -> None:
        self._head = head
        self._echo = echo
        self._created: float = head.created
        self._is_told = False  # the client knows when the response was created

    def render(
        self,
        status: str,
        output: bytes = b"[]",
        *,
        error: Fields | None = None,
        incomplete: str | None = None,
        usage: Usage | None = None,
    ) -> bytes:
        """The object as JSON. `output`: the items, as JSON. `incomplete`: why it is."""
        head = self._head
        self._is_told = True
        first: Fields = {
            "id": head.identity,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": error,
            "incomplete_details": {"reason": incomplete} if incomplete else None,
            "model": head.model,
        }
        told = b"" if usage is None else b',"usage":%b' % encoded(responses_usage(usage))
        parts = (encoded(first)[:-1], b',"output":', output, told, self._echo.settings, b"}")
        return one_line(b"".join(parts))

    def amended(self, response: bytes, usage: Usage | None = None, output: bytes = b"[]") -> bytes:
        """An upstream's response object with our id, the model's public name, and what is said of
        responses that are kept: they are kept here or nowhere. `usage`, `output`: of the whole
        answer, where the upstream's response has no usage that is whole, or no output."""
        changes: Fields = {"id": self._head.identity, "model": self._head.model}
        changes |= self._time(response)
        if b'"store"' in response:
            changes["store"] = self._echo.is_kept
        if self._echo.previous is not None:
            changes["previous_response_id"] = self._echo.previous
        if usage is not None:
            theirs = as_object(decoded(response)) or {}
            if not _is_whole(as_object(theirs.get("usage")) or {}):
                changes["usage"] = responses_usage(usage)
            if not theirs.get("output"):
                changes["output"] = Raw(output)
        return one_line(with_members(response, changes))

    def _time(self, response: bytes) -> Fields:
        """What is to be changed so that `created_at` stays the same."""
        try:
            theirs = _decode_created(response).created_at
        except NOT_JSON:
            theirs = None
        if theirs is not None and not self._is_told:
            self._created = theirs
        self._is_told = True
        return {} if theirs == self._created else {"created_at": self._created}


def responses_usage(usage: Usage) -> Fields:
    """Usage in the names of Responses; every number is there."""
    tokens = count(usage)
    details = as_object(usage.get("prompt_tokens_details")) or {}
    written = details.get("cache_creation_tokens")
    return {
        "input_tokens": tokens.prompt,
        "input_tokens_details": {
            "cached_tokens": tokens.cached,
            "cache_write_tokens": written if type(written) is int else 0,
        },
        "output_tokens": tokens.completion,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
        "total_tokens": tokens.prompt + tokens.completion,
    }


def _is_whole(usage: Fields) -> bool:
    """Whether a usage has the numbers that clients rely on: one fails without them."""
    cached = as_object(usage.get("input_tokens_details")) or {}
    thought = as_object(usage.get("output_tokens_details")) or {}
    numbers = (
        usage.get("input_tokens"),
        usage.get("output_tokens"),
        cached.get("cached_tokens"),
        thought.get("reasoning_tokens"),
    )
    return all(type(each) is int for each in numbers)
