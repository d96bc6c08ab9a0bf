"""Events of an Anthropic upstream on their way to a client, as they came but for id and model.

What is no legal order is mended: a block that was not begun is, one that was not ended is, and the
events that end an answer wait until it is known to be whole.
"""

import re
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from legato.core.chunk import NOT_JSON, Usage, as_object
from legato.core.front import AnswerHead
from legato.core.json_text import decode_leniently, encode_leniently, one_line
from legato.core.span_edit import with_members
from legato.fronts.messages_blocks import (
    TEXT,
    THINKING,
    BlockSequence,
    Event,
    block_delta,
    block_start,
    empty_block,
)
from legato.fronts.messages_events import message_start, messages_usage

#: An event on its way out: its type, and its JSON on one line.
Sent = tuple[str, bytes]


class _Block(Struct, gc=False):
    type: str = ""
    text: Any = None
    thinking: Any = None
    signature: Any = None
    input: Any = None

    @property
    def is_filled(self) -> bool:
        """Whether it has more than a block that deltas follow."""
        return any((self.text, self.thinking, self.signature, self.input))


class _Delta(Struct, gc=False):
    type: str = ""
    stop_reason: Any = None


class _Event(Struct, gc=False):
    type: str = ""
    index: int = 0
    content_block: _Block | None = None
    delta: _Delta | None = None


_decode_event: Final = msgspec.json.Decoder(_Event).decode
_decode_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode

#: Texts of deltas that may end with half of a surrogate pair.
_TEXTS: Final = ("text", "thinking", "partial_json")
_PATHS: Final = frozenset({("delta", name) for name in _TEXTS})
_HALVES: Final = re.compile("[\ud800-\udfff]")

#: Members without which clients cannot read a message that is begun.
_REQUIRED: Final[dict[str, Any]] = {"type": "message", "role": "assistant", "content": []}

#: Members of a block that come whole with its start from servers that do not stream; clients read
#: them in deltas: the type of the delta and its member.
_WHOLE: Final = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "signature": ("signature_delta", "signature"),
    "input": ("input_json_delta", "partial_json"),
}

#: The kind of block that a delta belongs to, where its block was not begun.
_KINDS: Final = {
    "text_delta": TEXT,
    "citations_delta": TEXT,
    "thinking_delta": THINKING,
    "signature_delta": THINKING,
}


def encoded_event(event: Event) -> Sent:
    return event["type"], one_line(msgspec.json.encode(event))


