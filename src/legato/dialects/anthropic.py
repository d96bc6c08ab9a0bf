"""Anthropic's Messages API, as Anthropic and servers that copy it speak it.

What OpenAI's format has no member for, a client gets in these:

- `delta.reasoning_details`: blocks of thinking with their signatures, to be sent back as they came
- `delta.citations`: the citations of a text, behind it
- `delta.extra_content.anthropic`: `blocks`, whole blocks of other types, among them those of tools
  that the server runs itself; `deltas`, deltas of other types
- `extra_content.anthropic` of a tool call: further members of its block
- `stop_sequence` of the choice with the finish; further members of the message: top level
"""

from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from legato.core import sse
from legato.core.chunk import (
    NOT_JSON,
    Choice,
    Chunk,
    Delta,
    as_extras,
    as_object,
    decoded,
    unknown_members,
)
from legato.core.errors import ApiError, ErrorSource
from legato.core.finish import known_finish
from legato.core.json_text import Path, cleaned, decode_leniently
from legato.core.merge import merge_call
from legato.core.upstream_errors import event_failure, is_failure, no_stream, unreadable
from legato.core.upstream_errors import refusal as read_refusal
from legato.dialects._anthropic_blocks import (
    Block,
    OtherBlock,
    Thought,
    ToolCall,
    details,
    tool_call,
    unknown_delta,
)
from legato.dialects._anthropic_request import encode
from legato.dialects._anthropic_usage import prompt_tokens, usage_of

__all__ = [
    "Reader",
    "client_format",
    "decoder",
    "encode",
    "ends_with_body",
    "headers",
    "models",
    "models_path",
    "no_stream",
    "path",
    "reader",
    "refusal",
    "unstreamed",
]

#: The version that everything in this file is about; the API has had no later one.
_VERSION: Final = "2023-06-01"

#: The client format that it is (`core.dialect.Dialect`).
client_format: Final = "messages"


def path(model: str, *, streams: bool = True) -> str:
    return "/v1/messages"


def headers(api_key: str | None) -> list[tuple[str, str]]:
    version = [("anthropic-version", _VERSION)]
    return [("x-api-key", api_key), *version] if api_key else version


#: An answer is a stream of events.
decoder: Final = sse.Decoder


#: A finish is sent once.
ends_with_body: Final = False


def reader() -> "Reader":
    return Reader()


#: Errors that are about our credential or our account there.
_ABOUT_US: Final = ("upstream_401", "upstream_402", "upstream_403", "upstream_quota")


def refusal(status: int, body: bytes, retry_after: float | None = None) -> ApiError:
    error = read_refusal(status, body, retry_after)
    fields = as_object(decoded(body)) or {}
    is_own = fields.get("type") == "error" and as_object(fields.get("error")) is not None
    if is_own and error.code not in _ABOUT_US:
        error.source = ErrorSource(client_format, status, body)
    return error


def models_path() -> str:
    return "/v1/models?limit=1000"  # all on one page


def models(body: bytes) -> list[str]:
    fields = as_object(msgspec.json.decode(body)) or {}
    found = [as_object(each) or {} for each in fields.get("data") or ()]
    return [str(each["id"]) for each in found if "id" in each]


class _Delta(Struct, gc=False):
    type: str = ""
    text: str = ""
    thinking: str = ""
    signature: str = ""
    partial_json: str = ""
    stop_reason: str | None = None


class _Event(Struct, gc=False):
    type: str = ""
    index: int = 0
    delta: _Delta | None = None
    content_block: dict[str, Any] | None = None
    message: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


_decode_event = msgspec.json.Decoder(_Event).decode

#: Strings in which the half of a surrogate pair waits for the next event.
_TEXTS: Final[frozenset[Path]] = frozenset(
    {
        ("delta", "text"),
        ("delta", "thinking"),
        ("delta", "partial_json"),
        ("content_block", "text"),
        ("content_block", "thinking"),
    }
)

#: Types of events that have to look as they are documented.
_KNOWN: Final = frozenset(
    {
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "error",
    }
)

#: Members that have their place in an answer. Others are top-level members of its chunks.
_OF_MESSAGE: Final = frozenset(
    {"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"}
)
_OF_END: Final = frozenset({"type", "index", "delta", "usage", "message"})


