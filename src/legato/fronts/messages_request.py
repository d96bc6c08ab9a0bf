"""Reads a request of Anthropic's Messages API into one of OpenAI's Chat Completions.

What only hints (`context_management`, `service_tier`, where thinking is shown) is left out: it
stays in the request as it came, which upstreams of this format are sent.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from legato.core import request as chat_request
from legato.core.chunk import as_object
from legato.core.errors import invalid
from legato.core.front import FrontRequest
from legato.core.request import GREATEST_INT, Fraction, explain
from legato.core.span_edit import with_members
from legato.core.tool_calls import legal_call_id
from legato.fronts.messages_content import assistant_message, system_message, user_messages
from legato.fronts.messages_parts import Beyond, Fields, is_strict, missing, unsupported, wrong
from legato.fronts.messages_thoughts import is_packed


class Message(Struct, gc=False):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class ToolChoice(Struct, gc=False):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Struct, gc=False):
    """`type`: `enabled`, `disabled` or `adaptive`; later ones leave it to the model, too."""

    type: str
    budget_tokens: Annotated[int, Meta(ge=0)] | None = None


class OutputFormat(Struct, gc=False):
    type: str
    schema: dict[str, Any] | None = None


class OutputConfig(Struct, gc=False):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class Metadata(Struct, gc=False):
    user_id: str | None = None


class MessagesRequest(Struct, gc=False):
    """The body of `POST /v1/messages`. Ranges are Anthropic's where it names one."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_tokens: Annotated[int, Meta(ge=0, le=GREATEST_INT)]
    system: str | list[dict[str, Any]] | None = None
    stop_sequences: list[str] | None = None
    temperature: Fraction | None = None
    top_p: Fraction | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None  # as `output_config.format` was called at first
    metadata: Metadata | None = None
    inference_geo: str | None = None
    stream: bool | None = None


class Echo(Struct, frozen=True):
    """What an answer depends on. `stop_sequences`: those that the client asked for."""

    stop_sequences: tuple[str, ...] = ()


_decode_request: Final = msgspec.json.Decoder(MessagesRequest).decode
_decode_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_list: Final = msgspec.json.Decoder(list[Raw]).decode

_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}


def parse(body: bytes) -> FrontRequest:
    """Reads and checks a request body (`core.front.Front.parse`)."""
    request, beyond = _typed(body), Beyond()
    if not request.max_tokens:
        with beyond.noted():
            reason = "is 0, which fills a cache of prompts that the model's server does not have"
            raise unsupported("max_tokens", reason)
    if request.inference_geo is not None:
        with beyond.noted():
            raise unsupported("inference_geo", "cannot be promised by the model's server")
    fields: Fields = {
        "model": request.model,
        "messages": _messages(request, beyond),
        "max_tokens": request.max_tokens or 1,
        "stream": request.stream,
        "stop": request.stop_sequences or None,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "user": request.metadata.user_id if request.metadata is not None else None,
    }
    fields |= _tools(request, beyond) | _reasoning(request) | _format(request)
    chat = msgspec.json.encode({name: each for name, each in fields.items() if each is not None})
    return FrontRequest(
        chat_request.parse(chat),
        chat,
        "messages",
        _for_anthropic(body, request),
        Echo(tuple(request.stop_sequences or ())),
        beyond.error,
        is_whole=not request.max_tokens and not request.stream,
    )


