"""The response object: in the events of beginning and end, and as an answer without stream."""

from typing import Any

from legato.core.chunk import Usage, as_object, decoded
from legato.core.front import AnswerHead
from legato.core.json_text import encoded, one_line
from legato.core.span_edit import with_members
from legato.core.usage import count
from legato.fronts.responses_request import Echo

Fields = dict[str, Any]


class ResponseBody:
    """Renders the response object of one answer."""

    __slots__ = ("_head", "_settings")

    def __init__(self, head: AnswerHead, echo: Echo) -> None:
        self._head = head
        self._settings = echo.settings

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
        first: Fields = {
            "id": head.identity,
            "object": "response",
            "created_at": head.created,
            "status": status,
            "error": error,
            "incomplete_details": {"reason": incomplete} if incomplete else None,
            "model": head.model,
        }
        told = b"" if usage is None else b',"usage":%b' % encoded(responses_usage(usage))
        parts = (encoded(first)[:-1], b',"output":', output, told, self._settings, b"}")
        return one_line(b"".join(parts))

    def amended(self, response: bytes, usage: Usage | None = None) -> bytes:
        """An upstream's response object with our id and the model's public name. `usage`: where the
        upstream has sent none that is whole."""
        changes: Fields = {"id": self._head.identity, "model": self._head.model}
        if usage is not None and not _has_usage(response):
            changes["usage"] = responses_usage(usage)
        return one_line(with_members(response, changes))


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


def _has_usage(response: bytes) -> bool:
    """Whether a response has the numbers that clients rely on: one fails without them."""
    fields = as_object(decoded(response)) or {}
    usage = as_object(fields.get("usage")) or {}
    cached = as_object(usage.get("input_tokens_details")) or {}
    thought = as_object(usage.get("output_tokens_details")) or {}
    numbers = (
        usage.get("input_tokens"),
        usage.get("output_tokens"),
        cached.get("cached_tokens"),
        thought.get("reasoning_tokens"),
    )
    return all(type(each) is int for each in numbers)
