"""Google's Gemini API, as `generativelanguage.googleapis.com` speaks it.

What OpenAI's format has no member for, a client gets in these:

- `delta.images`: pictures, as `image_url` parts with a `data:` URL
- `delta.extra_content.google.parts`: parts of other types, such as code that the model has run
- `extra_content.google` of the choice: citations, grounding, safety ratings of the candidate
"""

from typing import Annotated, Any, Final, cast
from urllib.parse import quote

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from legato.core import sse
from legato.core.chunk import NOT_JSON, Choice, Chunk, Delta, Usage, as_object, decoded
from legato.core.finish import finish_reason
from legato.core.json_text import Path, decode_leniently
from legato.core.upstream_errors import event_failure, is_failure, no_stream, refusal, unreadable
from legato.dialects._gemini_request import encode

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


def path(model: str, *, streams: bool = True) -> str:
    name = quote(model, safe="/@._-~")
    name = name if "/" in name else f"models/{name}"
    method = "streamGenerateContent?alt=sse" if streams else "generateContent"
    return f"/v1beta/{name}:{method}"


def headers(api_key: str | None) -> list[tuple[str, str]]:
    return [("x-goog-api-key", api_key)] if api_key else []


#: An answer is a stream of events.
decoder: Final = sse.Decoder


#: A finish may come again, with more text between.
ends_with_body: Final = True


def reader() -> "Reader":
    return Reader()


def models_path() -> str:
    return "/v1beta/models?pageSize=1000"  # all on one page


def models(body: bytes) -> list[str]:
    """Those that answer at all: others embed texts, or draw."""
    fields = as_object(msgspec.json.decode(body)) or {}
    found = [as_object(each) or {} for each in fields.get("models") or ()]
    return [str(each["name"]).removeprefix("models/") for each in found if _answers(each)]


def _answers(model: dict[str, Any]) -> bool:
    methods = model.get("supportedGenerationMethods")
    return "name" in model and (methods is None or "generateContent" in methods)


_Count = Annotated[int, Meta(ge=0)]


class _Call(Struct, gc=False):
    name: str = ""
    id: str | None = None
    args: dict[str, Raw] | None = None


class _Blob(Struct, gc=False, rename="camel"):
    mime_type: str = ""
    data: str = ""


