"""A request with tools in a form in which llama.cpp does what the client asks for.

It takes "auto", "none" and "required" for `tool_choice`, and reads a function that is named there
as "auto". Its grammar for "required" lets text come before the call, as much as the model likes: a
model that was not trained to call writes until its tokens are spent. Where the call is begun for
it, as a last message that llama.cpp continues, the grammar allows nothing but the call.
"""

from typing import Any, Final

from legato.core.chunk import as_object
from legato.core.dialect import OutgoingRequest
from legato.core.errors import invalid
from legato.core.request import ChatRequest, Tool, amended
from legato.engine.messages import adapt_messages, raw_messages

_MODES: Final = ("auto", "none", "required")
_CHOICES: Final = "`auto`, `none`, `required`, `allowed_tools` and the name of a function"


def adapt_request(outgoing: OutgoingRequest, call: str | None) -> bytes:
    """The request's body for llama.cpp; the same bytes where there is nothing to change.

    `call`: what a tool call begins with in the model's answers, None where that is not known.
    Raises `ApiError` 400 where a function is chosen that is no tool of the request, and for content
    and tools that the engine does not take.
    """
    body, request = outgoing.body, outgoing.request
    _check_tools(request)
    changes: dict[str, Any] = {}
    messages = adapt_messages(body, request)
    if request.tools and request.tool_choice not in (None, "auto", "none"):
        mode, names = _mode(outgoing)
        changes["tool_choice"] = mode
        if names is not None:
            changes["tools"] = _only(names, request)
        if mode == "required":
            # One call, unless more are wanted: so small a model finds no end of them.
            changes["parallel_tool_calls"] = bool(request.parallel_tool_calls)
            changes["response_format"] = None  # it is about text, and there will be none
            begun = outgoing.delivered is not None or request.messages[-1].role == "assistant"
            if call is not None and not begun:
                messages = [
                    *(messages or raw_messages(body)),
                    {"role": "assistant", "content": call},
                ]
    if messages is not None:
        changes["messages"] = messages
    return amended(body, **changes) if changes else body


def _check_tools(request: ChatRequest) -> None:
    for index, tool in enumerate(request.tools or ()):
        if tool.type != "function":
            raise invalid(
                f"The model does not take a tool of type `{tool.type}`.",
                param=f"tools[{index}]",
                code="unsupported_parameter",
            )


def _mode(outgoing: OutgoingRequest) -> tuple[str, list[str] | None]:
    """(llama.cpp's `tool_choice`, the names of the functions that are left) for a client's."""
    choice = outgoing.request.tool_choice
    if isinstance(choice, str) and choice in _MODES:
        return choice, None
    kind = choice.get("type") if isinstance(choice, dict) else None
    if isinstance(choice, dict) and kind == "function":
        return "required", [_name(choice)]
    if not isinstance(choice, dict) or kind != "allowed_tools":
        raise outgoing.refuse_tool_choice(_CHOICES)
    allowed = as_object(choice.get("allowed_tools")) or {}
    mode: Any = allowed.get("mode", "auto")
    tools: Any = allowed.get("tools")
    if mode not in _MODES:
        raise invalid("`tool_choice`: `mode` is `auto` or `required`.", param="tool_choice")
    if not isinstance(tools, list) or not tools:
        raise invalid("`tool_choice` names none of `tools`.", param="tool_choice")
    return mode, [_name(as_object(each) or {}) for each in tools]


def _name(tool: dict[str, Any]) -> str:
    name = (as_object(tool.get("function")) or {}).get("name")
    if not isinstance(name, str):
        raise invalid("`tool_choice`: `function.name` is required.", param="tool_choice")
    return name


def _only(names: list[str], request: ChatRequest) -> list[Tool]:
    """The tools of these names."""
    tools = {(tool.function or {}).get("name"): tool for tool in request.tools or ()}
    for name in names:
        if name not in tools:
            raise invalid(f"`tool_choice`: `{name}` is not one of `tools`.", param="tool_choice")
    return [tools[name] for name in names]
