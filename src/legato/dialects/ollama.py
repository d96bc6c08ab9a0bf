"""Ollama's own chat API: a JSON object a line."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw, Struct

from legato.core import ndjson
from legato.core.chunk import NOT_JSON, Choice, Chunk, Delta, Usage, as_object, decoded
from legato.core.json_text import Path, decode_leniently
from legato.core.upstream_errors import event_failure, no_stream, refusal, unreadable
from legato.dialects._ollama_request import encode

__all__ = [
    "Reader",
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

#: What a line says after the one that says that the answer is done.
END: Final = None


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


class _Event(Struct, gc=False):
    message: _Message | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: _Count | None = None
    eval_count: _Count | None = None
    logprobs: list[dict[str, Any]] | None = None
    error: Any = None


_decode_event = msgspec.json.Decoder(_Event).decode

#: Strings in which the half of a surrogate pair waits for the next line.
_TEXTS: Final[frozenset[Path]] = frozenset({("message", "content"), ("message", "thinking")})


class Reader:
    """Lines of one answer to chunks (`core.dialect.Reader`)."""

    __slots__ = ("_calls", "_done", "identity", "progress", "prompt_tokens")

    def __init__(self) -> None:
        self._calls = 0
        self._done = False
        self.progress: float | None = None
        self.prompt_tokens = 0
        self.identity: str | None = None  # answers have none

    def is_stateless(self, chunk: Chunk) -> bool:
        return bool(chunk.choices)

    def read(self, name: bytes, data: bytes) -> Chunk | None:
        if self._done:
            return END
        try:
            event = _decode_event(data)
        except NOT_JSON as error:
            event = _read_odd(name, data, error)
        if event.error is not None or (event.message is None and not event.done):
            failure = event_failure(name, data)
            if failure is not None:
                raise failure
        choice = _text_only(event)
        return Chunk([choice]) if choice is not None else self._other(event)

    def _other(self, event: _Event) -> Chunk:
        members: list[dict[str, Any]] = []
        message = event.message or _Message()
        if message.thinking:
            members.append(_member({"reasoning_content": message.thinking}))
        if message.content:
            members.append(_member({"content": message.content}))
        if message.tool_calls:
            calls = [self._call(each) for each in message.tool_calls]
            members.append(_member({"tool_calls": calls}))
        if event.logprobs:
            members = members or [_member({})]
            members[-1]["logprobs"] = {"content": [_logprob(each) for each in event.logprobs]}
        if not event.done:
            return Chunk([], fields=members)
        self._done = True
        # `load` and `unload` are no ends of an answer: they stay as they are, and it has failed.
        reason = event.done_reason or "stop"
        members.append(_member({}, "tool_calls" if reason == "stop" and self._calls else reason))
        return Chunk([], usage=_usage(event), fields=members)

    def _call(self, call: _Call) -> dict[str, Any]:
        """Functions are called whole. Arguments are an object; who copies the API may differ."""
        number = self._calls
        self._calls += 1
        arguments = call.function.arguments
        if not isinstance(arguments, str):
            arguments = msgspec.json.encode(arguments or {}).decode()
        fields: dict[str, Any] = {"index": number, "type": "function"}
        fields["function"] = {"name": call.function.name, "arguments": arguments}
        return fields | {"id": call.id} if call.id else fields


def _read_odd(name: bytes, data: bytes, error: Exception) -> _Event:
    """A line that strict decoding refuses. Raises `UpstreamError`: `error` is the reason."""
    if data.strip() in (b"", b"null"):
        return _Event()
    try:
        fields, whole = decode_leniently(data, _TEXTS), decode_leniently(data)
        event = _decode_event(msgspec.json.encode(whole))
    except (*NOT_JSON, ValueError):
        raise unreadable(name, data, error) from None
    if event.message is not None:
        message = fields["message"]
        event.message.content, event.message.thinking = (
            message.get("content"),
            message.get("thinking"),
        )
    return event


def _text_only(event: _Event) -> Choice | None:
    """One piece of text and nothing else: nearly every line."""
    message = event.message
    if message is None or message.tool_calls or event.done or event.logprobs:
        return None
    if message.content and not message.thinking:
        delta = Delta(content=message.content)
    elif message.thinking and not message.content:
        delta = Delta(reasoning_content=message.thinking)
    else:
        return None
    return Choice(delta=delta, index=0, finish_reason=None)


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
