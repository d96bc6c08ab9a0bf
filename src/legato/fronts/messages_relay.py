"""Events of an Anthropic upstream on their way to a client, as they came but for id and model.

What is no legal order is mended: a block that was not begun is, one that was not ended is, and the
events that end an answer wait until it is known to be whole.
"""

import re
from typing import Any, Final

import msgspec
from msgspec import Raw

from legato.core.chunk import NOT_JSON, Usage, as_object
from legato.core.front import AnswerHead
from legato.core.json_text import decode_leniently, encode_leniently, one_line
from legato.core.span_edit import with_members
from legato.fronts.messages_blocks import BlockSequence
from legato.fronts.messages_events import message_start, messages_usage
from legato.fronts.messages_relayed_blocks import (
    BLOCK_EVENTS,
    RelayedBlocks,
    RelayedEvent,
    Sent,
    encoded_event,
)

_decode_event: Final = msgspec.json.Decoder(RelayedEvent).decode
_decode_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode

#: Texts of deltas that may end with half of a surrogate pair.
_TEXTS: Final = ("text", "thinking", "partial_json")
_PATHS: Final = frozenset({("delta", name) for name in _TEXTS})
_HALVES: Final = re.compile("[\ud800-\udfff]")

#: Members without which clients cannot read a message that is begun.
_REQUIRED: Final[dict[str, Any]] = {"type": "message", "role": "assistant", "content": []}

#: The same of its usage.
_COUNTS: Final = ("input_tokens", "output_tokens")


class RelayedEvents:
    """The state of the events of one answer that are relayed; `blocks`: that of its blocks,
    so that an upstream of another format can go on with it."""

    __slots__ = ("_blocks", "_early_usage", "_end", "_half", "_head", "_is_started", "_rest")

    def __init__(self, blocks: BlockSequence, head: AnswerHead | None) -> None:
        """`head` None: id and model stay as they came."""
        self._blocks = RelayedBlocks(blocks)
        self._head = head
        self._is_started = False
        self._end: bytes | None = None  # a `message_delta`, until the answer is known to be whole
        self._rest: list[Sent] = []  # what came behind it
        self._early_usage: dict[str, Any] = {}  # that was not sent when it came
        self._half = ""  # of a surrogate pair, at the end of the last text

    @property
    def is_started(self) -> bool:
        return self._is_started

    @property
    def is_plain(self) -> bool:
        """Whether deltas like the last one go out as they come: nothing waits for one, nor for the
        end."""
        return self._end is None and not self._half and self._blocks.came_in_order

    def start(self) -> list[Sent]:
        """The first event of ours, where there was none."""
        if self._is_started:
            return []
        self._is_started = True
        head = self._head or AnswerHead("", 0, "")
        return [encoded_event(message_start(head))]

    def go_on(self) -> None:
        """Another upstream goes on: an end that was held back is not the answer's."""
        self._end = None
        self._rest.clear()
        self._blocks.go_on()
        self._half = ""

    def end(self, usage: Usage) -> list[Sent] | None:
        """What ends an answer whose end was relayed; None where none was."""
        end, self._end = self._end, None
        if end is None:
            return None
        sent = self._blocks.end()
        sent.append(("message_delta", self._with_usage(end, usage)))
        sent += self._rest
        if sent[-1][0] != "message_stop":
            sent.append(encoded_event({"type": "message_stop"}))
        return sent

    def take(self, data: bytes) -> list[Sent]:
        """The events to send for one that came. Raises `UpstreamError` where it is not UTF-8."""
        try:
            event: RelayedEvent | None = _decode_event(data)
            line = one_line(data)
        except NOT_JSON:
            event, line = None, b""
        if event is None or (self._half and event.type == "content_block_delta"):
            event, line = self._mended(data)
        kind = event.type
        if not kind or not kind.isprintable():
            return []  # `null`, `[DONE]`, an event of another API, or what would break a frame
        if kind == "ping":
            return [] if self._end is not None else [(kind, line)]
        if kind == "message_start":
            return self._started(line)
        before = self.start()
        if kind in BLOCK_EVENTS:
            return before + self._blocks.take(event, line)
        if kind == "message_delta":
            self._ended(event, line)
        elif self._end is not None:
            self._rest.append((kind, line))
        elif kind != "message_stop":
            before.append((kind, line))
        return before

    def _started(self, line: bytes) -> list[Sent]:
        message = _decode_members(line).get("message", Raw(b"{}"))
        members = as_object(msgspec.json.decode(message)) or {}
        usage = as_object(members.get("usage"))
        if self._is_started:
            self._early_usage = (usage or {}) | self._early_usage
            return []
        self._is_started = True
        changes: dict[str, Any] = {}
        if self._head is not None:
            changes = {"id": self._head.identity, "model": self._head.model}
        if usage is None:
            changes["usage"] = messages_usage({})
        elif missing := {name: 0 for name in _COUNTS if usage.get(name) is None}:
            changes["usage"] = usage | missing
        changes |= {k: v for k, v in _REQUIRED.items() if members.get(k) is None}
        if not members:
            return [encoded_event(message_start(self._head or AnswerHead("", 0, "")))]
        edited = Raw(with_members(bytes(message), changes))
        return [("message_start", one_line(with_members(line, {"message": edited})))]

    def _ended(self, event: RelayedEvent, line: bytes) -> None:
        """The end of the answer, or only its usage so far: that waits for the end. Of two ends the
        last one counts."""
        is_end = event.delta is not None and event.delta.stop_reason is not None
        counts = _told(line)
        if self._end is None and not is_end:
            self._early_usage |= _said(counts)
        elif self._end is None:
            self._end = line
        else:
            both = _said(_told(self._end)) | _said(counts)
            self._end = with_members(line if is_end else self._end, {"usage": both})

    def _with_usage(self, line: bytes, usage: Usage) -> bytes:
        """A `message_delta` with the usage that clients need there, where it has less."""
        counts = _told(line)
        if not counts and not self._early_usage:
            return with_members(line, {"usage": messages_usage(usage)})
        told = _said(self._early_usage) | _said(counts)
        told.setdefault("output_tokens", messages_usage(usage)["output_tokens"])
        as_came = {name: count for name, count in counts.items() if count is not None}
        return line if told == as_came else with_members(line, {"usage": told})

    def _mended(self, data: bytes) -> tuple[RelayedEvent, bytes]:
        """An event that strict decoding refuses, or that goes on with half of a surrogate pair."""
        try:
            fields = as_object(decode_leniently(data, _PATHS)) or {}
        except (ValueError, RecursionError):
            return RelayedEvent(), b""
        delta = as_object(fields.get("delta")) or {}
        for name in _TEXTS:
            if isinstance(delta.get(name), str):
                delta[name] = self._whole(delta[name])
        line = one_line(encode_leniently(fields))
        try:
            return msgspec.convert(fields, RelayedEvent), line
        except msgspec.ValidationError:
            kind = fields.get("type")
            return RelayedEvent(kind if isinstance(kind, str) else ""), line

    def _whole(self, text: str) -> str:
        """A text with the half that came before it, and without one at its end."""
        text, self._half = self._half + text, ""
        if _HALVES.search(text) is None:
            return text
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _told(line: bytes) -> dict[str, Any]:
    """The usage in an event."""
    return as_object(msgspec.json.decode(line).get("usage")) or {}


def _said(counts: dict[str, Any]) -> dict[str, Any]:
    """The counts that say something."""
    return {name: count for name, count in counts.items() if count not in (None, {})}
