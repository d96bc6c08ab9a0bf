"""A request of OpenAI's Responses API, read and translated to Chat Completions."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from legato.core.chunk import as_object
from legato.core.errors import invalid
from legato.core.front import FrontRequest
from legato.core.request import Effort, Fraction, Positive, Temperature, explain
from legato.core.request import parse as parse_chat
from legato.fronts.responses_content import Content
from legato.fronts.responses_input import messages
from legato.fronts.responses_tools import ToolNames, apply_choice, read_tools

Fields = dict[str, Any]

FORMAT: Final = "responses"

#: What is asked for in `include` to get the probabilities of tokens.
_LOGPROBS: Final = "message.output_text.logprobs"
#: And to get reasoning in a form in which it can be sent back.
_ENCRYPTED: Final = "reasoning.encrypted_content"


class _Reasoning(Struct, gc=False):
    effort: Effort | None = None
    summary: str | None = None


class _Text(Struct, gc=False):
    format: dict[str, Any] | None = None
    verbosity: str | None = None


class _StreamOptions(Struct, gc=False):
    include_obfuscation: bool | None = None


class ResponsesRequest(Struct, gc=False):
    """The body of `POST /v1/responses`, as far as this server acts on it. Members that are not
    known are taken."""

    model: Annotated[str, Meta(min_length=1)]
    input: str | list[Any]
    instructions: str | list[Any] | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: _Reasoning | None = None
    text: _Text | None = None
    max_output_tokens: Positive | None = None
    max_tool_calls: int | None = None
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    store: bool | None = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    truncation: str | None = None
    previous_response_id: str | None = None
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None


class Echo(Struct, frozen=True):
    """What the answer needs of its request. `settings`: members of the response that repeat it, as
    JSON, each with its leading comma. `carries`: reasoning is wanted in a form in which it can be
    sent back. `is_kept`, `previous`: whether the response is kept here, and the id of the kept one
    that it goes on with; they are in `settings` too."""

    settings: bytes
    names: ToolNames
    carries: bool = False
    is_kept: bool = False
    previous: str | None = None


_decode: Final = msgspec.json.Decoder(ResponsesRequest).decode


def parse(body: bytes) -> FrontRequest:
    """Reads and checks a body (`core.front.Front.parse`)."""
    if not body.strip():
        raise invalid("The request body is empty: send a JSON object with `model` and `input`.")
    try:
        request = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise explain(error) from None
    _refuse_stored(request)
    tools, content = read_tools(request.tools), Content()
    chat: Fields = {
        "model": request.model,
        "messages": messages(request.input, request.instructions, tools.names, content),
    }
    if not chat["messages"]:
        raise invalid(
            "`input` has nothing that a model could answer.", param="input", code="invalid_value"
        )
    chat |= apply_choice(tools, request.tool_choice)
    chat |= _parallel_calls(request, chat) | _parameters(request)
    translated = msgspec.json.encode(chat)
    return FrontRequest(
        parse_chat(translated),
        translated,
        format=FORMAT,
        source=body,
        echo=Echo(_settings(request), tools.names, _ENCRYPTED in (request.include or ())),
        beyond=content.beyond or tools.beyond,
    )


def _refuse_stored(request: ResponsesRequest) -> None:
    """Nothing is stored here, so nothing can be referred to."""
    identity = request.previous_response_id
    if identity:
        raise invalid(
            f"The response `{identity[:100]}` is not here: responses are not stored. Send the whole"
            " conversation as `input`.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    for name, advice in (
        ("background", "Leave it out; `stream` shows the answer as it is generated."),
        ("conversation", "Conversations are not stored: send the whole one as `input`."),
        ("prompt", "Prompts are not stored: send its text as `instructions` or `input`."),
    ):
        if getattr(request, name):
            raise invalid(
                f"`{name}` is not supported. {advice}", param=name, code="unsupported_parameter"
            )


def _parallel_calls(request: ResponsesRequest, chat: Fields) -> Fields:
    """Several calls are the default, so that is left out, for servers that do not know the
    parameter; unless a call is demanded: the local engine makes one where it is not told so."""
    wanted = request.parallel_tool_calls
    if wanted is None or "tools" not in chat:
        return {}
    if wanted and chat.get("tool_choice") in (None, "auto", "none"):
        return {}
    return {"parallel_tool_calls": wanted}


def _parameters(request: ResponsesRequest) -> Fields:
    """Everything but messages and tools. What only tells how an answer is stored, shown or
    truncated has no equivalent."""
    reasoning = request.reasoning
    wants_logprobs = bool(request.top_logprobs) or _LOGPROBS in (request.include or ())
    parameters: Fields = {
        "stream": request.stream,
        "max_completion_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "logprobs": wants_logprobs or None,
        "top_logprobs": request.top_logprobs or None,
        "reasoning_effort": reasoning.effort if reasoning is not None else None,
        "response_format": _response_format(request),
        "user": request.user or request.safety_identifier,
        "prompt_cache_key": request.prompt_cache_key,
        "service_tier": request.service_tier if request.service_tier != "auto" else None,
    }
    options = request.stream_options
    if request.stream and options is not None and options.include_obfuscation is not None:
        parameters["stream_options"] = {"include_obfuscation": options.include_obfuscation}
    return {name: value for name, value in parameters.items() if value is not None}


def _response_format(request: ResponsesRequest) -> Fields | None:
    form = request.text.format if request.text is not None else None
    match (form or {}).get("type", "text"):
        case "text":
            return None
        case "json_object":
            return {"type": "json_object"}
        case "json_schema":
            return {"type": "json_schema", "json_schema": _json_schema(form or {})}
        case _:
            raise invalid(
                "`text.format.type` is none of `text`, `json_schema` and `json_object`.",
                param="text.format.type",
                code="invalid_value",
            )


def _json_schema(form: Fields) -> Fields:
    for name, kind in (("name", str), ("schema", dict)):
        if not isinstance(form.get(name), kind) or form[name] == "":
            param = f"text.format.{name}"
            raise invalid(f"`{param}` is required.", param=param, code="missing_required_parameter")
    names = ("name", "description", "schema", "strict")
    return {name: form[name] for name in names if form.get(name) is not None}


# What the response repeats


def _settings(request: ResponsesRequest) -> bytes:
    reasoning, text = request.reasoning, request.text
    settings: Fields = {
        "background": False,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": None,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {
            "effort": reasoning.effort if reasoning is not None else None,
            "summary": reasoning.summary if reasoning is not None else None,
        },
        "safety_identifier": request.safety_identifier,
        "service_tier": request.service_tier,
        "store": False,
        "temperature": request.temperature,
        "text": _text(text),
        "tool_choice": request.tool_choice or "auto",
        "tools": [_tool(each) for each in request.tools or ()],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": request.top_p,
        "truncation": request.truncation or "disabled",
    }
    if request.user is not None:
        settings["user"] = request.user
    return b"," + msgspec.json.encode(settings)[1:-1]


def _text(text: _Text | None) -> Fields:
    form = text.format if text is not None and text.format else {"type": "text"}
    shown: Fields = {"format": form}
    if text is not None and text.verbosity is not None:
        shown["verbosity"] = text.verbosity
    return shown


def _tool(value: Any) -> Any:
    """A tool as the client gave it, with the members that a function has in every answer."""
    tool = as_object(value)
    if tool is None or tool.get("type") != "function":
        return value
    return {"parameters": None, "strict": None} | tool