class _Part(Struct, gc=False, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _Call | None = None
    inline_data: _Blob | None = None
    executable_code: Raw | UnsetType = UNSET
    code_execution_result: Raw | UnsetType = UNSET
    file_data: Raw | UnsetType = UNSET

    @property
    def others(self) -> dict[str, Raw]:
        """What the part is, where OpenAI's format has no member for it; usually nothing."""
        found = {
            "executableCode": self.executable_code,
            "codeExecutionResult": self.code_execution_result,
            "fileData": self.file_data,
        }
        return {name: raw for name, raw in found.items() if not isinstance(raw, UnsetType)}


class _Content(Struct, gc=False):
    parts: list[_Part] | None = None


class _Token(Struct, gc=False, rename="camel"):
    token: str = ""
    log_probability: float = 0.0


class _Tokens(Struct, gc=False):
    candidates: list[_Token] | None = None


class _Logprobs(Struct, gc=False, rename="camel"):
    chosen_candidates: list[_Token] | None = None
    top_candidates: list[_Tokens] | None = None


class _Candidate(Struct, gc=False, rename="camel"):
    content: _Content | None = None
    index: _Count = 0
    finish_reason: str | None = None
    finish_message: str | None = None
    logprobs_result: _Logprobs | None = None
    citation_metadata: Raw | UnsetType = UNSET
    grounding_metadata: Raw | UnsetType = UNSET
    url_context_metadata: Raw | UnsetType = UNSET
    safety_ratings: Raw | UnsetType = UNSET

    @property
    def others(self) -> dict[str, Raw]:
        """What is sent of the candidate beside its text; usually nothing."""
        found = {
            "citationMetadata": self.citation_metadata,
            "groundingMetadata": self.grounding_metadata,
            "urlContextMetadata": self.url_context_metadata,
            "safetyRatings": self.safety_ratings,
        }
        return {name: raw for name, raw in found.items() if not isinstance(raw, UnsetType)}


class _Counts(Struct, gc=False, rename="camel"):
    """Tokens so far. What is 0 is left out."""

    prompt_token_count: _Count = 0
    tool_use_prompt_token_count: _Count = 0
    candidates_token_count: _Count = 0
    thoughts_token_count: _Count = 0
    cached_content_token_count: _Count = 0


class _Feedback(Struct, gc=False, rename="camel"):
    block_reason: str | None = None


class _Event(Struct, gc=False, rename="camel"):
    candidates: list[_Candidate] | None = None
    usage_metadata: _Counts | None = None
    response_id: str | None = None
    prompt_feedback: _Feedback | None = None
    error: Any = None


_decode_event = msgspec.json.Decoder(_Event).decode

#: Strings in which the half of a surrogate pair waits for the next event.
_TEXTS: Final[frozenset[Path]] = frozenset({("candidates", "content", "parts", "text")})


class Reader:
    """Events of one answer to chunks (`core.dialect.Reader`).

    Nothing says that the answer is over but the end of the body.
    """

    __slots__ = ("_calls", "_others", "identity", "progress", "prompt_tokens")

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}  # functions called so far, by candidate
        self._others: dict[int, dict[str, Raw]] = {}  # what was last sent of a candidate's
        self.progress: float | None = None
        self.prompt_tokens = 0
        self.identity: str | None = None

    def is_stateless(self, chunk: Chunk) -> bool:
        return bool(chunk.choices)

    def read(self, name: bytes, data: bytes) -> Chunk | None:
        try:
            event = _decode_event(data)
        except NOT_JSON as error:
            event = _read_odd(name, data, error)
        if name == b"error" or event.error is not None or not event.candidates:
            failure = event_failure(name, data)
            if failure is not None:
                raise failure
        if self.identity is None and event.response_id is not None:
            self.identity = event.response_id[:200]
        counts = event.usage_metadata
        usage = _usage(counts) if counts is not None else None
        candidates = event.candidates or ()
        if len(candidates) == 1:
            choice = _text_only(candidates[0])
            if choice is not None:
                return Chunk([choice], usage=usage)
        members = [member for each in candidates for member in self._members(each)]
        feedback = event.prompt_feedback
        if not candidates and feedback is not None and feedback.block_reason:
            # As OpenAI's clients know it: nothing is sent, and why.
            members.append(_member(0, {}, "content_filter"))
        return Chunk([], usage=usage, fields=members)

    def _members(self, candidate: _Candidate) -> list[dict[str, Any]]:
        parts = (candidate.content and candidate.content.parts) or ()
        deltas = [self._delta(candidate.index, part) for part in parts]
        members = [_member(candidate.index, each) for each in deltas if each]
        if candidate.logprobs_result is not None:
            if not members:
                members.append(_member(candidate.index, {}))
            members[0]["logprobs"] = _logprobs(candidate.logprobs_result)
        others = candidate.others
        if others and others != self._others.get(candidate.index):
            self._others[candidate.index] = others  # some repeat it in every event
            more = {"extra_content": {"google": others}}
            members.append(_member(candidate.index, {}) | more)
        reason = candidate.finish_reason
        if reason and reason != "FINISH_REASON_UNSPECIFIED":
            finish = finish_reason(reason, candidate.finish_message)
            members.append(_member(candidate.index, {}, finish))
        return members

    def _delta(self, index: int, part: _Part) -> dict[str, Any]:
        signed = _signed(part.thought_signature)
        if part.function_call is not None:
            number = self._calls.get(index, 0)
            self._calls[index] = number + 1
            return {"tool_calls": [_call(number, part.function_call) | signed]}
        if part.thought and part.inline_data is None:  # nobody sends its signature back
            return {"reasoning_content": part.text} if part.text else {}
        if part.inline_data is not None:
            return {"images": [_image(part.inline_data)]} | signed
        if part.others:
            return {"extra_content": {"google": {"parts": [part.others]}}}
        return ({"content": part.text} if part.text else {}) | signed