def _without_nulls(fields: Any) -> Any:
    """An event without members that are null, in its delta too: they are as good as absent."""
    if (event := as_object(fields)) is None:
        return fields
    event = {name: value for name, value in event.items() if value is not None}
    if (delta := as_object(event.get("delta"))) is not None:
        event["delta"] = {name: value for name, value in delta.items() if value is not None}
    return event


class Reader:
    """Events of one answer to chunks (`core.dialect.Reader`)."""

    __slots__ = ("_blocks", "_calls", "_unknown", "_usage", "identity", "progress", "prompt_tokens")

    def __init__(self) -> None:
        self._blocks: dict[int, Block] = {}  # those under way, but for text
        self._calls = 0
        self._unknown: dict[str, Any] = {}  # members of the message that have not been sent
        self._usage: dict[str, Any] = {}
        self.progress: float | None = None
        self.prompt_tokens = 0
        self.identity: str | None = None

    def is_stateless(self, chunk: Chunk) -> bool:
        # Thoughts are kept until their block ends: its signature is sent with all of them.
        delta = chunk.choices[0].delta if chunk.choices else None
        return delta is not None and bool(delta.content)

    @property
    def holds_block(self) -> bool:
        return any(isinstance(each, OtherBlock) for each in self._blocks.values())

    def read(self, name: bytes, data: bytes) -> Chunk | None:
        try:
            event = _decode_event(data)
        except NOT_JSON as error:
            return self._read_odd(name, data, error)
        if event.type == "content_block_delta" and event.delta is not None:
            if event.delta.type == "text_delta":
                return _text(Delta(content=event.delta.text))
            if event.delta.type == "thinking_delta":
                return self._thought(event.index, event.delta.thinking)
        return self._other(event, data, name)

    def _read_odd(self, name: bytes, data: bytes, error: Exception) -> Chunk | None:
        """An event that is none as it stands. Raises `UpstreamError` where it is none at all:
        `error` says why. One of an unknown type may look like anything."""
        match data.strip():
            case b"[DONE]":
                return None  # Anthropic has no such event, but servers that copy both APIs may
            case b"" | b"null":
                return self._other(_Event(), data, name)
            case _:
                return self._read_leniently(name, data, error)

    def _read_leniently(self, name: bytes, data: bytes, error: Exception) -> Chunk | None:
        fields: Any = None
        try:
            fields = decode_leniently(data, _TEXTS)
            event = msgspec.convert(_without_nulls(fields), _Event)
        except (*NOT_JSON, ValueError):
            kind = (as_object(fields) or {}).get("type")
            if not isinstance(kind, str) or not kind or kind in _KNOWN:
                raise unreadable(name, data, error) from None
            event = _Event(kind)
        if event.type == "content_block_delta" and event.delta is not None:
            if event.delta.type == "text_delta":
                return _chunk([{"content": event.delta.text}])
            if event.delta.type == "thinking_delta":
                self._thought(event.index, event.delta.thinking)
                return _chunk([{"reasoning_content": event.delta.thinking}])
        return self._other(event, msgspec.json.encode(cleaned(fields)), name)

    def _thought(self, index: int, text: str) -> Chunk:
        block = self._blocks.get(index)
        if isinstance(block, Thought):
            block.pieces.append(text)
        return _text(Delta(reasoning_content=text))

    def _other(self, event: _Event, data: bytes, name: bytes) -> Chunk | None:
        """`data`: the event's JSON, where members are looked for that `event` does not have;
        `name`: the event's. Raises `ApiError` for an error."""
        match event.type:
            case "message_start":
                return self._start(event)
            case "content_block_start":
                ended = self._ended(event.index)
                return _chunk(ended + self._block(event.index, event.content_block or {}))
            case "content_block_delta" if event.delta is not None:
                return _chunk(self._delta(event.index, event.delta, data))
            case "content_block_stop":
                return _chunk(self._ended(event.index))
            case "message_delta":
                return self._end(event, data)
            case "message_stop":
                return None
            case _:
                failure = event_failure(name, data)
                if failure is not None:
                    raise failure
                return Chunk([])  # a ping, or what later versions may send

    def _start(self, event: _Event) -> Chunk:
        message = event.message or {}
        identity = message.get("id")
        self.identity = identity[:200] if isinstance(identity, str) else ""
        self._usage = dict(as_object(message.get("usage")) or {})
        self._unknown = unknown_members(message, _OF_MESSAGE)
        self.prompt_tokens = prompt_tokens(self._usage)
        return Chunk([])

    def _block(self, index: int, block: dict[str, Any]) -> list[dict[str, Any]]:
        """A block begins; servers that are not Anthropic, and those that do not stream, give it
        whole here."""
        match block.get("type"):
            case "text":
                text, cited = block.get("text"), block.get("citations")
                deltas: list[dict[str, Any]] = []
                if isinstance(text, str) and text:
                    deltas.append({"content": text})
                return deltas + ([{"citations": cited}] if cited else [])
            case "thinking":
                text, signature = str(block.get("thinking") or ""), block.get("signature") or ""
                self._blocks[index] = Thought([text], str(signature))
                return [{"reasoning_content": text}] if text else []
            case "redacted_thinking":
                return [details({"type": "redacted_thinking", "data": block.get("data")})]
            case "tool_use":
                call = ToolCall(self._calls, block.get("input"))
                self._calls += 1
                self._blocks[index] = call
                return [tool_call(call.number, "", block)]
            case _:
                fields: dict[str, Any] = {}
                merge_call(fields, block)
                if fields:
                    self._blocks[index] = OtherBlock(fields, [])
                return []

    def _delta(self, index: int, delta: _Delta, data: bytes) -> list[dict[str, Any]]:
        block = self._blocks.get(index)
        match delta.type, block:
            case "signature_delta", Thought():
                block.signature += delta.signature
            case "input_json_delta", ToolCall() if delta.partial_json:
                block.begun = True
                return [tool_call(block.number, delta.partial_json)]
            case "input_json_delta", OtherBlock():
                block.pieces.append(delta.partial_json)
            case (("signature_delta" | "input_json_delta" | ""), _):
                pass
            case _:
                return unknown_delta(block, (as_object(decoded(data)) or {})["delta"])
        return []

    def _ended(self, index: int) -> list[dict[str, Any]]:
        block = self._blocks.pop(index, None)
        return block.ending() if block is not None else []

    def _end(self, event: _Event, data: bytes) -> Chunk:
        self._usage |= {k: v for k, v in (event.usage or {}).items() if v is not None}
        fields = as_object(decoded(data)) or {}
        delta = as_object(fields.get("delta")) or {}
        self._unknown |= unknown_members(fields, _OF_END) | unknown_members(delta, _OF_MESSAGE)
        usage = usage_of(self._usage)
        reason = delta.get("stop_reason")
        if reason is None:
            return Chunk([], usage=usage)
        unended = [each for index in list(self._blocks) for each in self._ended(index)]
        finish: dict[str, Any] = {"index": 0, "delta": {}}
        finish["finish_reason"] = known_finish(reason) or reason
        if delta.get("stop_sequence") is not None:
            finish["stop_sequence"] = delta["stop_sequence"]
        unknown, self._unknown = self._unknown, {}
        choices = [*map(_member, unended), finish]
        return Chunk([], usage=usage, extras=as_extras(unknown), fields=choices)


def _text(delta: Delta) -> Chunk:
    return Chunk([Choice(delta=delta, index=0, finish_reason=None)])


def _chunk(deltas: list[dict[str, Any]]) -> Chunk:
    return Chunk([], fields=[_member(each) for each in deltas]) if deltas else Chunk([])


def _member(delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": None}


def unstreamed(body: bytes) -> list[bytes]:
    message = as_object(decoded(body)) or {}
    if message.get("type") != "message" or is_failure(message):
        return []
    blocks = message.pop("content", None)
    if not isinstance(blocks, list):
        return []
    ending = {name: message.pop(name, None) for name in ("stop_reason", "stop_sequence")}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
    for index, block in enumerate(cast("list[Any]", blocks)):
        begun = {"type": "content_block_start", "index": index}
        events.append(begun | {"content_block": as_object(block) or {}})
        events.append({"type": "content_block_stop", "index": index})
    events += [{"type": "message_delta", "delta": ending}, {"type": "message_stop"}]
    return [msgspec.json.encode(each) for each in events]
