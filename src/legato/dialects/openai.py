"""OpenAI's Chat Completions, as OpenAI and everybody who copies it speaks it."""

from typing import Any, Final, cast

import msgspec
from msgspec import Raw, Struct

from legato.core import sse
from legato.core.chunk import NOT_JSON, OWN_MEMBERS, Choice, Chunk, Usage, as_object, decoded
from legato.core.dialect import Delivered, OutgoingRequest, Quirks
from legato.core.errors import (
    ApiError,
    bad_gateway,
    cannot_continue,
    error_code,
    from_status,
    from_stream_event,
    malformed,
)
from legato.core.json_text import Path, decode_leniently, one_line
from legato.core.request import members
from legato.dialects import _openai_effort as effort
from legato.dialects import _openai_shapes as shapes

#: What an event says when it says that the answer is over.
END: Final = None

#: What an error in a stream would have been as a status, where only its type tells.
_STATUSES: Final = {"invalid_request_error": 400, "BadRequestError": 400}


def path(model: str) -> str:
    return "/chat/completions"


def headers(api_key: str | None) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {api_key}")] if api_key else []


#: An answer is a stream of events.
decoder: Final = sse.Decoder


def reader() -> "Reader":
    return Reader()


def models_path() -> str:
    return "/models"


def models(body: bytes) -> list[str]:
    fields = as_object(msgspec.json.decode(body)) or {}
    found = [as_object(each) or {} for each in fields.get("data") or ()]
    return [str(each["id"]) for each in found if "id" in each]


def encode(outgoing: OutgoingRequest) -> bytes:
    """The upstream's request body: the client's, byte for byte, but for what is ours to say.

    Always a stream, always with usage: a client that asked for neither gets a fold of the stream.
    """
    quirks = outgoing.quirks
    fields: dict[str, Any] = dict(members(outgoing.body))
    fields["model"] = outgoing.model
    fields["stream"] = True
    if quirks.includes_usage:
        fields["stream_options"] = _stream_options(quirks)
    else:
        fields.pop("stream_options", None)
    if quirks.effort_style != "both":
        effort.tell(fields, outgoing)
    if quirks.reports_progress:
        fields["return_progress"] = True
    if quirks.max_tokens != "as-is":
        limit = [fields.pop(name, None) for name in ("max_completion_tokens", "max_tokens")]
        if limit != [None, None]:
            fields[quirks.max_tokens] = limit[0] or limit[1]
    for name, theirs in quirks.names.items():
        if name in fields:
            fields[theirs] = fields.pop(name)
    if quirks.rejected_parameters:
        outgoing.leave_out(fields, quirks.rejected_parameters)
    if outgoing.delivered is not None:
        _go_on(fields, quirks, outgoing.delivered)
    return msgspec.json.encode(fields)


def _stream_options(quirks: Quirks) -> dict[str, bool]:
    options = {"include_usage": True}
    if quirks.running_usage:
        options["continuous_usage_stats"] = True
    if quirks.pads:
        options["include_obfuscation"] = False
    return options


def _go_on(fields: dict[str, Any], quirks: Quirks, delivered: Delivered) -> None:
    """The answer so far as a last message of the assistant, which the upstream goes on with.

    Raises `UpstreamError` `cannot_continue` where that would not be exact."""
    messages = msgspec.json.decode(fields["messages"], type=list[Raw])
    message: dict[str, Any] = {"role": "assistant", "content": delivered.content}
    last = msgspec.json.decode(messages[-1])
    if last["role"] == "assistant":
        # It is itself an answer that the client wants gone on with.
        if not isinstance(last.get("content"), str) or last.keys() - {"role", "content", "prefix"}:
            raise cannot_continue("its last message is an answer that nothing can be added to")
        if delivered.reasoning:
            raise cannot_continue("thoughts do not come behind an answer")
        message = last | {"content": last["content"] + delivered.content}
        messages.pop()
    if delivered.reasoning:
        message["reasoning_content"] = delivered.reasoning
    if quirks.continues in ("prefix", "final-message") and message["content"][-1:].isspace():
        raise cannot_continue("chat templates trim white space at the end of a message")
    if quirks.continues == "prefix":
        message["prefix"] = True
    elif quirks.continues == "final-message":
        fields["continue_final_message"] = True
        fields["add_generation_prompt"] = False
    fields["messages"] = [*messages, message]


