"""The legal order of a stream of Anthropic's Messages API, with nothing of the code under test.

Every event is put to the types of Anthropic's own SDK as well.
"""

import json
from typing import Any, Final

from anthropic import types
from pydantic import BaseModel

Json = dict[str, Any]

#: The SDK's type of each event. It has none for `ping` and `error`.
MODELS: Final[dict[str, type[BaseModel]]] = {
    "message_start": types.RawMessageStartEvent,
    "content_block_start": types.RawContentBlockStartEvent,
    "content_block_delta": types.RawContentBlockDeltaEvent,
    "content_block_stop": types.RawContentBlockStopEvent,
    "message_delta": types.RawMessageDeltaEvent,
    "message_stop": types.RawMessageStopEvent,
}

#: Types of blocks and deltas that are put to the SDK's types.
_KNOWN: Final = frozenset(
    {
        *("text", "thinking", "redacted_thinking", "tool_use", "server_tool_use"),
        *("text_delta", "thinking_delta", "signature_delta", "citations_delta"),
        "input_json_delta",
    }
)

#: The types of deltas that a block of each type has.
_DELTAS: Final = {
    "text": {"text_delta", "citations_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "tool_use": {"input_json_delta"},
    "server_tool_use": {"input_json_delta"},
}


def frames(body: bytes) -> list[tuple[str, Json]]:
    """(name, data) of each event of a body; what is no legal frame fails."""
    assert body.endswith(b"\n\n"), body[-80:]
    found: list[tuple[str, Json]] = []
    for frame in body[:-2].split(b"\n\n"):
        lines = frame.decode().splitlines()
        assert len(lines) == 2, frame
        name, data = lines
        assert name.startswith("event: "), frame
        assert data.startswith("data: "), frame
        event = json.loads(data[6:])
        assert event["type"] == name[7:], frame
        found.append((event["type"], event))
    return found


def _is_known(event: Json) -> bool:
    """Whether the SDK has a type for the block or the delta in an event."""
    block, delta = event.get("content_block") or {}, event.get("delta") or {}
    kind = block.get("type") or delta.get("type")
    return kind is None or kind in _KNOWN


class MessagesBody:
    """A whole streamed body that has been checked. `message`: what a client makes of it, as far as
    it came; `is_whole`: it ended with `message_stop`; `open`: the index of a block that was not
    closed."""

    def __init__(self, body: bytes) -> None:
        self.message: Json = {}
        self.error: Json | None = None
        self.is_whole = False
        self.open: int | None = None
        self.types: list[str] = []
        self._input = ""
        self._ended = False
        for kind, event in frames(body):
            assert self.error is None, "something came after an error"
            assert not self.is_whole, "something came after the end"
            if kind == "ping":
                assert event == {"type": "ping"}
                continue
            if kind not in (*MODELS, "error"):
                continue  # clients skip what they do not know
            self.types.append(kind)
            if kind in MODELS and _is_known(event):
                MODELS[kind].model_validate(event)
            getattr(self, f"_{kind}")(event)
        assert self.is_whole is (self.error is None), "an end and an error exclude each other"

    @property
    def content(self) -> list[Json]:
        return self.message["content"]

    def _message_start(self, event: Json) -> None:
        assert not self.message, "a second start"
        self.message = event["message"]
        assert self.message["content"] == []
        assert self.message.get("stop_reason") is None

    def _content_block_start(self, event: Json) -> None:
        assert self.message, "a block before the start"
        assert not self._ended, "a block behind the end"
        assert self.open is None, "two blocks are open"
        assert event["index"] == len(self.content), "a hole in the indices"
        self.open, self._input = event["index"], ""
        block = event["content_block"]
        if block["type"] == "tool_use":
            assert block["input"] == {}
        self.content.append(block)

    def _content_block_delta(self, event: Json) -> None:
        assert self.open is not None, "a delta without a block"
        assert event["index"] == self.open
        block, delta = self.content[-1], event["delta"]
        if block["type"] in _DELTAS:
            assert delta["type"] in _DELTAS[block["type"]]
        match delta["type"]:
            case "text_delta":
                block["text"] += delta["text"]
            case "thinking_delta":
                assert not block["signature"], "thinking behind its signature"
                block["thinking"] += delta["thinking"]
            case "signature_delta":
                block["signature"] = delta["signature"]
            case "citations_delta":
                block["citations"] = [*block.get("citations", ()), delta["citation"]]
            case _:
                self._input += delta["partial_json"]

    def _content_block_stop(self, event: Json) -> None:
        assert self.open is not None, "a stop without a block"
        assert event["index"] == self.open
        self.open = None
        if self._input:
            self.content[-1]["input"] = json.loads(self._input)

    def _message_delta(self, event: Json) -> None:
        assert self.message, "an end before the start"
        assert self.open is None, "an end while a block is open"
        assert not self._ended, "a second message_delta"
        assert event["delta"]["stop_reason"] is not None
        self._ended = True
        self.message |= event["delta"]
        self.message["usage"] |= event["usage"]

    def _message_stop(self, event: Json) -> None:
        assert self._ended, "no message_delta"
        self.is_whole = True

    def _error(self, event: Json) -> None:
        assert event.keys() == {"type", "error"}
        assert event["error"].keys() == {"type", "message"}
        assert not self._ended, "an error behind the end"
        self.error = event["error"]
