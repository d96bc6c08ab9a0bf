"""The fronts that calls are made on: how each is asked, and which of its frames have content."""

from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from tests.support.wire import chat

Json = dict[str, Any]


class Front(Struct, frozen=True):
    """`asks`: the request of a call; the upstream gets its name as that of the user. `has_content`:
    whether a frame is one of the pieces that the upstream sent."""

    name: str
    path: str
    asks: Callable[[str], Json]
    has_content: Callable[[bytes], bool]


def _chat(name: str) -> Json:
    return chat(name, user=name)


def _messages(name: str) -> Json:
    messages = [{"role": "user", "content": "Hello"}]
    return {
        "model": name,
        "messages": messages,
        "max_tokens": 4096,
        "metadata": {"user_id": name},
    }


def _responses(name: str) -> Json:
    return {"model": name, "input": "Hello", "user": name, "store": name[-1] in "02468"}


def _in_chat(frame: bytes) -> bool:
    """It is not the role, nor a finish, nor usage, nor an error."""
    members = (b'"content":"', b'"reasoning_content":"', b'"tool_calls":[')
    return any(member in frame for member in members) and b'"role"' not in frame


_DELTAS: Final = (b'"text_delta"', b'"thinking_delta"', b'"input_json_delta"')


def _in_messages(frame: bytes) -> bool:
    if frame.startswith(b"event: content_block_start\n"):
        return b'"tool_use"' in frame
    return frame.startswith(b"event: content_block_delta\n") and any(
        delta in frame for delta in _DELTAS
    )


_EVENTS: Final = (
    b"event: response.output_text.delta\n",
    b"event: response.reasoning_text.delta\n",
    b"event: response.reasoning_summary_text.delta\n",
    b"event: response.function_call_arguments.delta\n",
)


def _in_responses(frame: bytes) -> bool:
    if frame.startswith(b"event: response.output_item.added\n"):
        return b'"function_call"' in frame
    return frame.startswith(_EVENTS)


FRONTS: Final = {
    each.name: each
    for each in (
        Front("chat", "/v1/chat/completions", _chat, _in_chat),
        Front("messages", "/v1/messages", _messages, _in_messages),
        Front("responses", "/v1/responses", _responses, _in_responses),
    )
}