# The members that every chunk has, and the ones that are ours to say. Others survive as `extras`.
class _Wire(Struct, gc=False, forbid_unknown_fields=True):
    choices: Raw = Raw()
    usage: Usage | None = None
    id: Raw = Raw()
    object: Raw = Raw()
    created: Raw = Raw()
    model: Raw = Raw()
    system_fingerprint: Raw = Raw()
    service_tier: Raw = Raw()
    obfuscation: Raw = Raw()  # of that line, and not of ours


_HEAD: Final = OWN_MEMBERS | {"prompt_progress"}

#: Strings in which the half of a surrogate pair waits for the next event: texts, and arguments.
_TEXTS: Final[frozenset[Path]] = frozenset(
    ("choices", place, *path)
    for place in ("delta", "message")
    for path in (
        ("content",),
        ("content", "text"),
        ("content", "thinking"),
        ("content", "thinking", "text"),
        ("reasoning_content",),
        ("reasoning",),
        ("refusal",),
        ("tool_calls", "function", "arguments"),
        ("tool_calls", "custom", "input"),
        ("function_call", "arguments"),
    )
)

_NULL: Final = Raw(b"null")
_NOTHING: Final = Raw()
_ERROR: Final = Raw(b'"error"')
#: What some put into each event where there is no error.
_NO_ERROR: Final = (b"null", b'""', b"{}", b"false")

_decode_wire = msgspec.json.Decoder(_Wire).decode
_decode_open = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_choices = msgspec.json.Decoder(list[Choice]).decode
_decode_usage = msgspec.json.Decoder(Usage | None).decode


class Reader:
    """Events of one answer to chunks (`core.dialect.Reader`)."""

    __slots__ = (
        "_early",
        "_extras",
        "_open",
        "_stateful",
        "identity",
        "progress",
        "prompt_tokens",
    )

    def __init__(self) -> None:
        self._early: dict[str, Raw] = {}  # members we do not know, that came without a choice
        self._extras = (b"", b"")  # as they came the last time, and fit for a frame
        self._open = False  # this upstream sends members that we do not know
        self._stateful: Chunk | None = None  # the last one that took of `_early`, or added to it
        self.progress: float | None = None
        self.prompt_tokens = 0
        self.identity: str | None = None

    def is_stateless(self, chunk: Chunk) -> bool:
        return chunk is not self._stateful

    def read(self, name: bytes, data: bytes) -> Chunk | None:
        """The chunk in an event; None (`END`) for `[DONE]`.

        Raises `UpstreamError` for an error in the stream and for what is no chunk at all.
        """
        if data == b"[DONE]":
            return END
        try:
            if not self._open and not name:
                try:
                    wire = _decode_wire(data)
                except msgspec.ValidationError:
                    self._open = data.lstrip()[:1] == b"{"
                else:
                    return self._read_wire(wire, data)
            return self._read_open(name, data)
        except NOT_JSON as error:
            return self._read_odd(name, data, error)

    def _read_wire(self, wire: _Wire, data: bytes) -> Chunk:
        raw = bytes(wire.choices)
        extras = _extras(wire)
        if not raw.startswith(b"[") or (extras and raw == b"[]"):
            return self._read_open(b"", data)
        if self.identity is None:
            self._identify(wire.id)
        return _chunk(raw, wire.usage, self._one_line(extras))

    def _read_open(self, name: bytes, data: bytes) -> Chunk:
        fields = _decode_open(data)
        error = bytes(fields.get("error", b"null"))
        if error not in _NO_ERROR or name == b"error" or fields.get("object") == _ERROR:
            raise in_band(msgspec.json.decode(data))
        usage = _decode_usage(fields.get("usage", _NULL)) or _groq_usage(fields)
        raw = bytes(fields.get("choices", b"[]"))
        chunk = _chunk(b"[]" if raw == b"null" else raw, usage, b"")
        if self.identity is None:
            self._identify(fields.get("id", _NOTHING))
        progress = fields.get("prompt_progress")
        if progress is not None:
            self._note_progress(progress)
        unknown = {key: fields[key] for key in fields if key not in _HEAD}
        # What comes without a choice is shown with the next: Azure's word on the prompt.
        if self._early:
            self._stateful, unknown = chunk, self._early | unknown
        self._early = unknown if chunk.raw == b"[]" else {}
        if self._early:
            self._stateful, self._open = chunk, True
        extras = [
            b"," + msgspec.json.encode(key) + b":" + bytes(value) for key, value in unknown.items()
        ]
        chunk.extras = self._one_line(b"".join(extras))
        return chunk

    def _read_odd(self, name: bytes, data: bytes, error: Exception) -> Chunk | None:
        """An event that is no chunk as it stands. Raises `UpstreamError` where it is none at all:
        `error` says why."""
        nothing = data.strip()
        if nothing == b"[DONE]":
            return END
        if nothing in (b"", b"null") and name != b"error":
            return Chunk([], b"[]")
        try:
            fields, whole = decode_leniently(data, _TEXTS), decode_leniently(data)
            chunk = self._read_open(name, msgspec.json.encode(whole))
        except (*NOT_JSON, ValueError):
            raise malformed(error) from None
        if chunk.raw != b"[]" and whole != fields:
            shapes.join_parts(fields["choices"])
            chunk.choices, chunk.raw, chunk.fields = [], None, fields["choices"]
        return chunk

    def _one_line(self, extras: bytes) -> bytes:
        """They are nearly always the same in every chunk, and then looked through once."""
        if extras != self._extras[0]:
            self._extras = (extras, b"," + one_line(b"{%b}" % extras[1:])[1:-1])
        return self._extras[1] if extras else b""

    def _identify(self, raw: Raw) -> None:
        """`raw`: the JSON of the answer's id; empty where it has none."""
        identity = msgspec.json.decode(raw) if bytes(raw) else None
        self.identity = identity[:200] if isinstance(identity, str) else ""

    def _note_progress(self, raw: Raw) -> None:
        progress = as_object(msgspec.json.decode(raw)) or {}
        done, total = progress.get("processed", 0), progress.get("total")
        if isinstance(done, int | float) and isinstance(total, int) and total > 0:
            self.progress = max(0.0, min(1.0, done / total))
            self.prompt_tokens = total