def _typed(body: bytes) -> MessagesRequest:
    if not body.strip():
        raise invalid(
            "The request body is empty: send a JSON object with `model`, `max_tokens` and"
            " `messages`."
        )
    try:
        return _decode_request(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise explain(error) from None


def _messages(request: MessagesRequest, beyond: Beyond) -> list[Fields]:
    messages: list[Fields] = []
    if request.system is not None:
        messages += system_message(request.system, "system")
    for index, message in enumerate(request.messages):
        where = f"messages[{index}].content"
        match message.role:
            case "user":
                messages += user_messages(message.content, where, beyond)
            case "assistant":
                messages.append(assistant_message(message.content, where, beyond))
            case "system":
                messages += system_message(message.content, where)
    if not messages:
        raise wrong("messages[0].content", "is empty")
    return messages


# Tools


def _tools(request: MessagesRequest, beyond: Beyond) -> Fields:
    """Tools that only Anthropic's models or servers know are left out, unless one is demanded."""
    taken: list[Fields] = []
    others: dict[str, str] = {}  # their types, by name
    for index, tool in enumerate(request.tools or ()):
        kind = tool.get("type")
        if kind is None or kind == "custom":
            taken.append(_tool(tool, f"tools[{index}]"))
        else:
            others[str(tool.get("name") or kind)] = str(kind)[:100]
    choice = request.tool_choice
    if not taken:
        if choice is not None and choice.type in ("any", "tool"):
            with beyond.noted():
                raise _demanded(choice, others)
        return {}
    fields: Fields = {"tools": taken}
    if choice is None:
        return fields
    if choice.disable_parallel_tool_use is not None:
        fields["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    if choice.type != "tool":
        return fields | {"tool_choice": _CHOICES[choice.type]}
    if choice.name not in [each["function"]["name"] for each in taken]:
        with beyond.noted():
            raise _demanded(choice, others)
        return fields
    return fields | {"tool_choice": {"type": "function", "function": {"name": choice.name}}}


def _tool(tool: Fields, place: str) -> Fields:
    name, schema = tool.get("name"), tool.get("input_schema")
    if not isinstance(name, str) or not name:
        raise missing(f"{place}.name")
    if schema is None:
        raise missing(f"{place}.input_schema")
    if as_object(schema) is None:
        raise wrong(f"{place}.input_schema", "is not an object")
    function: Fields = {"name": name, "parameters": schema}
    for member in ("description", "strict"):
        if tool.get(member) is not None:
            function[member] = tool[member]
    fields: Fields = {"type": "function", "function": function}
    if tool.get("cache_control") is not None:
        fields["cache_control"] = tool["cache_control"]
    return fields


def _demanded(choice: ToolChoice, others: dict[str, str]) -> Exception:
    """The error for a `tool_choice` that no tool is there for."""
    if choice.type == "tool":
        if choice.name is None:
            return missing("tool_choice.name")
        if choice.name not in others:
            return wrong("tool_choice.name", f"names `{choice.name}`, which is not one of `tools`")
        others = {choice.name: others[choice.name]}
    if not others:
        return wrong("tool_choice", "is only allowed with `tools`")
    names = ", ".join(f"`{name}` (`{kind}`)" for name, kind in others.items())
    return unsupported(
        "tool_choice", f"demands a tool that the model's server does not run: {names}"
    )


# Reasoning and form


def _reasoning(request: MessagesRequest) -> Fields:
    fields: Fields = {}
    thinking, config = request.thinking, request.output_config
    if thinking is not None:
        known = ("enabled", "disabled", "adaptive")
        wanted: Fields = {"type": thinking.type if thinking.type in known else "adaptive"}
        if thinking.budget_tokens is not None and thinking.type == "enabled":
            wanted["budget_tokens"] = thinking.budget_tokens
        fields["thinking"] = wanted
    if config is not None and config.effort is not None:
        fields["reasoning_effort"] = config.effort
    return fields


def _format(request: MessagesRequest) -> Fields:
    config, place = request.output_config, "output_config.format"
    wanted = config.format if config is not None else None
    if wanted is None:
        wanted, place = request.output_format, "output_format"
    if wanted is None:
        return {}
    if wanted.type != "json_schema":
        raise wrong(f"{place}.type", "is not `json_schema`")
    if wanted.schema is None:
        raise missing(f"{place}.schema")
    strict = is_strict(wanted.schema)
    schema = {"name": "answer", "schema": wanted.schema, "strict": strict}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


# The request as it came


def _for_anthropic(body: bytes, request: MessagesRequest) -> bytes:
    """The body without blocks that carry what other vendors want back, and with ids of tool calls
    that the API takes: other servers use more letters in theirs. All else stays as it is."""
    if not any(_is_edited(message) for message in request.messages):
        return body
    left: list[Raw] = []
    entries = _decode_list(_decode_members(body)["messages"])
    for entry, message in zip(entries, request.messages, strict=True):
        if _is_edited(message):
            blocks = _decode_list(_decode_members(entry)["content"])
            kept = [
                _with_legal_id(each, fields)
                for each, fields in zip(blocks, _blocks(message), strict=True)
                if not is_packed(fields)
            ]
            if kept:
                left.append(Raw(with_members(bytes(entry), {"content": kept})))
        else:
            left.append(entry)
    return with_members(body, {"messages": left})


#: Members with the id of a call, by the type of their block.
_IDS: Final = {"tool_use": "id", "tool_result": "tool_use_id"}


def _blocks(message: Message) -> list[Fields]:
    return [] if isinstance(message.content, str) else message.content


def _is_edited(message: Message) -> bool:
    return any(is_packed(each) or _legal_id(each) for each in _blocks(message))


def _legal_id(block: Fields) -> dict[str, str]:
    """The member that takes the place of an id that is not legal."""
    name = _IDS.get(str(block.get("type")), "")
    identity = block.get(name)
    legal = legal_call_id(identity) if isinstance(identity, str) else identity
    return {} if legal == identity else {name: str(legal)}


def _with_legal_id(raw: Raw, block: Fields) -> Raw:
    changes = _legal_id(block)
    return Raw(with_members(bytes(raw), changes)) if changes else raw
