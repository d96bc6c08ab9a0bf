"""Events of OpenAI's Responses API: their shape, and the types that are known."""

from typing import Any, Final

import msgspec
from msgspec import Struct

from legato.core.json_text import Path


class Response(Struct, gc=False):
    """What is read of a response. The rest repeats the request, and is skipped."""

    id: str | None = None
    status: str | None = None
    error: Any = None
    incomplete_details: dict[str, Any] | None = None
    output: list[Any] | None = None
    usage: dict[str, Any] | None = None


class Event(Struct, gc=False):
    type: str | None = None
    delta: str | None = None
    item_id: str | None = None
    output_index: int | None = None
    content_index: int | None = None
    summary_index: int | None = None
    logprobs: list[Any] | None = None
    item: dict[str, Any] | None = None
    part: dict[str, Any] | None = None
    text: str | None = None
    refusal: str | None = None
    annotation: dict[str, Any] | None = None
    response: Response | None = None
    error: Any = None


decode_event = msgspec.json.Decoder(Event).decode

#: Strings in which the half of a surrogate pair waits for the next event.
TEXTS: Final[frozenset[Path]] = frozenset({("delta",)})

TEXT: Final = "response.output_text.delta"

#: Events with a text of reasoning, and whether it is a summary.
REASONING: Final = {
    "response.reasoning_text.delta": "text",
    "response.reasoning.delta": "text",
    "response.reasoning_summary_text.delta": "summary",
}
#: Events with a part of a call's text, or all of it, and the type of the call.
CALL_DELTAS: Final = {
    "response.function_call_arguments.delta": "function_call",
    "response.custom_tool_call_input.delta": "custom_tool_call",
}
WHOLE_CALLS: Final = {
    "response.function_call_arguments.done": "function_call",
    "response.custom_tool_call_input.done": "custom_tool_call",
}
#: Events that say that the answer has begun, or is under way.
STATES: Final = frozenset({"response.created", "response.queued", "response.in_progress"})
#: The last events of an answer.
ENDS: Final = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}
)
#: Events that say nothing of their own.
SILENT: Final = frozenset(
    {
        "",
        "heartbeat",
        "keepalive",
        "ping",
        "response.content_part.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_part.done",
        "response.reasoning_summary_text.done",
        "response.reasoning_text.done",
    }
)
#: Types of events that have to look as they are documented.
KNOWN: Final = frozenset(
    {
        "error",
        TEXT,
        *STATES,
        *ENDS,
        *SILENT,
        *REASONING,
        *CALL_DELTAS,
        *WHOLE_CALLS,
        "response.content_part.done",
        "response.output_item.added",
        "response.output_item.done",
        "response.output_text.annotation.added",
        "response.output_text.done",
        "response.refusal.delta",
        "response.refusal.done",
    }
)

#: Values of an `error` that is none.
NOTHING: Final[tuple[Any, ...]] = (None, False, "", {}, [])
