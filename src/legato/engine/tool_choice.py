"""What llama.cpp has to be told of a request with tools, to do what its client says.

It takes "auto", "none" and "required" for `tool_choice`, and reads a function that is named there
as "auto". Its grammar for "required" lets text come before the call, as much as the model likes: a
model that was not trained to call writes until its tokens are spent. Where the call is begun for
it, as a last message that llama.cpp goes on with, the grammar allows nothing but the call.
"""

from typing import Any

import msgspec
from msgspec import Raw

from legato.core.chunk import as_object
from legato.core.dialect import OutgoingRequest
from legato.core.errors import invalid
from legato.core.request import ChatRequest, Tool, amended, members


def told(outgoing: OutgoingRequest, call: str | None) -> bytes:
    """The request's body for llama.cpp; the same bytes where there is nothing to tell.

    `call`: what a tool call begins with in the model's answers, None where that is not known.
    Raises `ApiError` 400 where a function is chosen that is no tool of the request.
    """
    body, request = outgoing.body, outgoing.request
    changes: dict[str, Any] = {}
    messages = _mended(body, request)
    if request.tools and request.tool_choice not in (None, "auto", "none"):
        mode, names = _chosen(request.tool_choice)
        changes["tool_choice"] = mode
        if names is not None:
            changes["tools"] = _only(names, request)
        if mode == "required":
            # One call, unless more are wanted: so small a model finds no end of them.
            changes["parallel_tool_calls"] = bool(request.parallel_tool_calls)
            changes["response_format"] = None  # it is about text, and there will be none
            begun = outgoing.delivered is not None or request.messages[-1].role == "assistant"
            if call is not None and not begun:
                messages = [*(messages or _messages(body)), {"role": "assistant", "content": call}]
    if messages is not None:
        changes["messages"] = messages
    return amended(body, **changes) if changes else body


def _chosen(choice: str | dict[str, Any]) -> tuple[str, list[str] | None]:
    """(llama.cpp's `tool_choice`, the names of the functions that are left) for a client's."""
    if isinstance(choice, str):
        return choice, None
    if choice.get("type") != "allowed_tools":
        return "required", [_name(choice)]
    allowed = as_object(choice.get("allowed_tools")) or {}
    tools: Any = allowed.get("tools")
    names = [_name(as_object(each) or {}) for each in tools] if isinstance(tools, list) else []
    return str(allowed.get("mode", "auto")), names


def _name(tool: dict[str, Any]) -> str:
    return str((as_object(tool.get("function")) or {}).get("name"))


def _only(names: list[str], request: ChatRequest) -> list[Tool]:
    """The tools of these names."""
    tools = {str((tool.function or {}).get("name")): tool for tool in request.tools or ()}
    for name in names:
        if name not in tools:
            raise invalid(f"`tool_choice`: `{name}` is none of `tools`.", param="tool_choice")
    if not names:
        raise invalid("`tool_choice` names none of `tools`.", param="tool_choice")
    return [tools[name] for name in names]


def _messages(body: bytes) -> list[Any]:
    return msgspec.json.decode(members(body)["messages"], type=list[Raw])


def _mended(body: bytes, request: ChatRequest) -> list[Any] | None:
    """The messages, where arguments of calls among them are no JSON: llama.cpp parses them, and
    fails at none (an empty string, which some clients send) and at what a cut answer has left."""
    messages: list[Any] | None = None
    for index, message in enumerate(request.messages):
        calls = message.tool_calls or []
        mended = [_with_arguments(call) for call in calls]
        if mended != calls:
            messages = messages or _messages(body)
            messages[index] = msgspec.json.decode(messages[index]) | {"tool_calls": mended}
    return messages


def _with_arguments(call: dict[str, Any]) -> dict[str, Any]:
    function = as_object(call.get("function")) or {}
    said = function.get("arguments")
    if not isinstance(said, str):
        return call
    try:
        msgspec.json.decode(said)
        return call
    except (msgspec.DecodeError, RecursionError):
        said = msgspec.json.encode(said).decode() if said.strip() else "{}"
        return call | {"function": function | {"arguments": said}}
