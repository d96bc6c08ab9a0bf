"""Events of an upstream that speaks Responses itself, on their way to the client.

They go out as they came. What they say is noted, so that another upstream can go on with the
answer: which items there are, which of them is under way, and its text.
"""

import re
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from legato.core.chunk import NOT_JSON, as_object, decoded
from legato.core.json_text import encoded, one_line, without_surrogates
from legato.core.span_edit import with_members
from legato.fronts.responses_events import OutputItems
from legato.fronts.responses_items import (
    PART_KINDS,
    REFUSAL,
    SUMMARY,
    TEXT,
    THOUGHT,
    Emit,
    Kind,
    MessageItem,
    Part,
    PartedItem,
    ReasoningItem,
)
from legato.fronts.responses_untold import BegunItems

#: Events that end an answer.
_TERMINAL: Final = ("response.completed", "response.incomplete")

CREATED: Final = "response.created"

#: Events with a text that is added to a part, and with its end.
_TEXTS: Final[dict[str, Kind]] = {
    f"{kind[0]}.{what}": kind
    for kind in (TEXT, REFUSAL, SUMMARY, THOUGHT)
    for what in ("delta", "done")
}


class _Fields(Struct, gc=False):
    type: str = ""
    sequence_number: int | None = None
    item_id: Any = None
    output_index: int = 0
    content_index: int = 0
    summary_index: int = 0
    delta: Any = None
    item: Raw = Raw()
    part: Raw = Raw()
    response: Raw = Raw()


_decode: Final = msgspec.json.Decoder(_Fields).decode

_OBJECTS: Final = ("item", "part", "response")
_INDICES: Final = ("output_index", "content_index", "summary_index")

#: Where the half of a surrogate pair waits for the next event.
_HALVES: Final = frozenset({("delta",)})
_HALF: Final = re.compile("[\ud800-\udbff]$")


def _read_leniently(value: dict[str, Any]) -> _Fields:
    """What can be read of an event with a member that is not what it should be."""
    kind, number = value.get("type"), value.get("sequence_number")
    fields = _Fields(
        type=kind if isinstance(kind, str) else "",
        sequence_number=number if type(number) is int else None,
        item_id=value.get("item_id"),
        delta=value.get("delta"),
    )
    for name in _INDICES:
        if type(value.get(name)) is int:
            setattr(fields, name, value[name])
    for name in _OBJECTS:
        if as_object(value.get(name)):
            setattr(fields, name, Raw(msgspec.json.encode(value[name])))
    return fields


class RelayedEvent(Struct, gc=False):
    """`kind`: its type; `data`: its JSON. `number`: its own `sequence_number`. `response`: the
    response object in it, empty where it has none."""

    kind: str
    data: bytes
    number: int | None
    response: bytes