def _chunk(raw: bytes, usage: Usage | None, extras: bytes) -> Chunk:
    choices: list[Choice] = []
    if raw != b"[]":
        try:
            choices = _decode_choices(raw)
        except msgspec.ValidationError:
            raw = shapes.with_text(raw)
            choices = _decode_choices(raw)
        if not choices:
            raw = b"[]"
        elif choices[0].message:
            raw = shapes.with_text(raw)
    if not usage:
        for each in choices:
            usage = as_object(each.usage) or usage
    return Chunk(choices, raw, shapes.usage(usage) if usage else usage, extras)


def _groq_usage(fields: dict[str, Raw]) -> Usage | None:
    raw = fields.get("x_groq")
    details = as_object(msgspec.json.decode(raw)) if raw is not None else None
    return as_object((details or {}).get("usage"))


def _extras(wire: _Wire) -> bytes:
    fingerprint, tier = bytes(wire.system_fingerprint), bytes(wire.service_tier)
    if not fingerprint and not tier:
        return b""
    extras = b',"system_fingerprint":' + fingerprint if fingerprint else b""
    return extras + b',"service_tier":' + tier if tier else extras


def in_band(fields: Any) -> ApiError:
    """An error that came as an event of a stream, in the shapes that are about."""
    return from_stream_event(*_explain(fields))


def refusal(status: int, body: bytes, retry_after: float | None = None) -> ApiError:
    fields = decoded(body)
    _, code, message = _explain(fields)
    said = as_object((as_object(fields) or {}).get("error")) or {}
    param = said.get("param")
    shown = param if isinstance(param, str) else None
    return from_status(status, code, message, param=shown, retry_after=retry_after)


def no_stream(body: bytes) -> ApiError:
    """What an upstream meant that answered 200 with something else than a stream of events."""
    fields = decoded(body)
    said = as_object(fields) or {}
    if said.get("error") or said.get("object") == "error":
        return in_band(fields)
    return bad_gateway("The upstream answered with something that is not a stream of events.")


def unstreamed(body: bytes) -> list[bytes]:
    """A `chat.completion` is an event whose choices have a `message` in the place of a delta."""
    choices = (as_object(decoded(body)) or {}).get("choices")
    members = cast("list[Any]", choices) if isinstance(choices, list) else []
    return [body] if any("message" in (as_object(each) or {}) for each in members) else []


def _explain(fields: Any) -> tuple[int, str | None, str]:
    """(status, code, message) of `{"error": {...}}`, `{"error": "text"}`, `{"message": ...}`."""
    outer = as_object(fields) or {}
    error: Any = outer.get("error") or fields
    if isinstance(error, str):
        return 502, None, error[:500]
    error = as_object(error)
    if error is None:
        return 502, None, "the upstream gave no reason"
    code = error.get("code")
    kind = error.get("type")
    message = error.get("message") or error.get("detail") or "the upstream gave no reason"
    status = code if isinstance(code, int) and 400 <= code < 600 else _STATUSES.get(str(kind), 502)
    named = error_code(code) or error_code(kind)
    return status, named, str(message)[:500]
