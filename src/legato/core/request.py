"""A chat request: OpenAI's parameters, typed and checked; the rest of the body stays as it came.

Only what this server acts on is typed. Everything else passes to upstreams of the same dialect byte
for byte, so that a parameter invented tomorrow works today.
"""

import re
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from legato.core.chunk import as_object
from legato.core.errors import ApiError, invalid

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Fraction = Annotated[float, Meta(ge=0, le=1)]

#: What a JSON integer may be where OpenAI's API has one: 64 bits, signed.
LEAST_INT: Final = -(2**63)
GREATEST_INT: Final = 2**63 - 1

Positive = Annotated[int, Meta(ge=1, le=GREATEST_INT)]
Seed = Annotated[int, Meta(ge=LEAST_INT, le=GREATEST_INT)]


class ContentPart(Struct, gc=False):
    """One part of a message: `text`, `image_url`, `input_audio`, `file`, ..."""

    type: str
    text: str | None = None
    refusal: str | None = None


class Message(Struct, gc=False):
    role: Role
    content: str | list[ContentPart] | None = None
    refusal: str | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    reasoning_content: str | None = None


class StreamOptions(Struct, gc=False):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class Thinking(Struct, gc=False):
    """Anthropic's parameter for reasoning; accepted from every client."""

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
    seed: Seed | None = None
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
    prompt_cache_key: str | None = None
    metadata: dict[str, Any] | None = None

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
        """Usage in every chunk. As in vLLM, only together with `include_usage`."""
        options = self.stream_options
        return bool(options and options.include_usage and options.continuous_usage_stats)


_decode_request = msgspec.json.Decoder(ChatRequest).decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode

NULL: Final = Raw(b"null")

#: Parameters that are read here: null counts as absent. What it means elsewhere is not known.
_TYPED: Final = frozenset(ChatRequest.__struct_fields__)

# The body as text


_BOM: Final = b"\xef\xbb\xbf"

#: U+FFFD in UTF-8.
_REPLACEMENT: Final = b"\xef\xbf\xbd"

#: An escaped half of a surrogate pair without its other half. Only for text in which every `\\u`
#: begins an escape.
_LONE_SURROGATE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


def cleaned(body: bytes) -> bytes:
    """`body` without a byte order mark, and with U+FFFD for each lone surrogate escape.

    The same bytes where there is neither. RFC 8259 allows a receiver to skip the mark (section 8.1)
    and leaves open what a lone surrogate means (section 8.2).
    """
    body = body.removeprefix(_BOM)
    if b"\\u" in body and (b"\\ud" in body or b"\\uD" in body):
        return _replace_surrogates(body)
    return body


def as_text(body: bytes) -> bytes:
    """A body that is `cleaned`. Raises `ApiError` 400 where it is not UTF-8, also in a member that
    nobody reads here: an upstream may."""
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            message = f"The request body is not UTF-8: byte {error.start} is wrong."
            raise invalid(message, code="invalid_json") from None
    return cleaned(body)


def _replace_surrogates(body: bytes) -> bytes:
    # An escaped backslash may stand in front of a `u`. A zero byte stands in no JSON text, so it
    # can take the place of such escapes meanwhile.
    if b"\0" in body:
        return body
    text, count = _LONE_SURROGATE.subn(_REPLACEMENT, body.replace(b"\\\\", b"\0"))
    return text.replace(b"\0", b"\\\\") if count else body


def members(body: bytes) -> dict[str, Raw]:
    """The top-level members of a request body that `parse` has accepted, as raw JSON, without the
    typed ones that are null."""
    fields = _decode_members(body)
    if b"null" in body:
        for name in _TYPED & fields.keys():
            if fields[name] == NULL:
                del fields[name]
    return fields


def amended(body: bytes, **changes: Any) -> bytes:
    """The same request with other values for some of its members; None removes a member."""
    fields: dict[str, Any] = members(body) | changes
    return msgspec.json.encode({name: each for name, each in fields.items() if each is not None})


# The request


def parse(body: bytes) -> ChatRequest:
    """Reads and checks a request body that is `cleaned`.

    Raises `ApiError` 400; it names the member that is wrong and what it takes.
    """
    if not body.strip():
        raise invalid("The request body is empty: send a JSON object with `model` and `messages`.")
    try:
        request = _decode_request(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise explain(error) from None
    _check_options(request)
    _check_messages(request.messages)
    _check_tools(request.tools or [])
    _check_tool_choice(request)
    return request


def _check_options(request: ChatRequest) -> None:
    if request.stream_options is not None and not request.stream:
        raise invalid(
            "`stream_options` is only allowed with `stream: true`.", param="stream_options"
        )
    if request.top_logprobs and not request.logprobs:
        raise _wrong_value("top_logprobs", "is only allowed with `logprobs: true`")
    wanted = request.response_format
    if wanted is not None and wanted.type == "json_schema":
        if wanted.json_schema is None:
            raise _missing("response_format.json_schema")
        if not wanted.json_schema.name:
            raise _missing("response_format.json_schema.name")


def _check_messages(messages: list[Message]) -> None:
    for index, message in enumerate(messages):
        if message.role == "tool" and not message.tool_call_id:
            raise _missing(f"messages[{index}].tool_call_id")


def _check_tools(tools: list[Tool]) -> None:
    for index, tool in enumerate(tools):
        if tool.type != "function":
            continue
        where = f"tools[{index}].function"
        if tool.function is None:
            raise _missing(where)
        name, parameters = tool.function.get("name"), tool.function.get("parameters")
        if not name:
            raise _missing(f"{where}.name")
        if not isinstance(name, str):
            raise _wrong_value(f"{where}.name", "is not a string")
        if parameters is not None and as_object(parameters) is None:
            raise _wrong_value(f"{where}.parameters", "is not an object")


def _check_tool_choice(request: ChatRequest) -> None:
    choice = request.tool_choice
    if choice is None or choice in ("auto", "none"):
        return
    if not request.tools:
        raise _wrong_value("tool_choice", "is only allowed with `tools`")
    if isinstance(choice, str) or choice.get("type") != "function":
        return  # a dialect knows whether its upstream takes it
    name = (as_object(choice.get("function")) or {}).get("name")
    if not isinstance(name, str):
        raise _wrong_value("tool_choice", "has no `function.name`")
    for tool in request.tools:
        if tool.type != "function":
            return  # an upstream's own tool, and it may have this name
        if tool.function and tool.function.get("name") == name:
            return
    raise _wrong_value("tool_choice", f"names `{name}`, which is not one of `tools`")


def _missing(param: str) -> ApiError:
    return invalid(f"`{param}` is required.", param=param, code="missing_required_parameter")


def _wrong_value(param: str, reason: str) -> ApiError:
    return invalid(f"`{param}` {reason}.", param=param, code="invalid_value")


def explain(error: Exception) -> ApiError:
    """The 400 for what msgspec's decoder of a request body has raised; it names the member."""
    if isinstance(error, RecursionError):
        return invalid("The request body is nested too deeply.", code="invalid_json")
    if not isinstance(error, msgspec.ValidationError):
        return invalid(f"The request body is not valid JSON: {error}", code="invalid_json")
    # Its words: "Expected `int`, got `str` - at `$.n`".
    what, _, path = str(error).partition(" - at `")
    param = path.rstrip("`").removeprefix("$").removeprefix(".") or None
    if what.startswith("Object missing required field `"):
        name = what.split("`")[1]
        return _missing(f"{param}.{name}" if param else name)
    where = f"`{param}`: " if param else ""
    return invalid(f"{where}{what[:1].lower()}{what[1:]}.", param=param, code="invalid_value")