class RelayedEvents:
    """Reads the events of one answer. `terminal`: its last one, which is held back until the
    answer is known to be complete."""

    __slots__ = ("_begun", "_emit", "_half", "_items", "terminal")

    def __init__(self, items: OutputItems, emit: Emit) -> None:
        """`emit` takes the events of items that another upstream goes on with."""
        self._items = items
        self._emit = emit
        self._begun = BegunItems()
        self._half = ""  # of a surrogate pair, whose other half comes with the next text
        self.terminal: RelayedEvent | None = None

    def read(self, name: bytes, data: bytes) -> RelayedEvent | None:
        """The event, where it is one and goes out now; its data is on one line. Raises
        `UpstreamError` where it is not UTF-8."""
        try:
            fields = _decode(data)
        except NOT_JSON:
            value = as_object(decoded(data, _HALVES))
            if value is None or not self._join_halves(value):
                return None  # `[DONE]`, `null`: no event of this format
            data, fields = encoded(value), _read_leniently(value)
        else:
            data = one_line(data)
            if self._half and isinstance(fields.delta, str):
                fields.delta = without_surrogates(self._half) + fields.delta
                data, self._half = with_members(data, {"delta": Raw(encoded(fields.delta))}), ""
        kind = fields.type or name.decode(errors="replace")
        if not kind or not kind.isprintable():
            return None  # it is none, or would break a frame
        if not fields.type:
            data = with_members(data, {"type": kind})  # clients look for it there alone
        response = bytes(fields.response)
        is_told = response.startswith(b"{")  # some events have a null there
        event = RelayedEvent(kind, data, fields.sequence_number, response if is_told else b"")
        if self.terminal is not None:
            return None  # a client reads no further
        if kind in _TERMINAL:
            # Without a response its client fails.
            self.terminal = _agreeing(event) if event.response else None
            return None
        self._note(kind, fields)
        return event

    def end(self) -> None:
        """The answer is complete: what is open ends, and what only the last event tells of has
        events of its own."""
        terminal = self.terminal
        if terminal is None:
            self._items.end()
            return
        self._items.end(terminal.kind.removeprefix("response."))
        output = (as_object(decoded(terminal.response)) or {}).get("output")
        self._begun.tell_rest(output, self._items, self._emit)

    def _join_halves(self, event: dict[str, Any]) -> bool:
        """Makes the text of an event one that UTF-8 can encode. False where nothing is left of it
        for now."""
        delta = event.get("delta")
        if not isinstance(delta, str) or not delta:
            return True
        text = self._half + delta
        half = _HALF.search(text)
        self._half = half[0] if half is not None else ""
        event["delta"] = without_surrogates(text.removesuffix(self._half))
        return bool(event["delta"])

    def _note(self, kind: str, fields: _Fields) -> None:
        if (text := _TEXTS.get(kind)) is not None:
            self._note_text(text, fields, is_told=kind.endswith("done"))
            return
        match kind:
            case "response.output_item.added":
                self._begin(fields.output_index, _object(fields.item))
            case "response.content_part.added" | "response.reasoning_summary_part.added":
                part = PART_KINDS.get(str(_object(fields.part).get("type")))
                if part is not None:
                    self._part(part, fields)
            case "response.content_part.done" | "response.reasoning_summary_part.done":
                item = self._current(fields)
                if item is not None:
                    item.open = None
            case "response.function_call_arguments.delta":
                self._begun.note(fields.output_index, _stub("function_call", fields))
            case "response.custom_tool_call_input.delta":
                self._begun.note(fields.output_index, _stub("custom_tool_call", fields))
            case "response.output_item.done":
                item = _object(fields.item)
                self._begun.note(fields.output_index, item)
                self._items.adopt_done(fields.output_index, encoded(item))
            case _:
                return

    def _begin(self, index: int, item: dict[str, Any]) -> None:
        self._begun.note(index, item)
        identity = str(item.get("id") or "")
        match item.get("type"):
            case "message":
                self._items.adopt(MessageItem(self._emit, identity, index))
            case "reasoning":
                self._items.adopt(ReasoningItem(self._emit, identity, index))
            case _:
                self._items.skip(index)

    def _current(self, fields: _Fields) -> PartedItem | None:
        """The item that is open, where the event belongs to it. Some servers send another id or
        another index with each event."""
        item = self._items.current
        if item is None or fields.item_id in (None, item.identity):
            return item
        return item if fields.output_index == item.index else None

    def part_of(self, data: bytes) -> Part | None:
        """The open part, where an event like this one, which adds to a text, belongs to it."""
        try:
            fields = _decode(data)
        except NOT_JSON:  # it is read leniently
            return None
        item = self._current(fields)
        part = item.open if item is not None else None
        if part is None or part.kind is not TEXT or part.index != fields.content_index:
            return None
        return part

    def _part(self, kind: Kind, fields: _Fields) -> Part | None:
        if self._items.current is None and not self._items.is_done(fields.output_index):
            name = "message" if kind in (TEXT, REFUSAL) else "reasoning"  # some begin no items
            self._begin(fields.output_index, _stub(name, fields))
        item = self._current(fields)
        if item is None:
            return None
        index = fields.summary_index if kind is SUMMARY else fields.content_index
        part = item.open
        if part is None or part.kind is not kind or part.index != index:
            part = item.open = Part(kind, index)
            item.parts.append(part)
        return part

    def _note_text(self, kind: Kind, fields: _Fields, *, is_told: bool) -> None:
        part = self._part(kind, fields)
        if part is None:
            return
        if isinstance(fields.delta, str):
            part.text += encoded(fields.delta)[1:-1]
        part.is_told = is_told


def _agreeing(event: RelayedEvent) -> RelayedEvent:
    """The last event, whose type and whose response say the same. Some servers end each answer with
    `response.completed`; others leave the status as it was at the beginning."""
    told = _object(Raw(event.response)).get("status")
    if event.kind == _TERMINAL[0] and f"response.{told}" in _TERMINAL:
        event.kind = f"response.{told}"
        event.data = with_members(event.data, {"type": event.kind})
    status = event.kind.removeprefix("response.")
    if told != status:
        event.response = with_members(event.response, {"status": status})
    return event


def _stub(kind: str, fields: _Fields) -> dict[str, Any]:
    """As much of an item as an event of its text tells."""
    return {"type": kind, "id": fields.item_id}


def _object(raw: Raw) -> dict[str, Any]:
    data = bytes(raw)
    return (as_object(decoded(data)) if data else None) or {}
