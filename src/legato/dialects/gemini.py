"""Google's Gemini API, as `generativelanguage.googleapis.com` speaks it.

What OpenAI's format has no member for, a client gets in these:

- `delta.images`: pictures, as OpenRouter has them: `{"type": "image_url", "image_url": {"url": …}}`
- `delta.extra_content.google`: `thought_signature`, as Google's own OpenAI-compatible endpoint has
  it, also of a tool call; `parts`, parts of other kinds as they came: `executableCode`, `fileData`,
  `inlineData` that is no picture or belongs to a thought
- further members of a candidate (`groundingMetadata`, `citationMetadata`, `safetyRatings`, …): of
  the choice, as they came
- `promptFeedback` and further members of the event: top level, as they came
"""

from typing import Annotated, Any, Final, cast
from urllib.parse import quote

import msgspec
from msgspec import Meta, Raw, Struct

from legato.core import sse
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
from legato.core.finish import finish_reason
from legato.core.json_text import cleaned, decode_leniently, encode_leniently
from legato.core.upstream_errors import event_failure, is_failure, no_stream, refusal, unreadable
from legato.dialects._gemini_parts import (
    TEXTS,
    FunctionCall,
    Logprobs,
    extra,
    image_url,
    logprobs,
    tool_call,
)
from legato.dialects._gemini_request import encode

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


Count = Annotated[int, Meta(ge=0)]


