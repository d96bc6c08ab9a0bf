"""OpenAI's Chat Completions, as OpenAI and everybody who copies it speaks it."""

from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct

from legato.core import sse
from legato.core.chunk import NOT_JSON, OWN_MEMBERS, Choice, Chunk, Usage, as_object
from legato.core.json_text import Path, decode_leniently, one_line
from legato.core.upstream_errors import event_failure, in_band, no_stream, refusal, unreadable
from legato.dialects import _openai_shapes as shapes
from legato.dialects._openai_request import encode
from legato.dialects._openai_unstreamed import unstreamed

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

#: What an event says when it says that the answer is over.
END: Final = None

#: The client format that it is (`core.dialect.Dialect`).
client_format: Final = "chat"


def path(model: str, *, streams: bool = True) -> str:
    return "/chat/completions"


def headers(api_key: str | None) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {api_key}")] if api_key else []


#: An answer is a stream of events.
decoder: Final = sse.Decoder


#: A finish is sent once.
ends_with_body: Final = False


def reader() -> "Reader":
    return Reader()


def models_path() -> str:
    return "/models"


def models(body: bytes) -> list[str]:
    fields = as_object(msgspec.json.decode(body)) or {}
    found = [as_object(each) or {} for each in fields.get("data") or ()]
    return [str(each["id"]) for each in found if "id" in each]


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
#: Members of a chunk that may say that the upstream failed, and values of them that do not.
_MARKS: Final = ("base_resp", "error", "success")
_HARMLESS: Final = (b"null", b'""', b"{}", b"true")

#: A delta, and one that begins with the role of all answers.
_DELTA: Final = b'"delta"'
_WITH_ROLE: Final = b'"delta":{"role":"assistant",'

_decode_wire = msgspec.json.Decoder(_Wire).decode
_decode_open = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_choices = msgspec.json.Decoder(list[Choice]).decode
_decode_usage = msgspec.json.Decoder(Usage | None).decode


class Reader:
    """Events of one answer to chunks (`core.dialect.Reader`)."""

    __slots__ = (
        "_extras",
        "_open",
        "identity",
        "progress",
        "prompt_tokens",
    )

    holds_block: bool = False

    def __init__(self) -> None:
        self._extras = (b"", b"")  # as they came the last time, and fit for a frame
        self._open = False  # this upstream sends members that we do not know
        self.progress: float | None = None
        self.prompt_tokens = 0
        self.identity: str | None = None

    def is_stateless(self, chunk: Chunk) -> bool:
        return True

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
        if not raw.startswith(b"["):
            return self._read_open(b"", data)
        if self.identity is None:
            self._identify(wire.id)
        return _chunk(raw, wire.usage, self._one_line(extras))

    def _read_open(self, name: bytes, data: bytes) -> Chunk:
        fields = _decode_open(data)
        raw = bytes(fields.get("choices", b"[]"))
        if name == b"error" or _may_fail(fields, raw):
            failure = event_failure(name, data)
            if failure is not None:
                raise failure
        usage = _decode_usage(fields.get("usage", _NULL)) or _groq_usage(fields)
        chunk = _chunk(b"[]" if raw == b"null" else raw, usage, b"")
        if self.identity is None:
            self._identify(fields.get("id", _NOTHING))
        progress = fields.get("prompt_progress")
        if progress is not None:
            self._note_progress(progress)
        unknown = {key: fields[key] for key in fields if key not in _HEAD}
        extras = [
            b"," + msgspec.json.encode(key) + b":" + bytes(value) for key, value in unknown.items()
        ]
        chunk.extras = self._one_line(b"".join(extras))
        return chunk

    def _read_odd(self, name: bytes, data: bytes, error: Exception) -> Chunk | None:
        """An event that is no chunk as it stands. Raises `UpstreamError` where it is none at all:
        `error` says why."""
        match data.strip():
            case b"[DONE]":
                return END
            case b"" | b"null" if name != b"error":
                return Chunk([], b"[]")
            case _:
                pass
        try:
            fields, whole = decode_leniently(data, _TEXTS), decode_leniently(data)
            chunk = self._read_open(name, msgspec.json.encode(whole))
        except (*NOT_JSON, ValueError):
            raise unreadable(name, data, error) from None
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


def _may_fail(fields: dict[str, Raw], choices: bytes) -> bool:
    """Whether an event may be an error: one without choices, or with a mark of an error."""
    if choices in (b"null", b"[]") or bytes(fields.get("object", _NULL)) == b'"error"':
        return True
    return any(name in fields and bytes(fields[name]) not in _HARMLESS for name in _MARKS)


def _chunk(raw: bytes, usage: Usage | None, extras: bytes) -> Chunk:
    choices: list[Choice] = []
    if raw != b"[]":
        try:
            choices = _decode_choices(raw)
        except msgspec.ValidationError:
            raw = shapes.with_text(raw)
            choices = _decode_choices(raw)
        for each in choices:
            if each.error is not UNSET and each.error:
                raise in_band(each.error)
        if not choices:
            raw = b"[]"
        elif choices[0].message:
            raw = shapes.with_text(raw)
        elif len(choices) == 1 and raw.count(_WITH_ROLE) == 1 == raw.count(_DELTA):
            raw = _without_role(raw, choices[0])
    if not usage:
        for each in choices:
            usage = as_object(each.usage) or usage
    return Chunk(choices, raw, shapes.usage(usage) if usage else usage, extras)


def _without_role(raw: bytes, choice: Choice) -> bytes:
    """`raw` without the role that some servers (OpenRouter) repeat with each text: a stream sends
    it once, and the chunk is one of text alone."""
    delta = choice.delta
    if delta is None or not (delta.content or delta.reasoning_content):
        return raw
    delta.role = UNSET
    return raw.replace(_WITH_ROLE, _DELTA + b":{", 1)


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
