"""Folds a stream into one message: the answer of a client that did not ask to stream."""

from typing import Any, Final

import msgspec

from legato.core.chunk import Chunk, Usage, as_object, decoded
from legato.core.errors import ApiError, bad_gateway
from legato.core.front import AnswerHead
from legato.core.merge import TextBuffer, to_builtins
from legato.core.subscriber import WriteText
from legato.fronts.messages_blocks import Event
from legato.fronts.messages_events import MessagesEvents, message_start
from legato.fronts.messages_relay import RelayedEvents, Sent

Fields = dict[str, Any]

_NO_HEAD: Final = AnswerHead("", 0, "")


class EventFold:
    """Folds the events of one answer, in their legal order, into its message.

    `broken`: a tool call whose arguments are no JSON object, by its name; None where there is none.
    """

    __slots__ = ("_inputs", "broken", "message")

    def __init__(self) -> None:
        self.message: Fields = message_start(_NO_HEAD)["message"]
        self._inputs: dict[int, list[str]] = {}  # pieces of JSON, by the block's place
        self.broken: str | None = None

    def add(self, event: Event) -> None:
        match event["type"]:
            case "message_start":
                self.message |= as_object(event.get("message")) or {}
                self.message["content"] = []
            case "content_block_start":
                block = as_object(event.get("content_block")) or {}
                self.message["content"].append(dict(block))
            case "content_block_delta":
                self._delta(as_object(event.get("delta")) or {})
            case "content_block_stop":
                self._stop()
            case "message_delta":
                self._end(event)
            case _:
                pass

    def _delta(self, delta: Fields) -> None:
        content: list[Fields] = self.message["content"]
        block = content[-1]
        match delta.get("type"):
            case "input_json_delta":
                pieces = self._inputs.setdefault(len(content) - 1, [])
                pieces.append(str(delta.get("partial_json") or ""))
            case "citations_delta":
                block["citations"] = [*(block.get("citations") or ()), delta.get("citation")]
            case "signature_delta":
                block["signature"] = delta.get("signature")
            case _:
                for name, value in delta.items():
                    if name == "type" or value is None:
                        continue
                    before = block.get(name)
                    if isinstance(before, TextBuffer) and isinstance(value, str):
                        before.append(value)
                    elif isinstance(before, str) and isinstance(value, str):
                        block[name] = TextBuffer(before + value)
                    else:
                        block[name] = value

    def _stop(self) -> None:
        content: list[Fields] = self.message["content"]
        content[-1] = block = to_builtins(content[-1])
        text = "".join(self._inputs.pop(len(content) - 1, ()))
        if not text.strip():
            return
        given = as_object(decoded(text.encode()))
        if given is None:
            self.broken = str(block.get("name"))
        block["input"] = given or {}

    def _end(self, event: Event) -> None:
        """Members that are null say nothing: some servers write all that an event may have."""
        for name, value in event.items():
            if name == "delta":
                self.message |= _said(value)
            elif name == "usage":
                self.message["usage"] = (as_object(self.message["usage"]) or {}) | _said(value)
            elif name != "type" and value is not None:
                self.message[name] = value


def _said(value: Any) -> Fields:
    return {k: v for k, v in (as_object(value) or {}).items() if v is not None}


class MessagesAggregator:
    """A subscriber that folds; `answer` is the message of a complete stream."""

    __slots__ = ("_events", "_fold", "_relayed", "_stops", "error")

    def __init__(self, stop_sequences: tuple[str, ...] = ()) -> None:
        self._stops = stop_sequences
        self.error: ApiError | None = None
        self.start_over()

    @property
    def is_paused(self) -> bool:
        return False

    def start_over(self) -> None:
        self._events = MessagesEvents(self._stops)
        self._relayed = RelayedEvents(self._events.blocks, None)
        self._fold = EventFold()

    def push(self, chunk: Chunk) -> None:
        self._relayed.go_on()
        self._add(self._relayed.start())
        for event in self._events.add(chunk):
            self._fold.add(event)

    def relay(self, name: bytes, data: bytes) -> None:
        self._add(self._relayed.take(data))

    def _add(self, sent: list[Sent]) -> None:
        for _, data in sent:
            event = as_object(decoded(data))
            if event is not None:
                self._fold.add(event)

    def flush(self) -> None:
        return None

    def text_writer(self, chunk: Chunk, raw: tuple[bytes, bytes]) -> WriteText | None:
        return None

    def event_writer(self, event: bytes) -> WriteText | None:
        return None

    def complete(self, usage: Usage, extras: bytes) -> None:
        relayed = self._relayed.end(usage)
        if relayed is not None:
            self._add(relayed)
        else:
            for event in self._events.end(usage):
                self._fold.add(event)
        broken = self._fold.broken
        if broken is not None and self._fold.message["stop_reason"] != "max_tokens":
            # A client would run the tool with an input that the model did not write.
            self.error = bad_gateway(
                f"The arguments of the call of `{broken[:100]}` are not a JSON object.",
                code="upstream_malformed",
            )

    def fail(self, error: ApiError) -> None:
        self.error = error

    def answer(self, head: AnswerHead) -> bytes:
        """The body of a 200: Anthropic's Message."""
        ours = {"id": head.identity, "model": head.model}
        return msgspec.json.encode(self._fold.message | ours)
