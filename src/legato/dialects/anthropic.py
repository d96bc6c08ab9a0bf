"""Anthropic's Messages API, as Anthropic and servers that copy it speak it."""

from typing import Any, Final, cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from legato.core import sse
from legato.core.chunk import Choice, Chunk, Delta, Usage, as_object, decoded
from legato.core.errors import malformed
from legato.dialects._anthropic_errors import in_band, no_stream, refusal
from legato.dialects._anthropic_request import encode

__all__ = [
    "Reader",
    "decoder",
    "encode",
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

_FINISHES: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",  # a tool of the server's own took long
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def path(model: str) -> str:
    return "/v1/messages"


def headers(api_key: str | None) -> list[tuple[str, str]]:
    version = [("anthropic-version", _VERSION)]
    return [("x-api-key", api_key), *version] if api_key else version


#: An answer is a stream of events.
decoder: Final = sse.Decoder


def reader() -> "Reader":
    return Reader()


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
    content_block: dict[str, Any] | UnsetType = UNSET
    message: dict[str, Any] | UnsetType = UNSET
    usage: dict[str, Any] | UnsetType | None = UNSET
    error: Raw | UnsetType = UNSET


class _Kind(Struct):
    type: str = ""


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_kind = msgspec.json.Decoder(_Kind).decode

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


class _Thought(Struct):
    """A block of thinking under way: it goes back whole with the next request."""

    pieces: list[str]
    signature: str = ""


class _ToolCall(Struct):
    number: int
    begun: bool  # some of its arguments have been sent


class Reader:
    """Events of one answer to chunks (`core.dialect.Reader`)."""

    __slots__ = ("_blocks", "_calls", "_usage", "identity", "progress", "prompt_tokens")

    def __init__(self) -> None:
        self._blocks: dict[int, _Thought | _ToolCall] = {}  # those under way, but for text
        self._calls = 0
        self._usage: dict[str, Any] = {}
        self.progress: float | None = None
        self.prompt_tokens = 0
        self.identity: str | None = None

    def is_stateless(self, chunk: Chunk) -> bool:
        return bool(chunk.choices)

    def read(self, name: bytes, data: bytes) -> Chunk | None:
        try:
            event = _decode_event(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return _unreadable(data, error)
        if event.type == "content_block_delta" and event.delta is not None:
            return self._delta(event.index, event.delta)
        return self._other(event, data)

    def _delta(self, index: int, delta: _Delta) -> Chunk:
        if delta.type == "text_delta":
            return _text(Delta(content=delta.text))
        block = self._blocks.get(index)
        if delta.type == "thinking_delta":
            if isinstance(block, _Thought):
                block.pieces.append(delta.thinking)
            return _text(Delta(reasoning_content=delta.thinking))
        if delta.type == "signature_delta" and isinstance(block, _Thought):
            block.signature += delta.signature
        elif (
            delta.type == "input_json_delta" and isinstance(block, _ToolCall) and delta.partial_json
        ):
            block.begun = True
            return _call(block.number, delta.partial_json)
        return Chunk([])

    def _other(self, event: _Event, data: bytes) -> Chunk | None:
        match event.type:
            case "message_start":
                return self._start(event)
            case "content_block_start":
                return self._block(event.index, event.content_block or {})
            case "content_block_stop":
                return self._block_end(self._blocks.pop(event.index, None))
            case "message_delta":
                return self._end(event)
            case "message_stop":
                return None
            case _ if event.type == "error" or event.error is not UNSET:
                raise in_band(decoded(data))
            case _:
                return Chunk([])  # a ping, or what later versions may say

    def _start(self, event: _Event) -> Chunk:
        message = event.message or {}
        identity = message.get("id")
        self.identity = identity[:200] if isinstance(identity, str) else ""
        self._usage = dict(as_object(message.get("usage")) or {})
        self.prompt_tokens = _prompt(self._usage)
        return Chunk([])

    def _block(self, index: int, block: dict[str, Any]) -> Chunk:
        """A block begins; servers that are not Anthropic may give one whole here. Tools that the
        server runs itself are its own business."""
        match block.get("type"):
            case "text":
                text = block.get("text")
                return _text(Delta(content=text)) if isinstance(text, str) and text else Chunk([])
            case "thinking":
                text, signature = str(block.get("thinking") or ""), block.get("signature") or ""
                self._blocks[index] = _Thought([text], str(signature))
                return _text(Delta(reasoning_content=text)) if text else Chunk([])
            case "redacted_thinking":
                return _details({"type": "redacted_thinking", "data": block.get("data")})
            case "tool_use":
                given = block.get("input")
                call = _ToolCall(self._calls, bool(given))
                self._calls += 1
                self._blocks[index] = call
                arguments = msgspec.json.encode(given).decode() if given else ""
                return _call(call.number, arguments, block)
            case _:
                return Chunk([])

    def _block_end(self, block: _Thought | _ToolCall | None) -> Chunk:
        if isinstance(block, _Thought) and block.signature:
            thinking = "".join(block.pieces)
            said = {"type": "thinking", "thinking": thinking, "signature": block.signature}
            return _details(said)
        if isinstance(block, _ToolCall) and not block.begun:
            return _call(block.number, "{}")  # no arguments; to a client, "" would be no JSON
        return Chunk([])

    def _end(self, event: _Event) -> Chunk:
        self._usage |= {k: v for k, v in (event.usage or {}).items() if v is not None}
        reason = event.delta.stop_reason if event.delta is not None else None
        usage = _usage(self._usage)
        if reason is None:
            return Chunk([], usage=usage)
        finish = _FINISHES.get(reason, reason)
        return Chunk([Choice(delta=Delta(), index=0, finish_reason=finish)], usage=usage)


def _text(delta: Delta) -> Chunk:
    return Chunk([Choice(delta=delta, index=0, finish_reason=None)])


def _member(delta: dict[str, Any]) -> Chunk:
    return Chunk([], fields=[{"index": 0, "delta": delta, "finish_reason": None}])


def _call(number: int, arguments: str, block: dict[str, Any] | None = None) -> Chunk:
    """Arguments of a tool call; `block`: the one that begins it."""
    function: dict[str, Any] = {"arguments": arguments}
    call: dict[str, Any] = {"index": number, "function": function}
    if block is not None:
        call |= {"id": block.get("id"), "type": "function"}
        function["name"] = block.get("name")
    return _member({"tool_calls": [call]})


def _details(said: dict[str, Any]) -> Chunk:
    """What a client is to send back with this turn, so that the model knows its own thoughts."""
    return _member({"reasoning_details": [said]})


def _unreadable(data: bytes, error: Exception) -> Chunk | None:
    """An event of a type that is not known may look like anything."""
    if data.strip() == b"[DONE]":
        return None  # Anthropic says nothing of the kind, but who copies both APIs may
    try:
        kind = _decode_kind(data).type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        kind = ""
    if not kind or kind in _KNOWN:
        raise malformed(error) from None
    return Chunk([])


def _count(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and value > 0 else 0


def _prompt(usage: dict[str, Any]) -> int:
    """`input_tokens` is only what was neither read from the cache nor written to it."""
    return sum(
        _count(usage, name)
        for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    )


def _usage(said: dict[str, Any]) -> Usage:
    prompt, completion = _prompt(said), _count(said, "output_tokens")
    usage: Usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    if "cache_read_input_tokens" in said:
        cached = _count(said, "cache_read_input_tokens")
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    details = as_object(said.get("output_tokens_details")) or {}
    if "thinking_tokens" in details:
        reasoning = _count(details, "thinking_tokens")
        usage["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return usage


def unstreamed(body: bytes) -> list[bytes]:
    message = as_object(decoded(body)) or {}
    blocks = message.pop("content", None)
    if message.get("type") != "message" or not isinstance(blocks, list):
        return []
    ending = {"stop_reason": message.pop("stop_reason", None)}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
    for index, block in enumerate(cast("list[Any]", blocks)):
        begun = {"type": "content_block_start", "index": index}
        events.append(begun | {"content_block": as_object(block) or {}})
        events.append({"type": "content_block_stop", "index": index})
    events += [{"type": "message_delta", "delta": ending}, {"type": "message_stop"}]
    return [msgspec.json.encode(each) for each in events]
