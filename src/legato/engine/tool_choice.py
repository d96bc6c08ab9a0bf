"""Rewrites a request with tools so that llama.cpp obeys its `tool_choice`.

llama.cpp accepts "auto", "none" and "required", and treats a named function as "auto". Its grammar
for "required" allows any amount of text before the call: a model that was not trained on tools
writes until it reaches its token limit. If the request ends with an assistant message that starts
the call, llama.cpp continues that message, and the grammar allows only the call.
"""

from typing import Any, Final

from legato.core.chunk import as_object
from legato.core.dialect import OutgoingRequest
from legato.core.errors import invalid
from legato.core.request import ChatRequest, Tool, amended
from legato.engine.messages import adapt_messages, raw_messages

_MODES: Final = ("auto", "none", "required")
_CHOICES: Final = "`auto`, `none`, `required`, `allowed_tools` and the name of a function"


def adapt_request(outgoing: OutgoingRequest, call_prefix: str | None) -> bytes:
    """The request's body for llama.cpp; the same bytes if it needs no change.

    `call_prefix`: the text that starts a tool call in the model's answers; None if unknown. Raises
    `ApiError` 400 if `tool_choice` names a function that is not in `tools`, and for content and
    tools that the engine does not support.
    """
    body, request = outgoing.body, outgoing.request
    _check_tools(request)
    changes: dict[str, Any] = {}
    messages = adapt_messages(body, request)
    if request.tools and request.tool_choice not in (None, "auto", "none"):
        mode, names = _mode(outgoing)
        changes["tool_choice"] = mode
        if names is not None:
            changes["tools"] = _named_tools(names, request)
        if mode == "required":
            # One call unless the client asks for more: so small a model would not stop calling.
            changes["parallel_tool_calls"] = bool(request.parallel_tool_calls)
            changes["response_format"] = None  # it restricts text, and the answer will have none
            is_started = outgoing.delivered is not None or request.messages[-1].role == "assistant"
            if call_prefix is not None and not is_started:
                messages = [
                    *(messages or raw_messages(body)),
                    {"role": "assistant", "content": call_prefix},
                ]
    if messages is not None:
        changes["messages"] = messages
    return amended(body, **changes) if changes else body


def _check_tools(request: ChatRequest) -> None:
    for index, tool in enumerate(request.tools or ()):
        if tool.type != "function":
            raise invalid(
                f"The model does not support tools of type `{tool.type}`.",
                param=f"tools[{index}]",
                code="unsupported_parameter",
            )


def _mode(outgoing: OutgoingRequest) -> tuple[str, list[str] | None]:
    """(`tool_choice` for llama.cpp, names of the allowed functions or None for all)."""
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


def _named_tools(names: list[str], request: ChatRequest) -> list[Tool]:
    tools = {(tool.function or {}).get("name"): tool for tool in request.tools or ()}
    for name in names:
        if name not in tools:
            raise invalid(f"`tool_choice`: `{name}` is not one of `tools`.", param="tool_choice")
    return [tools[name] for name in names]
