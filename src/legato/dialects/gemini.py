"""Google's Gemini API, as `generativelanguage.googleapis.com` speaks it."""

from typing import Annotated, Any, Final
from urllib.parse import quote

import msgspec
from msgspec import Meta, Raw, Struct

from legato.core import sse
from legato.core.chunk import Choice, Chunk, Delta, Usage, as_object
from legato.core.errors import bad_gateway
from legato.dialects._gemini_errors import in_band, no_stream, refusal, unreadable, unstreamed
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

_FILTERED: Final = (
    "BLOCKLIST",
    "ESCALATION",
    "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_RECITATION",
    "IMAGE_SAFETY",
    "LANGUAGE",
    "MODEL_ARMOR",
    "PROHIBITED_CONTENT",
    "RECITATION",
    "SAFETY",
    "SPII",
)
#: How an answer ends as it should. Every other reason says that it broke.
_FINISHES: Final = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(_FILTERED, "content_filter"),
}


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


class _Part(Struct, gc=False, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _Call | None = None


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


class Reader:
    """Events of one answer to chunks (`core.dialect.Reader`).

    Nothing says that the answer is over but the end of the body.
    """

    __slots__ = ("_calls", "identity", "progress", "prompt_tokens")

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}  # functions called so far, by candidate
        self.progress: float | None = None
        self.prompt_tokens = 0
        self.identity: str | None = None

    def is_stateless(self, chunk: Chunk) -> bool:
        return bool(chunk.choices)

    def read(self, name: bytes, data: bytes) -> Chunk | None:
        try:
            event = _decode_event(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise unreadable(data, error) from None
        if event.error is not None:
            raise in_band({"error": event.error})
        if self.identity is None and event.response_id is not None:
            self.identity = event.response_id[:200]
        counts = event.usage_metadata
        usage = _usage(counts) if counts is not None else None
        candidates = event.candidates or ()
        if len(candidates) == 1:
            choice = _plain(candidates[0])
            if choice is not None:
                return Chunk([choice], usage=usage)
        members = [member for each in candidates for member in self._members(each)]
        feedback = event.prompt_feedback
        if not candidates and feedback is not None and feedback.block_reason:
            # As OpenAI's clients know it: nothing is said, and why.
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
        reason = self._finish(candidate)
        if reason is not None:
            members.append(_member(candidate.index, {}, reason))
        return members

    def _delta(self, index: int, part: _Part) -> dict[str, Any]:
        signed = _signed(part.thought_signature)
        if part.function_call is not None:
            number = self._calls.get(index, 0)
            self._calls[index] = number + 1
            return {"tool_calls": [_call(number, part.function_call) | signed]}
        if part.thought:  # a signature here goes with the thought, which nobody sends back
            return {"reasoning_content": part.text} if part.text else {}
        return ({"content": part.text} if part.text else {}) | signed

    def _finish(self, candidate: _Candidate) -> str | None:
        reason = candidate.finish_reason
        if not reason or reason == "FINISH_REASON_UNSPECIFIED":
            return None
        known = _FINISHES.get(reason)
        if known is None:
            why = f": {candidate.finish_message[:500]}" if candidate.finish_message else ""
            raise bad_gateway(
                f"The upstream ended its answer with `{reason[:100]}`{why}.",
                code="upstream_aborted",
            )
        return "tool_calls" if known == "stop" and candidate.index in self._calls else known


def _plain(candidate: _Candidate) -> Choice | None:
    """One piece of text and nothing else: nearly every event."""
    content = candidate.content
    if (
        content is None
        or content.parts is None
        or len(content.parts) != 1
        or candidate.finish_reason is not None
        or candidate.logprobs_result is not None
    ):
        return None
    part = content.parts[0]
    if not part.text or part.function_call is not None or part.thought_signature is not None:
        return None
    delta = Delta(reasoning_content=part.text) if part.thought else Delta(content=part.text)
    return Choice(delta=delta, index=candidate.index, finish_reason=None)


def _member(index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish}


def _call(number: int, call: _Call) -> dict[str, Any]:
    """Functions are called whole, and by most models without an id."""
    arguments = msgspec.json.encode(call.args or {}).decode()
    said = {"index": number, "type": "function"}
    said |= {"function": {"name": call.name, "arguments": arguments}}
    return said | {"id": call.id} if call.id else said


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
    said = token.token
    return {"token": said, "logprob": token.log_probability, "bytes": list(said.encode())}


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
