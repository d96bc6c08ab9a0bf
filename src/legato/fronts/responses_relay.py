"""Events of an upstream that speaks Responses itself, on their way to the client.

They go out as they came. What they say is noted, so that another upstream can go on with the
answer: which items there are, which of them is under way, and its text.
"""

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from legato.core.chunk import NOT_JSON, as_object, decoded
from legato.core.json_text import encode_leniently, encoded, without_surrogates
from legato.fronts.responses_events import OutputItems
from legato.fronts.responses_items import (
    REFUSAL,
    SUMMARY,
    TEXT,
    THOUGHT,
    Emit,
    Kind,
    MessageItem,
    Part,
    ReasoningItem,
)

#: Events that end an answer.
_TERMINAL: Final = ("response.completed", "response.incomplete")

CREATED: Final = "response.created"

#: Events with a text that is added to a part, and with its end.
_TEXTS: Final[dict[str, Kind]] = {
    f"{kind[0]}.{what}": kind
    for kind in (TEXT, REFUSAL, SUMMARY, THOUGHT)
    for what in ("delta", "done")
}
_PARTS: Final = {kind[2]: kind for kind in (TEXT, REFUSAL, SUMMARY, THOUGHT)}


class _Fields(Struct, gc=False):
    type: str = ""
    sequence_number: int | None = None
    output_index: int = 0
    content_index: int = 0
    summary_index: int = 0
    delta: Any = None
    item: Raw = Raw()
    part: Raw = Raw()
    response: Raw = Raw()


_decode: Final = msgspec.json.Decoder(_Fields).decode


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

    __slots__ = ("_emit", "_items", "terminal")

    def __init__(self, items: OutputItems, emit: Emit) -> None:
        """`emit` takes the events of items that another upstream goes on with."""
        self._items = items
        self._emit = emit
        self.terminal: RelayedEvent | None = None

    def read(self, name: bytes, data: bytes) -> RelayedEvent | None:
        """The event, where it is one and goes out now."""
        try:
            fields = _decode(data)
        except NOT_JSON:
            value = as_object(decoded(data))
            if value is None:
                return None  # `[DONE]`, `null`: no event of this format
            data = encode_leniently(value)
            try:
                fields = msgspec.convert(value, _Fields, strict=False)
            except msgspec.ValidationError:
                fields = _Fields(str(value.get("type") or ""))
        kind = fields.type or name.decode(errors="replace")
        if not kind or not kind.isprintable():
            return None  # a line end in it would break the frame
        event = RelayedEvent(kind, data, fields.sequence_number, bytes(fields.response))
        if kind in _TERMINAL:
            self.terminal = event if event.response else None  # without it, its client fails
            return None
        self._note(kind, fields)
        return event

    def _note(self, kind: str, fields: _Fields) -> None:
        if (text := _TEXTS.get(kind)) is not None:
            self._note_text(text, fields, is_told=kind.endswith("done"))
            return
        match kind:
            case "response.output_item.added":
                self._begin(fields.output_index, _object(fields.item))
            case "response.content_part.added" | "response.reasoning_summary_part.added":
                part = _PARTS.get(str(_object(fields.part).get("type")))
                if part is not None:
                    self._part(part, fields)
            case "response.content_part.done" | "response.reasoning_summary_part.done":
                item = self._items.current
                if item is not None:
                    item.open = None
            case "response.output_item.done":
                self._items.adopt_done(fields.output_index, encoded(_object(fields.item)))
            case _:
                return

    def _begin(self, index: int, item: dict[str, Any]) -> None:
        identity = str(item.get("id") or "")
        match item.get("type"):
            case "message":
                self._items.adopt(MessageItem(self._emit, identity, index))
            case "reasoning":
                self._items.adopt(ReasoningItem(self._emit, identity, index))
            case _:
                self._items.skip(index)

    def _part(self, kind: Kind, fields: _Fields) -> Part | None:
        item = self._items.current
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
            part.text += encoded(without_surrogates(fields.delta))[1:-1]
        part.is_told = is_told


def _object(raw: Raw) -> dict[str, Any]:
    data = bytes(raw)
    return (as_object(decoded(data)) if data else None) or {}
