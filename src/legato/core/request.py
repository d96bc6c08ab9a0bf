"""A chat request: OpenAI's parameters, typed and checked; the rest of the body is kept as it came.

Only what this server acts on is typed. Everything else passes to upstreams of the same dialect byte
for byte, so that a parameter invented tomorrow works today.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from legato.core.errors import ApiError, invalid

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[int, Meta(ge=1)]


class ContentPart(Struct, gc=False):
    """One part of a message: `text`, `image_url`, `input_audio`, `file`, ..."""

    type: str
    text: str | None = None


class Message(Struct, gc=False):
    role: Role
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    reasoning_content: str | None = None


class StreamOptions(Struct, gc=False):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class Thinking(Struct, gc=False):
    """Anthropic's way of asking for reasoning, accepted of every client."""

    type: Literal["enabled", "disabled", "adaptive", "auto"] = "enabled"
    budget_tokens: Annotated[int, Meta(ge=0)] | None = None


class JsonSchema(Struct, gc=False):
    name: str | None = None
    schema: dict[str, Any] | bool | None = None
    strict: bool | None = None


class ResponseFormat(Struct, gc=False):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Tool(Struct, gc=False):
    type: str
    function: dict[str, Any] | None = None


class ChatRequest(Struct, gc=False):
    """The body of `POST /v1/chat/completions`. Ranges are OpenAI's where OpenAI names one."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[Message], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Effort | None = None
    thinking: Thinking | None = None
    thinking_budget_tokens: Annotated[int, Meta(ge=-1)] | None = None
    user: str | None = None

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def wants_json(self) -> bool:
        return self.response_format is not None and self.response_format.type != "text"

    @property
    def wants_usage(self) -> bool:
        options = self.stream_options
        return bool(options and options.include_usage)

    @property
    def wants_running_usage(self) -> bool:
        """Usage in every chunk; as vLLM has it, only where it is also asked for at the end."""
        options = self.stream_options
        return bool(options and options.include_usage and options.continuous_usage_stats)


_decode_request = msgspec.json.Decoder(ChatRequest).decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode


def parse(body: bytes) -> ChatRequest:
    """Reads and checks a request body; `ApiError` 400 names the field and what it takes."""
    if not body.strip():
        raise invalid("The request body is empty: send a JSON object with `model` and `messages`.")
    try:
        request = _decode_request(body)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(f"The request body is not valid JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise invalid("The request body is nested too deeply.", code="invalid_json") from None
    if request.stream_options is not None and not request.stream:
        raise invalid(
            "`stream_options` is only allowed with `stream: true`.", param="stream_options"
        )
    return request


def members(body: bytes) -> dict[str, Raw]:
    """The top-level members of a request body that `parse` has accepted, as raw JSON."""
    return _decode_members(body)


def amended(body: bytes, **changes: Any) -> bytes:
    """The same request with other values for some of its members; None takes one out."""
    fields: dict[str, Any] = dict(_decode_members(body)) | changes
    return msgspec.json.encode({name: each for name, each in fields.items() if each is not None})


def _explain(problem: str) -> ApiError:
    """A client wants the field: msgspec says `Expected `int`, got `str` - at `$.n``."""
    what, _, path = problem.partition(" - at `")
    param = path.rstrip("`").removeprefix("$").removeprefix(".") or None
    if what.startswith("Object missing required field `"):
        name = what.split("`")[1]
        param = f"{param}.{name}" if param else name
        return invalid(f"`{param}` is required.", param=param, code="missing_required_parameter")
    where = f"`{param}`: " if param else ""
    return invalid(f"{where}{what[:1].lower()}{what[1:]}.", param=param, code="invalid_value")
