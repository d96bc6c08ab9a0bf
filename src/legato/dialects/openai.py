"""OpenAI's Chat Completions, as OpenAI and everybody who copies it speaks it."""

from typing import Any, Final, Literal

import msgspec
from msgspec import Raw, Struct

from legato.core.chunk import Choice, Chunk, Usage, as_object
from legato.core.errors import ApiError, UpstreamError, broken, malformed
from legato.core.request import ChatRequest, members
from legato.core.stream import one_line

#: Relative to a deployment's `base_url`, which is what OpenAI's own SDK takes as its base.
PATH: Final = "/chat/completions"

#: What a frame says when it says that the answer is over.
END: Final = None


def headers(api_key: str | None) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {api_key}")] if api_key else []


#: How a server is told how much to think. as-is: in the client's own words; llama: llama.cpp's.
Reasoning = Literal["as-is", "llama"]

#: Tokens of thinking that llama.cpp is given for an effort; `none` switches the template.
BUDGETS: Final = {"minimal": 32, "low": 64, "medium": 256, "high": 1024}


def encode(body: bytes, request: ChatRequest, model: str, reasoning: Reasoning = "as-is") -> bytes:
    """The upstream's request body: the client's, byte for byte, but for what is ours to say.

    Always a stream, always with usage: a client that asked for neither gets a fold of the stream.
    """
    fields: dict[str, Any] = dict(members(body))
    fields["model"] = model
    fields["stream"] = True
    fields["stream_options"] = {"include_usage": True}
    if reasoning == "llama":
        _tell_llama(fields, request)
    return msgspec.json.encode(fields)


def _tell_llama(fields: dict[str, Any], request: ChatRequest) -> None:
    fields["return_progress"] = True
    fields.pop("reasoning_effort", None)
    fields.pop("thinking", None)
    effort, thinking = request.reasoning_effort, request.thinking
    budget = BUDGETS.get(effort or "")
    if thinking is not None and thinking.budget_tokens is not None:
        budget = thinking.budget_tokens
    if effort == "none" or (thinking is not None and thinking.type == "disabled"):
        said = fields.get("chat_template_kwargs")
        given = as_object(msgspec.json.decode(said)) if said is not None else None
        fields["chat_template_kwargs"] = (given or {}) | {"enable_thinking": False}
    elif budget is not None:
        fields.setdefault("thinking_budget_tokens", budget)


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


_HEAD: Final = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "error", "prompt_progress"}
)

_NULL: Final = Raw(b"null")
_ERROR: Final = Raw(b'"error"')

_decode_wire = msgspec.json.Decoder(_Wire).decode
_decode_open = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_choices = msgspec.json.Decoder(list[Choice]).decode
_decode_usage = msgspec.json.Decoder(Usage | None).decode


class Reader:
    """Frames of one answer to chunks. `progress`: the prefill's, 0 to 1, where it is told."""

    __slots__ = ("_extras", "_open", "identity", "progress")

    def __init__(self) -> None:
        self._extras = (b"", b"")  # as they came the last time, and fit for a frame
        self._open = False  # this upstream sends members that we do not know
        self.progress: float | None = None
        self.identity: str | None = None  # the upstream's own id of the answer

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
                    self._open = True
                else:
                    if self.identity is None:
                        self._identify(wire.id)
                    raw = bytes(wire.choices)
                    if raw.startswith(b"["):
                        extras = self._one_line(_extras(wire))
                        return Chunk(_decode_choices(raw), raw, wire.usage, extras)
            return self._read_open(name, data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if data.strip() == b"[DONE]":
                return END
            raise malformed(error) from None

    def _read_open(self, name: bytes, data: bytes) -> Chunk:
        fields = _decode_open(data)
        error = fields.get("error", _NULL)
        if error != _NULL or name == b"error" or fields.get("object") == _ERROR:
            raise in_band(msgspec.json.decode(data))
        if self.identity is None:
            self._identify(fields.get("id", _NULL))
        progress = fields.get("prompt_progress")
        if progress is not None:
            self._note_progress(progress)
        raw = bytes(fields.get("choices", b"[]"))
        if raw == b"null":
            raw = b"[]"
        usage = fields.get("usage", _NULL)
        unknown = [
            b"," + msgspec.json.encode(key) + b":" + bytes(fields[key])
            for key in fields
            if key not in _HEAD
        ]
        extras = self._one_line(b"".join(unknown))
        return Chunk(_decode_choices(raw), raw, _decode_usage(usage), extras)

    def _one_line(self, extras: bytes) -> bytes:
        """They are nearly always the same in every chunk, and then looked through once."""
        if extras != self._extras[0]:
            self._extras = (extras, b"," + one_line(b"{%b}" % extras[1:])[1:-1])
        return self._extras[1] if extras else b""

    def _identify(self, raw: Raw) -> None:
        identity = msgspec.json.decode(raw) if bytes(raw) else None
        self.identity = identity[:200] if isinstance(identity, str) else ""

    def _note_progress(self, raw: Raw) -> None:
        progress = as_object(msgspec.json.decode(raw)) or {}
        done, total = progress.get("processed", 0), progress.get("total")
        if isinstance(done, int | float) and isinstance(total, int | float) and total > 0:
            self.progress = max(0.0, min(1.0, done / total))


def _extras(wire: _Wire) -> bytes:
    fingerprint, tier = bytes(wire.system_fingerprint), bytes(wire.service_tier)
    if not fingerprint and not tier:
        return b""
    extras = b',"system_fingerprint":' + fingerprint if fingerprint else b""
    return extras + b',"service_tier":' + tier if tier else extras


def in_band(fields: Any) -> UpstreamError:
    """An error that came as an event of a stream, in the shapes that are about."""
    status, code, message = _explain(fields)
    return UpstreamError(_public_status(status), code or "upstream_error", message)


def refusal(status: int, body: bytes, retry_after: float | None = None) -> ApiError:
    """An upstream's answer with an error status. A 400 is the caller's own and is passed on; what
    concerns our credential or our use of the upstream is ours, and becomes a 502."""
    try:
        fields: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        fields = None
    _, code, message = _explain(fields)
    said = as_object((as_object(fields) or {}).get("error")) or {}
    param = said.get("param")
    if status in (400, 404, 413, 422):
        if code in _TOO_LONG or _says_too_long(message):
            return ApiError(400, "context_length_exceeded", message, param="messages")
        if status != 404:
            shown = param if isinstance(param, str) else None
            return ApiError(400, code or "invalid_request", message, param=shown)
    return UpstreamError(
        _public_status(status),
        "upstream_rate_limited" if status == 429 else f"upstream_{status}",
        f"The upstream answered {status}: {message}",
        retry_after=retry_after,
    )


def no_stream(body: bytes) -> UpstreamError:
    """What an upstream meant that answered 200 with something else than a stream of events."""
    try:
        fields: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        fields = None
    said = as_object(fields) or {}
    if said.get("error") or said.get("object") == "error":
        return in_band(fields)
    return broken("The upstream answered with something that is not a stream of events.")


_TOO_LONG: Final = ("context_length_exceeded", "exceed_context_size_error")


def _says_too_long(message: str) -> bool:
    return "context length" in message or "context size" in message


def _public_status(status: int) -> int:
    return {408: 504, 429: 429, 503: 503, 504: 504}.get(status, 502)


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
    status = code if isinstance(code, int) and 400 <= code < 600 else 502
    word = code if isinstance(code, str) else kind if isinstance(kind, str) else None
    return status, word, str(message)[:500]
