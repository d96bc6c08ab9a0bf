"""Blocks of an Anthropic upstream on their way to a client: as they came where they are in order.

Clients take a block's index for its place in the answer, read one block at a time, and fail on
members that are null. So what an upstream numbers with gaps, mixes, leaves out or nulls is mended.
"""

from typing import Any, Final

import msgspec
from msgspec import Struct

from legato.core.chunk import as_object, decoded
from legato.core.json_text import one_line
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

#: An event on its way out: its type, and its JSON on one line.
Sent = tuple[str, bytes]


class Block(Struct, gc=False):
    type: str | None = None
    text: Any = None
    thinking: Any = None
    signature: Any = None
    input: Any = None


class Delta(Struct, gc=False):
    type: str | None = None
    stop_reason: Any = None
    text: Any = None
    thinking: Any = None
    signature: Any = None
    partial_json: Any = None
    citation: Any = None


class RelayedEvent(Struct, gc=False):
    """What is looked at of an event; members that are null are as good as absent."""

    type: str | None = None
    index: Any = None
    content_block: Block | None = None
    delta: Delta | None = None


#: The events of blocks.
BLOCK_EVENTS: Final = frozenset(
    {"content_block_start", "content_block_delta", "content_block_stop"}
)

#: The kind of block that a delta belongs to, and the member of the delta that has to be there.
_DELTAS: Final = {
    "text_delta": (TEXT, "text"),
    "citations_delta": (TEXT, "citation"),
    "thinking_delta": (THINKING, "thinking"),
    "signature_delta": (THINKING, "signature"),
    "input_json_delta": ("tool_use", "partial_json"),
}

#: Deltas that begin a block where none is open for them. A signature is for a text that came, and
#: an input for a tool that was named.
_BEGINNING: Final = frozenset({"text_delta", "citations_delta", "thinking_delta"})

#: Members of a block that clients go on with by its deltas, and the types of those. Servers that do
#: not stream give them whole with its start, and clients would lose them.
_WHOLE: Final[dict[str, dict[str, str]]] = {
    "redacted_thinking": {},
    TEXT: {"text": "text_delta"},
    THINKING: {"thinking": "thinking_delta", "signature": "signature_delta"},
    "tool_use": {"input": "input_json_delta"},
}


def encoded_event(event: Event) -> Sent:
    return event["type"], one_line(msgspec.json.encode(event))


def _kind_of(block_type: str) -> str:
    """All blocks of tools are read alike: `server_tool_use`, `mcp_tool_use`."""
    return "tool_use" if block_type.endswith("tool_use") else block_type