def _read_odd(name: bytes, data: bytes, error: Exception) -> _Event:
    """An event that strict decoding refuses. Raises `UpstreamError`: `error` is the reason."""
    if data.strip() in (b"", b"null"):
        return _Event()
    try:
        fields, whole = decode_leniently(data, _TEXTS), decode_leniently(data)
        event = _decode_event(msgspec.json.encode(whole))
    except (*NOT_JSON, ValueError):
        raise unreadable(name, data, error) from None
    for number, candidate in enumerate(event.candidates or ()):
        parts = (candidate.content and candidate.content.parts) or ()
        for index, part in enumerate(parts):
            part.text = fields["candidates"][number]["content"]["parts"][index].get("text")
    return event


def _image(blob: _Blob) -> dict[str, Any]:
    url = f"data:{blob.mime_type or 'image/png'};base64,{blob.data}"
    return {"type": "image_url", "image_url": {"url": url}}


def _text_only(candidate: _Candidate) -> Choice | None:
    """One piece of text and nothing else: nearly every event."""
    content = candidate.content
    if (
        content is None
        or content.parts is None
        or len(content.parts) != 1
        or candidate.finish_reason is not None
        or candidate.logprobs_result is not None
        or candidate.others
    ):
        return None
    part = content.parts[0]
    if not part.text or part.function_call is not None or part.thought_signature is not None:
        return None
    if part.inline_data is not None or part.others:
        return None
    delta = Delta(reasoning_content=part.text) if part.thought else Delta(content=part.text)
    return Choice(delta=delta, index=candidate.index, finish_reason=None)


def _member(index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish}


def _call(number: int, call: _Call) -> dict[str, Any]:
    """Functions are called whole, and by most models without an id."""
    arguments = msgspec.json.encode(call.args or {}).decode()
    fields: dict[str, Any] = {"index": number, "type": "function"}
    fields["function"] = {"name": call.name, "arguments": arguments}
    return fields | {"id": call.id} if call.id else fields


def _signed(signature: str | None) -> dict[str, Any]:
    """What a client is to send back, as Google's own OpenAI-compatible endpoint has it."""
    return {"extra_content": {"google": {"thought_signature": signature}}} if signature else {}


def _logprobs(result: _Logprobs) -> dict[str, Any]:
    tops = [each.candidates or [] for each in result.top_candidates or ()]
    chosen = result.chosen_candidates or []
    return {
        "content": [
            _logprob(token)
            | {"top_logprobs": [_logprob(each) for each in tops[n]] if n < len(tops) else []}
            for n, token in enumerate(chosen)
        ]
    }


def _logprob(token: _Token) -> dict[str, Any]:
    text = token.token
    return {"token": text, "logprob": token.log_probability, "bytes": list(text.encode())}


def _usage(counts: _Counts) -> Usage:
    prompt = counts.prompt_token_count + counts.tool_use_prompt_token_count
    completion = counts.candidates_token_count + counts.thoughts_token_count
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": counts.cached_content_token_count},
        "completion_tokens_details": {"reasoning_tokens": counts.thoughts_token_count},
    }


def unstreamed(body: bytes) -> list[bytes]:
    """Without `alt=sse` the API gives its events as a list."""
    value = decoded(body)
    events = cast("list[Any]", value if isinstance(value, list) else [value])
    first = as_object(events[0]) if events else None
    if not first or is_failure(first):
        return []
    return [msgspec.json.encode(each) for each in events]
