"""Rewrites messages that llama.cpp would refuse, or of which it would lose a part."""

from typing import Any, Final

import msgspec
from msgspec import Raw

from legato.core.chunk import as_object
from legato.core.errors import invalid
from legato.core.request import ChatRequest, Message, members

#: Parts that are not text, in words that fit every client's format.
_NAMES: Final = {"image_url": "images", "input_audio": "audio", "file": "files"}


def adapt_messages(body: bytes, request: ChatRequest) -> list[Any] | None:
    """The messages of `body` as llama.cpp needs them; None if they need no change.

    Raises `ApiError` 400 for content that is not text: the engine's models accept nothing else, and
    llama.cpp would answer with a 500.
    """
    messages: list[Any] | None = None
    for index, message in enumerate(request.messages):
        changes = _text_content(message, index) | _parsable_calls(message)
        if changes:
            messages = messages or raw_messages(body)
            messages[index] = msgspec.json.decode(messages[index]) | changes
    return messages


def raw_messages(body: bytes) -> list[Any]:
    return msgspec.json.decode(members(body)["messages"], type=list[Raw])


def _text_content(message: Message, index: int) -> dict[str, Any]:
    """Moves an earlier answer's refusal into `content`: templates render nothing else."""
    content = message.content
    if not isinstance(content, list):
        return {"content": message.refusal} if message.refusal and not content else {}
    has_refusal = False
    for part in content:
        has_refusal |= part.type == "refusal"
        if part.type not in ("text", "refusal"):
            what = _NAMES.get(part.type) or f"content of type `{part.type[:100]}`"
            raise invalid(
                f"The model takes text alone, and no {what}: leave that out, or ask a model that"
                " takes it.",
                param=f"messages[{index}].content",
                code="unsupported_parameter",
            )
    if not has_refusal:
        return {}
    texts = [part.text or part.refusal or "" for part in content]
    return {"content": [{"type": "text", "text": text} for text in texts]}


def _parsable_calls(message: Message) -> dict[str, Any]:
    """Replaces arguments of earlier calls that are not JSON. llama.cpp parses them and would fail
    at an empty string, which some clients send, and at arguments that were cut off."""
    calls = message.tool_calls or []
    parsable = [_with_arguments(call) for call in calls]
    return {"tool_calls": parsable} if parsable != calls else {}


def _with_arguments(call: dict[str, Any]) -> dict[str, Any]:
    function = as_object(call.get("function")) or {}
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        return call
    try:
        msgspec.json.decode(arguments)
        return call
    except (msgspec.DecodeError, RecursionError):
        quoted = msgspec.json.encode(arguments).decode() if arguments.strip() else "{}"
        return call | {"function": function | {"arguments": quoted}}
