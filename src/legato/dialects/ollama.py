"""Ollama's own chat API: a JSON object a line.

What OpenAI's format has no member for, a client gets in these: pictures in `delta.images`, as
OpenRouter has them; further members of the message in the delta, of the line at top level. How long
the server took for each part of its work is left out.
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw, Struct

from legato.core import ndjson
from legato.core.chunk import (
    NOT_JSON,
    Choice,
    Chunk,
    Delta,
    Usage,
    as_extras,
    as_object,
    decoded,
    unknown_members,
)
from legato.core.finish import known_finish
from legato.core.json_text import Path, cleaned, decode_leniently
from legato.core.upstream_errors import event_failure, no_stream, refusal, unreadable
from legato.dialects._ollama_request import encode

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

#: The client format that it is (`core.dialect.Dialect`).
client_format: Final = ""


def path(model: str, *, streams: bool = True) -> str:
    return "/api/chat"


def headers(api_key: str | None) -> list[tuple[str, str]]:
    """A server at home wants no key; ollama.com does."""
    return [("authorization", f"Bearer {api_key}")] if api_key else []


#: An answer is an object a line.
decoder: Final = ndjson.Decoder


#: A finish is sent once.
ends_with_body: Final = False


def reader() -> "Reader":
    return Reader()


def models_path() -> str:
    return "/api/tags"


def models(body: bytes) -> list[str]:
    fields = as_object(msgspec.json.decode(body)) or {}
    found = [as_object(each) or {} for each in fields.get("models") or ()]
    return [str(each["name"]) for each in found if "name" in each]


_Count = Annotated[int, Meta(ge=0)]


class _Function(Struct, gc=False):
    name: str = ""
    arguments: dict[str, Raw] | str | None = None


class _Call(Struct, gc=False):
    function: _Function
    id: str | None = None


class _Message(Struct, gc=False):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_Call] | None = None
    images: list[str] | None = None


class _Event(Struct, gc=False):
    message: _Message | None = None
    done: bool | None = None
    done_reason: str | None = None
    prompt_eval_count: _Count | None = None
    eval_count: _Count | None = None
    logprobs: list[dict[str, Any]] | None = None
    error: Any = None


# The same of a line of text and nothing else: nearly all of them.
class _TextMessage(Struct, gc=False, forbid_unknown_fields=True):
    role: str = ""
    content: str = ""
    thinking: str = ""


class _TextEvent(Struct, gc=False, forbid_unknown_fields=True):
    message: _TextMessage
    done: bool = False
    model: Raw = Raw()
    created_at: Raw = Raw()
    remote_model: Raw = Raw()
    remote_host: Raw = Raw()


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_text = msgspec.json.Decoder(_TextEvent).decode

#: Strings in which the half of a surrogate pair waits for the next line.
_TEXTS: Final[frozenset[Path]] = frozenset({("message", "content"), ("message", "thinking")})

#: Members that have their place in an answer, or that are replaced by ours.
_OF_MESSAGE: Final = frozenset(
    {"role", "content", "thinking", "tool_calls", "function_call", "images"}
)
_OF_DELTA: Final = frozenset(Delta.__struct_fields__)  # which have to be text here
_OF_EVENT: Final = frozenset(_Event.__struct_fields__) | {
    "model",
    "created_at",
    "remote_model",
    "remote_host",
    "total_duration",
    "load_duration",
    "prompt_eval_duration",
    "eval_duration",
}


class Reader:
    """Lines of one answer to chunks (`core.dialect.Reader`).

    Only the end of the body ends the answer.
    """

    __slots__ = ("_calls", "_images", "identity", "progress", "prompt_tokens")

    holds_block: bool = False

    def __init__(self) -> None:
        self._calls = 0
        self._images = 0
        self.progress: float | None = None
        self.prompt_tokens = 0
        self.identity: str | None = None  # answers have none

    def is_stateless(self, chunk: Chunk) -> bool:
        return bool(chunk.choices)

    def read(self, name: bytes, data: bytes) -> Chunk | None:
        try:
            event = _decode_text(data)
        except NOT_JSON:
            return self._read_open(name, data)
        message = event.message
        if event.done or bool(message.content) is bool(message.thinking):
            return self._read_open(name, data)
        if message.content:
            delta = Delta(content=message.content)
        else:
            delta = Delta(reasoning_content=message.thinking)
        return Chunk([Choice(delta=delta, index=0, finish_reason=None)])

    def _read_open(self, name: bytes, data: bytes) -> Chunk:
        if data.strip() in (b"", b"null") and name != b"error":
            return Chunk([])
        try:
            event, fields = _decode_event(data), msgspec.json.decode(data)
        except NOT_JSON as error:
            event, fields = _leniently(name, data, error)
        if event.error is not None or (event.message is None and not event.done):
            failure = event_failure(name, data)
            if failure is not None:
                raise failure
        members = self._members(event, as_object(fields.get("message")) or {})
        extras = as_extras(unknown_members(fields, _OF_EVENT))
        return Chunk([], usage=_usage(event), extras=extras, fields=members)

    def _members(self, event: _Event, fields: dict[str, Any]) -> list[dict[str, Any]]:
        """A line as choices; `fields`: its message, with the text to take."""
        members: list[dict[str, Any]] = []
        message = event.message or _Message()
        if message.thinking:
            members.append(_member({"reasoning_content": fields["thinking"]}))
        if message.content:
            members.append(_member({"content": fields["content"]}))
        more = unknown_members(fields, _OF_MESSAGE)
        more = {k: v for k, v in more.items() if k not in _OF_DELTA or isinstance(v, str)}
        if message.images:
            more["images"] = [self._image(each) for each in message.images]
        if more:
            members.append(_member(more))
        if message.tool_calls:
            calls = [self._call(each) for each in message.tool_calls]
            members.append(_member({"tool_calls": calls}))
        if event.logprobs:
            members = members or [_member({})]
            members[-1]["logprobs"] = {"content": [_logprob(each) for each in event.logprobs]}
        if event.done:
            # `load` and `unload` end no answer: they stay as they are, and it has failed.
            reason = event.done_reason or "stop"
            finish = known_finish(reason) or reason
            members.append(
                _member({}, "tool_calls" if finish == "stop" and self._calls else finish)
            )
        return members

    def _image(self, data: str) -> dict[str, Any]:
        number = self._images
        self._images += 1
        return {"type": "image_url", "image_url": {"url": _image_url(data)}, "index": number}

    def _call(self, call: _Call) -> dict[str, Any]:
        """Functions are called whole. Arguments are an object; who copies the API may differ."""
        number = self._calls
        self._calls += 1
        arguments = call.function.arguments
        if not isinstance(arguments, str):
            arguments = msgspec.json.encode(arguments or {}).decode()
        piece: dict[str, Any] = {"index": number, "type": "function"}
        piece["function"] = {"name": call.function.name, "arguments": arguments}
        return piece | {"id": call.id} if call.id else piece


def _leniently(name: bytes, data: bytes, error: Exception) -> tuple[_Event, dict[str, Any]]:
    """A line that strict decoding has refused, because of `error`. Raises `ApiError`."""
    try:
        fields = decode_leniently(data, _TEXTS)
        return _decode_event(msgspec.json.encode(cleaned(fields))), fields
    except (*NOT_JSON, ValueError):
        raise unreadable(name, data, error) from None


#: How pictures of each type begin, in base64.
_IMAGES: Final = {"iVBORw0KGgo": "png", "/9j/": "jpeg", "R0lGOD": "gif", "UklGR": "webp"}


def _image_url(data: str) -> str:
    """The address of a picture: it comes in base64, without its type."""
    if data.startswith(("data:", "http://", "https://")):
        return data
    kind = next((kind for begins, kind in _IMAGES.items() if data.startswith(begins)), "png")
    return f"data:image/{kind};base64,{data}"


def _member(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish}


def _logprob(token: dict[str, Any]) -> dict[str, Any]:
    """A token as OpenAI has it; Ollama leaves out members that are empty."""
    nothing: dict[str, Any] = {"bytes": None, "top_logprobs": []}
    return nothing | token


def _usage(event: _Event) -> Usage | None:
    if event.prompt_eval_count is None and event.eval_count is None:
        return None
    prompt, completion = event.prompt_eval_count or 0, event.eval_count or 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def unstreamed(body: bytes) -> list[bytes]:
    """The lines of a stream, or one object, which may stand on several lines."""
    whole = as_object(decoded(body))
    lines = [line for each in body.splitlines() if (line := each.strip())]
    lines = lines if whole is None else [body]
    first = as_object(decoded(lines[0])) if lines else None
    return lines if "message" in (first or {}) else []