class RelayedEvents:
    """The state of the events of one answer that are relayed; `blocks`: that of its blocks,
    so that an upstream of another format can go on with it."""

    __slots__ = ("_blocks", "_early_usage", "_half", "_head", "_held", "_is_started")

    def __init__(self, blocks: BlockSequence, head: AnswerHead | None) -> None:
        """`head` None: id and model stay as they came."""
        self._blocks = blocks
        self._head = head
        self._is_started = False
        self._held: list[Sent] | None = None  # the end, until the answer is known to be whole
        self._early_usage: dict[str, Any] | None = None  # that was not sent when it came
        self._half = ""  # of a surrogate pair, at the end of the last text

    @property
    def is_started(self) -> bool:
        return self._is_started

    @property
    def is_plain(self) -> bool:
        """Whether deltas go out as they come: nothing waits for one, nor for the end."""
        return self._held is None and not self._half

    def start(self) -> list[Sent]:
        """The first event of ours, where there was none."""
        if self._is_started:
            return []
        self._is_started = True
        head = self._head or AnswerHead("", 0, "")
        return [encoded_event(message_start(head))]

    def go_on(self) -> None:
        """Another upstream goes on: an end that was held back is not the answer's."""
        self._held = None
        self._half = ""

    def end(self, usage: Usage) -> list[Sent] | None:
        """What ends an answer whose end was relayed; None where none was."""
        held, self._held = self._held, None
        if held is None:
            return None
        sent = self._closed()
        sent += [(kind, self._with_usage(kind, data, usage)) for kind, data in held]
        if held[-1][0] != "message_stop":
            sent.append(encoded_event({"type": "message_stop"}))
        return sent

    def take(self, data: bytes) -> list[Sent]:
        """The events to send for one that came. Raises `UpstreamError` where it is not UTF-8."""
        try:
            event: _Event | None = _decode_event(data)
            line = one_line(data)
        except NOT_JSON:
            event, line = None, b""
        if event is None or (self._half and event.type == "content_block_delta"):
            event, line = self._mended(data)
        if not event.type:
            return []  # `null`, `[DONE]`, or an event of another API
        if event.type == "message_start":
            return self._started(line)
        if self._held is not None and not event.type.startswith("content_block"):
            self._hold(self._held, event, line)
            return []
        before = self.start() if event.type != "ping" or self._is_started else []
        if event.type == "message_delta":
            self._ended(event, line)
            return before
        if event.type == "message_stop":
            self._held = []
            return before
        return before + self._in_order(event, line)

    def _started(self, line: bytes) -> list[Sent]:
        message = _decode_members(line).get("message", Raw(b"{}"))
        members = as_object(msgspec.json.decode(message)) or {}
        usage = as_object(members.get("usage"))
        if self._is_started:
            self._early_usage = (usage or {}) | (self._early_usage or {})
            return []
        self._is_started = True
        changes: dict[str, Any] = {}
        if self._head is not None:
            changes = {"id": self._head.identity, "model": self._head.model}
        if usage is None:
            changes["usage"] = messages_usage({})
        changes |= {k: v for k, v in _REQUIRED.items() if k not in members}
        if not members:
            return [encoded_event(message_start(self._head or AnswerHead("", 0, "")))]
        edited = Raw(with_members(bytes(message), changes))
        return [("message_start", one_line(with_members(line, {"message": edited})))]

    def _ended(self, event: _Event, line: bytes) -> None:
        """The end of the answer, or only its usage so far: that waits for the end."""
        if event.delta is not None and event.delta.stop_reason is not None:
            self._held = [(event.type, line)]
        else:
            self._early_usage = (self._early_usage or {}) | _counts(line)

    def _hold(self, held: list[Sent], event: _Event, line: bytes) -> None:
        """An event behind the end, which goes out with it. An end that is repeated counts for its
        usage alone."""
        if event.type == "message_delta" and held:
            kind, end = held[0]
            told = {name: each for name, each in _counts(line).items() if each is not None}
            if told:
                held[0] = (kind, with_members(end, {"usage": _counts(end) | told}))
        elif event.type != "ping":
            held.append((event.type, line))

    def _in_order(self, event: _Event, line: bytes) -> list[Sent]:
        blocks = self._blocks
        is_open = blocks.is_open and blocks.index == event.index
        before: list[Sent] = []
        match event.type:
            case "content_block_start":
                if is_open:
                    return []  # a delta came first, and began it
                before = self._closed()
                kind = event.content_block.type if event.content_block is not None else ""
                blocks.opened(event.index, kind)
                if event.content_block is not None and event.content_block.is_filled:
                    return before + self._unfolded(event.index, line)
            case "content_block_delta":
                kind = event.delta.type if event.delta is not None else ""
                if not is_open:
                    if kind not in _KINDS:
                        return []
                    before = self._closed()
                    start = block_start(event.index, empty_block(_KINDS[kind]))
                    before.append(encoded_event(start))
                    blocks.opened(event.index, _KINDS[kind])
                if kind == "signature_delta":
                    blocks.opened(event.index, "signed thinking")  # nothing may be added to it
            case "content_block_stop":
                if not is_open:
                    return []
                blocks.closed()
            case _:
                pass
        return [*before, (event.type, line)]

    def _unfolded(self, index: int, line: bytes) -> list[Sent]:
        """The start of a block that has its content, as a start without it and deltas."""
        event = msgspec.json.decode(line)
        block: dict[str, Any] = event["content_block"]
        deltas: list[Event] = []
        for name, (kind, member) in _WHOLE.items():
            if value := block.get(name):
                is_text = isinstance(value, str)
                block[name] = "" if is_text else {}
                text = value if is_text else msgspec.json.encode(value).decode()
                deltas.append(block_delta(index, {"type": kind, member: text}))
        if deltas[-1]["delta"]["type"] == "signature_delta":
            self._blocks.opened(index, "signed thinking")
        return [encoded_event(each) for each in (event, *deltas)]

    def _closed(self) -> list[Sent]:
        events: list[Event] = []
        self._blocks.close(events)
        return [encoded_event(each) for each in events]

    def _with_usage(self, kind: str, data: bytes, usage: Usage) -> bytes:
        """A `message_delta` with the usage that clients need there, where it has less."""
        if kind != "message_delta":
            return data
        counts = as_object(msgspec.json.decode(data).get("usage"))
        if counts is None:
            return with_members(data, {"usage": messages_usage(usage)})
        told = (self._early_usage or {}) | counts
        told = {name: each for name, each in told.items() if each != {}}
        return data if told == counts else with_members(data, {"usage": told})

    def _mended(self, data: bytes) -> tuple[_Event, bytes]:
        """An event that strict decoding refuses, or that goes on with half of a surrogate pair."""
        try:
            fields = as_object(decode_leniently(data, _PATHS)) or {}
        except (ValueError, RecursionError):
            return _Event(), b""
        delta = as_object(fields.get("delta")) or {}
        for name in _TEXTS:
            if isinstance(delta.get(name), str):
                delta[name] = self._joined(delta[name])
        line = one_line(encode_leniently(fields))
        try:
            return msgspec.convert(fields, _Event), line
        except msgspec.ValidationError:
            kind = fields.get("type")
            return _Event(kind if isinstance(kind, str) else ""), line

    def _joined(self, text: str) -> str:
        text, self._half = self._half + text, ""
        if _HALVES.search(text) is None:
            return text
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _counts(line: bytes) -> dict[str, Any]:
    """The usage in an event."""
    return as_object(msgspec.json.decode(line).get("usage")) or {}