class RelayedBlocks:
    """Puts the events of blocks in order. `blocks`: which block of the answer is open.

    A call whose arguments are not complete is not ended by what belongs to other blocks: that
    waits. A text is, and goes on in another block.
    """

    __slots__ = (
        "_arguments",
        "_begun",
        "_blocks",
        "_given",
        "_is_guessed",
        "_kind",
        "_theirs",
        "_waiting",
        "came_in_order",
    )

    def __init__(self, blocks: BlockSequence) -> None:
        self._blocks = blocks
        self._kind = ""  # of the open block
        self._theirs: int | None = None  # its index at the upstream
        self._begun = b""  # the event that began it
        self._is_guessed = False  # it was begun by its first delta
        self._given = ""  # its input, where that came with its start
        self._arguments: list[str] = []  # its input so far, where it is a call
        self._waiting: list[tuple[RelayedEvent, bytes]] = []
        self.came_in_order = True  # the last event of a block went out as it came, and alone

    def take(self, event: RelayedEvent, line: bytes) -> list[Sent]:
        """The events to send for an event of a block, `line` its JSON."""
        self.came_in_order = False
        if self._has_to_wait(event):
            self._waiting.append((event, line))
            return []
        sent = self._place(event, line)
        if self._waiting:
            sent += self._released()
        else:
            self.came_in_order = len(sent) == 1 and sent[0][1] is line
        return sent

    def end(self) -> list[Sent]:
        """No more comes: what waits, block by block, and the end of the open one."""
        sent: list[Sent] = []
        while self._waiting:
            index = self._waiting[0][0].index
            run = [each for each in self._waiting if each[0].index == index]
            self._waiting = [each for each in self._waiting if each[0].index != index]
            for each in run:
                sent += self._place(*each)
        return sent + self._close()

    def go_on(self) -> None:
        """Another upstream goes on with the answer."""
        self._waiting.clear()
        self._given = ""

    # Whose turn it is

    def _is_in(self, event: RelayedEvent) -> bool:
        """Whether an event belongs to the open block; one without an index does."""
        theirs = event.index
        return self._blocks.is_open and (theirs is None or theirs == self._theirs)

    def _has_to_wait(self, event: RelayedEvent) -> bool:
        return not self._is_in(event) and bool(self._waiting or self._is_incomplete)

    @property
    def _is_incomplete(self) -> bool:
        """Whether the open block is a call whose arguments are no whole JSON object."""
        if not self._blocks.is_open or self._kind != "tool_use" or self._given:
            return False
        self._arguments = ["".join(self._arguments)]
        text = self._arguments[0]
        return not text.rstrip().endswith("}") or as_object(decoded(text.encode())) is None

    def _released(self) -> list[Sent]:
        """What may go out now of what waits."""
        sent: list[Sent] = []
        moved = True
        while moved and self._waiting:
            moved = False
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                if self._has_to_wait(each[0]):
                    self._waiting.append(each)
                else:
                    sent += self._place(*each)
                    moved = True
        return sent

    # Events

    def _place(self, event: RelayedEvent, line: bytes) -> list[Sent]:
        match event.type:
            case "content_block_start":
                return self._begin(event, line)
            case "content_block_delta":
                return self._add(event, line)
            case _ if not self._is_in(event):
                return []
            case _:
                sent = self._with_given([])
                self._blocks.closed()
                return [*sent, self._numbered(event, line)]

    def _begin(self, event: RelayedEvent, line: bytes) -> list[Sent]:
        block = event.content_block
        if block is None or not block.type:
            return []  # its first delta begins it
        kind = _kind_of(block.type)
        if self._is_in(event) and kind == self._kind and (self._is_guessed or line == self._begun):
            self._is_guessed = False
            return []
        sent = self._close()
        self._open(event, kind)
        self._begun = line
        if any(getattr(block, name) not in ("", {}) for name in _WHOLE.get(kind, ())):
            return sent + self._unfolded(line, kind)
        return [*sent, self._numbered(event, line)]

    def _open(self, event: RelayedEvent, kind: str) -> None:
        self._blocks.opened(kind)
        self._kind, self._theirs = kind, event.index
        self._is_guessed = False
        self._begun = b""
        self._given = ""
        self._arguments = []

    def _add(self, event: RelayedEvent, line: bytes) -> list[Sent]:
        delta = event.delta
        if delta is None or not delta.type:
            return []
        known = _DELTAS.get(delta.type)
        if known is not None and getattr(delta, known[1]) is None:
            return []  # it says nothing, and clients would add null to a text
        sent: list[Sent] = []
        if not self._is_in(event) or (known and self._kind in _WHOLE and self._kind != known[0]):
            if known is None or delta.type not in _BEGINNING:
                return []
            sent = self._close()
            self._open(event, known[0])
            self._is_guessed = True
            sent.append(encoded_event(block_start(self._blocks.index, empty_block(known[0]))))
        if delta.type == "signature_delta":
            self._blocks.sealed()
        if delta.type == "input_json_delta" and delta.partial_json:
            self._given = ""  # the same once more
            self._arguments.append(str(delta.partial_json))
        return [*sent, self._numbered(event, line)]

    def _unfolded(self, line: bytes, kind: str) -> list[Sent]:
        """The start of a block that has its content, as a start without it and deltas. An input
        waits for the block's end: deltas may say it as well."""
        event = msgspec.json.decode(line)
        event["index"] = index = self._blocks.index
        block: dict[str, Any] = event["content_block"]
        deltas: list[Event] = []
        for name, delta in _WHOLE[kind].items():
            value = block.get(name)
            block[name] = {} if name == "input" else ""
            if name == "input" and value:
                self._given = value if isinstance(value, str) else _json(value)
            elif value:
                deltas.append(block_delta(index, {"type": delta, name: value}))
        if kind == THINKING and deltas and deltas[-1]["delta"]["type"] == "signature_delta":
            self._blocks.sealed()
        return [encoded_event(each) for each in (event, *deltas)]

    def _numbered(self, event: RelayedEvent, line: bytes) -> Sent:
        """An event with our index of its block."""
        index = self._blocks.index
        if event.index != index or isinstance(event.index, bool):
            line = with_members(line, {"index": index})
        return str(event.type), line

    def _close(self) -> list[Sent]:
        """Ends the open block, where there is one."""
        events: list[Event] = []
        sent = self._with_given([])
        self._blocks.close(events)
        return sent + [encoded_event(each) for each in events]

    def _with_given(self, sent: list[Sent]) -> list[Sent]:
        """Adds the input that came with the start of the open block, and not again."""
        given, self._given = self._given, ""
        if given:
            delta: Event = {"type": "input_json_delta", "partial_json": given}
            sent.append(encoded_event(block_delta(self._blocks.index, delta)))
        return sent


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