class _Part(Struct, gc=False, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: FunctionCall | None = None


class _Content(Struct, gc=False):
    parts: list[_Part] | None = None


class _Candidate(Struct, gc=False, rename="camel"):
    content: _Content | None = None
    index: Count | None = None
    finish_reason: str | None = None
    finish_message: str | None = None
    logprobs_result: Logprobs | None = None


class _Counts(Struct, gc=False, rename="camel"):
    """Tokens so far. What is 0 is left out."""

    prompt_token_count: Count | None = None
    tool_use_prompt_token_count: Count | None = None
    candidates_token_count: Count | None = None
    thoughts_token_count: Count | None = None
    cached_content_token_count: Count | None = None


class _Feedback(Struct, gc=False, rename="camel"):
    block_reason: str | None = None


class _Event(Struct, gc=False, rename="camel"):
    candidates: list[_Candidate] | None = None
    usage_metadata: _Counts | None = None
    response_id: str | None = None
    prompt_feedback: _Feedback | None = None
    error: Any = None


# The same of an event of text and nothing else: nearly all of them. What has more in it, or may
# have, is no such event.
class _TextPart(Struct, gc=False, forbid_unknown_fields=True):
    text: str = ""
    thought: bool | None = None


class _TextContent(Struct, gc=False, forbid_unknown_fields=True):
    parts: list[_TextPart]
    role: str | None = None


class _TextCandidate(Struct, gc=False, rename="camel", forbid_unknown_fields=True):
    content: _TextContent
    index: Count = 0
    finish_reason: None = None


class _TextEvent(Struct, gc=False, rename="camel", forbid_unknown_fields=True):
    candidates: list[_TextCandidate]
    usage_metadata: _Counts | None = None
    response_id: str | None = None
    model_version: Raw = Raw()
    create_time: Raw = Raw()


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_text = msgspec.json.Decoder(_TextEvent).decode

#: Members that have their place in an answer, or that are replaced by ours.
_OF_EVENT: Final = frozenset(
    {"candidates", "usageMetadata", "responseId", "modelVersion", "createTime", "error"}
)
_OF_CANDIDATE: Final = frozenset(
    {"content", "index", "finishReason", "logprobsResult", *Choice.__struct_fields__, "logprobs"}
)
_OF_PART: Final = frozenset({"text", "thought", "thoughtSignature", "functionCall"})


class Reader:
    """Events of one answer to chunks (`core.dialect.Reader`).

    Only the end of the body ends the answer: the finish may be in each event.
    """

    __slots__ = ("_calls", "_images", "identity", "progress", "prompt_tokens")

    holds_block: bool = False

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}  # functions called so far, by candidate
        self._images: dict[int, int] = {}  # the same of pictures
        self.progress: float | None = None
        self.prompt_tokens = 0
        self.identity: str | None = None

    def is_stateless(self, chunk: Chunk) -> bool:
        return bool(chunk.choices)

    def read(self, name: bytes, data: bytes) -> Chunk | None:
        try:
            event = _decode_text(data)
        except NOT_JSON:
            return self._read_open(name, data)
        candidates = event.candidates
        is_one = len(candidates) == 1 and len(candidates[0].content.parts) == 1
        if is_one and name != b"error":
            (part,) = candidates[0].content.parts
            if part.text:
                text, is_thought = part.text, part.thought
                delta = Delta(reasoning_content=text) if is_thought else Delta(content=text)
                self._identify(event.response_id)
                choice = Choice(delta=delta, index=candidates[0].index, finish_reason=None)
                counts = event.usage_metadata
                return Chunk([choice], usage=None if counts is None else _usage(counts))
        return self._read_open(name, data)

    def _read_open(self, name: bytes, data: bytes) -> Chunk:
        if data.strip() in (b"", b"null") and name != b"error":
            return Chunk([])
        try:
            event, fields = _decode_event(data), msgspec.json.decode(data)
        except NOT_JSON as error:
            event, fields = _leniently(name, data, error)
        if name == b"error" or event.error is not None or not event.candidates:
            failure = event_failure(name, data)
            if failure is not None:
                raise failure
        self._identify(event.response_id)
        members: list[dict[str, Any]] = []
        for number, candidate in enumerate(event.candidates or ()):
            members += self._members(candidate, fields["candidates"][number])
        feedback = event.prompt_feedback
        if not event.candidates and feedback is not None and feedback.block_reason:
            # As OpenAI's clients know it: nothing is sent, and why.
            members.append(_member(0, {}, "content_filter"))
        extras = as_extras(unknown_members(fields, _OF_EVENT))
        counts = event.usage_metadata
        usage = None if counts is None else _usage(counts)
        return Chunk([], usage=usage, extras=extras, fields=members)

    def _identify(self, identity: str | None) -> None:
        if self.identity is None and identity is not None:
            self.identity = identity[:200]

    def _members(self, candidate: _Candidate, fields: dict[str, Any]) -> list[dict[str, Any]]:
        """A candidate as choices; `fields`: its JSON."""
        index = candidate.index or 0
        parts = (candidate.content and candidate.content.parts) or ()
        deltas = [
            self._delta(index, part, fields["content"]["parts"][number])
            for number, part in enumerate(parts)
        ]
        members = [_member(index, each) for each in deltas if each]
        more = unknown_members(fields, _OF_CANDIDATE)
        if candidate.logprobs_result is not None:
            more["logprobs"] = logprobs(candidate.logprobs_result)
        if more:
            members = members or [_member(index, {})]
            members[0] |= more
        reason = self._finish(index, candidate)
        if reason is not None:
            members.append(_member(index, {}, reason))
        return members

    def _delta(self, index: int, part: _Part, fields: dict[str, Any]) -> dict[str, Any]:
        """What a part adds to its choice; `fields`: its JSON, with the text to take."""
        more, signature = unknown_members(fields, _OF_PART), part.thought_signature
        if part.function_call is not None:
            number = self._calls.get(index, 0)
            self._calls[index] = number + 1
            call = tool_call(number, part.function_call) | extra(signature, {})
            return {"tool_calls": [call]} | extra(None, more)
        url = None if part.thought else image_url(fields)
        if url is not None:
            number = self._images.get(index, 0)
            self._images[index] = number + 1
            image = {"type": "image_url", "image_url": {"url": url}, "index": number}
            return {"images": [image]} | extra(signature, {})
        if part.text and part.thought:  # its signature goes with it, and nobody sends it back
            return {"reasoning_content": fields["text"]} | extra(None, more)
        if part.text:
            return {"content": fields["text"]} | extra(signature, more)
        if more:
            return extra(None, fields)
        return {} if part.thought else extra(signature, {})

    def _finish(self, index: int, candidate: _Candidate) -> str | None:
        reason = candidate.finish_reason
        if not reason or reason == "FINISH_REASON_UNSPECIFIED":
            return None
        known = finish_reason(reason, candidate.finish_message)
        return "tool_calls" if known == "stop" and index in self._calls else known


def _leniently(name: bytes, data: bytes, error: Exception) -> tuple[_Event, dict[str, Any]]:
    """An event that strict decoding has refused, because of `error`. Raises `ApiError`."""
    try:
        fields = decode_leniently(data, TEXTS)
        return _decode_event(msgspec.json.encode(cleaned(fields))), fields
    except (*NOT_JSON, ValueError):
        raise unreadable(name, data, error) from None


def _member(index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish}


def _usage(counts: _Counts) -> Usage:
    thoughts = counts.thoughts_token_count or 0
    prompt = (counts.prompt_token_count or 0) + (counts.tool_use_prompt_token_count or 0)
    completion = (counts.candidates_token_count or 0) + thoughts
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": counts.cached_content_token_count or 0},
        "completion_tokens_details": {"reasoning_tokens": thoughts},
    }


def unstreamed(body: bytes) -> list[bytes]:
    """Without `alt=sse` the API gives its events as a list."""
    value = decoded(body, TEXTS)
    events = cast("list[Any]", value if isinstance(value, list) else [value])
    first = as_object(events[0]) if events else None
    if not first or is_failure(first):
        return []
    return [encode_leniently(each) for each in events]
