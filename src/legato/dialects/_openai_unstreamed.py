"""A `chat.completion`, the answer of an upstream that does not stream, as the event of a stream."""

from typing import Any

import msgspec
from msgspec import Raw

from legato.core.chunk import as_object, decoded
from legato.core.request import NULL

_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_choices = msgspec.json.Decoder(list[dict[str, Raw]]).decode
_decode_calls = msgspec.json.Decoder(list[Any]).decode

_NONE = (b"null", b"{}")


def unstreamed(body: bytes) -> list[bytes]:
    """See `core.dialect.Dialect.unstreamed`. The event has each choice whole: its `message` becomes
    a delta with the same members, and all that is not known here stays as it is."""
    for read in (bytes, _reencoded):  # the latter for what strict decoding alone refuses
        try:
            return _events(read(body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
    return []


def _reencoded(body: bytes) -> bytes:
    return msgspec.json.encode(decoded(body))


def _events(body: bytes) -> list[bytes]:
    fields = _decode_members(body)
    choices = _decode_choices(fields.get("choices", b"null"))
    if not any("message" in choice for choice in choices):
        return []
    return [msgspec.json.encode(fields | {"choices": [_with_delta(each) for each in choices]})]


def _with_delta(choice: dict[str, Raw]) -> dict[str, Any]:
    """A choice with its message as a delta. Some servers have a delta here as well; it is empty."""
    fields: dict[str, Any] = dict(choice)
    message = fields.pop("message", None)
    if message is not None and bytes(choice.get("delta", b"null")) in _NONE:
        fields["delta"] = _with_indices(message)
    return fields


def _with_indices(message: Raw) -> Any:
    """In a delta each tool call has an index: a list of two calls is not two pieces of one."""
    if b'"tool_calls"' not in bytes(message):
        return message
    fields: dict[str, Any] = dict(_decode_members(message))
    calls = fields.get("tool_calls")
    if calls is not None and calls != NULL:
        fields["tool_calls"] = [
            {"index": index} | call if (call := as_object(each)) is not None else each
            for index, each in enumerate(_decode_calls(calls))
        ]
    return fields
