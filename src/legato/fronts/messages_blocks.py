"""Content blocks of an answer in Anthropic's format: one open at a time, indices without gaps."""

from typing import Any, Final

from msgspec import Struct

from legato.core.chunk import as_object, decoded

#: An event as its JSON object; `type` comes first.
Event = dict[str, Any]
Fields = dict[str, Any]

TEXT: Final = "text"
THINKING: Final = "thinking"

_EMPTY_BLOCKS: Final[dict[str, Fields]] = {
    TEXT: {"type": "text", "text": ""},
    THINKING: {"type": "thinking", "thinking": "", "signature": ""},
}


def block_start(index: int, block: Fields) -> Event:
    return {"type": "content_block_start", "index": index, "content_block": block}


def block_delta(index: int, delta: Fields) -> Event:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def block_stop(index: int) -> Event:
    return {"type": "content_block_stop", "index": index}


def empty_block(kind: str) -> Fields:
    """What a block of text or thinking begins with."""
    return dict(_EMPTY_BLOCKS[kind])


class Piece(Struct, gc=False):
    """A part of one block. `key`: of the block, `""` for one that comes whole. `closes`: the block
    ends with it. `signed`: the thoughts that the signature in `deltas` is for."""

    key: str
    block: Fields
    deltas: list[Fields]
    closes: bool = False
    signed: str | None = None


class BlockSequence:
    """Which block of an answer is open, and what waits for its end.

    Tool calls of OpenAI's chunks may interleave; here a block ends before the next one begins. So
    while the arguments of the open call are no whole JSON object, what belongs to other blocks
    waits.
    """

    __slots__ = ("_arguments", "_next", "_open", "_over", "_shown", "_waiting")

    def __init__(self) -> None:
        self._next = 0  # the index of the next block
        self._open: str | None = None  # the key of the open block
        self._shown = 0  # characters of thinking in the open block
        self._arguments: list[str] = []  # of the open tool call
        self._over: set[str] = set()  # keys of calls whose blocks are closed
        self._waiting: list[Piece] = []

    @property
    def open_key(self) -> str | None:
        return self._open

    # For events that are relayed

    @property
    def index(self) -> int:
        """Of the open block; of the last one where none is open."""
        return self._next - 1

    @property
    def is_open(self) -> bool:
        return self._open is not None

    def opened(self, kind: str) -> None:
        """The next block was opened by an event that was relayed. Only a text is gone on with, and
        thinking without a signature."""
        self._open = kind if kind in _EMPTY_BLOCKS else f"relayed {kind}"
        self._next += 1
        self._shown = 0

    def sealed(self) -> None:
        """The open block was signed by an event that was relayed: nothing may be added to it."""
        self._open = "relayed and signed"

    def closed(self) -> None:
        self._open = None

    # The fast path

    def passes(self, kind: str) -> bool:
        """Whether a text of this kind needs no more than a delta."""
        return self._open == kind and not self._waiting

    def note_thinking(self, text: str) -> None:
        """Thinking that was written by the fast path."""
        self._shown += len(text)

    # Pieces

    def take(self, piece: Piece, events: list[Event]) -> None:
        """Adds the events of a piece to `events`, now or when it is its turn."""
        if piece.key != self._open and (self._waiting or self._is_blocked):
            self._waiting.append(piece)
            self._release(events)
            return
        self._apply(piece, events)
        if self._waiting:
            self._release(events)

    @property
    def _is_blocked(self) -> bool:
        """Whether the open block is a tool call whose arguments are not complete."""
        if self._open is None or not self._open.startswith("call "):
            return False
        if len(self._arguments) > 1:
            self._arguments = ["".join(self._arguments)]
        text = self._arguments[0] if self._arguments else ""
        return not text.rstrip().endswith("}") or as_object(decoded(text.encode())) is None

    def _release(self, events: list[Event]) -> None:
        """Applies what waits, as far as it may go out now."""
        moved = True
        while moved and self._waiting:
            moved = False
            waiting, self._waiting = self._waiting, []
            for piece in waiting:
                if piece.key == self._open or not (self._waiting or self._is_blocked):
                    self._apply(piece, events)
                    moved = True
                else:
                    self._waiting.append(piece)

    def release_all(self, events: list[Event]) -> None:
        """Applies all that waits, block by block: no more comes of any of them."""
        while self._waiting:
            key = self._waiting[0].key
            run = [each for each in self._waiting if each.key == key]
            if not key.startswith("call "):
                run = self._waiting[:1]
            self._waiting = [each for each in self._waiting if all(each is not it for it in run)]
            for piece in run:
                self._apply(piece, events)

    def _apply(self, piece: Piece, events: list[Event]) -> None:
        if piece.key in self._over:
            return  # behind whole arguments only white space can come
        deltas = piece.deltas
        if piece.signed is not None and self._signs_another(piece.signed):
            self.close(events)
            whole = {"type": "thinking_delta", "thinking": piece.signed}
            deltas = [whole, *deltas] if piece.signed else deltas
        if piece.key != self._open or not piece.key:
            self.close(events)
            events.append(block_start(self._next, dict(piece.block)))
            self._next += 1
            self._open, self._shown, self._arguments = piece.key, 0, []
        for delta in deltas:
            if delta["type"] == "thinking_delta":
                self._shown += len(delta["thinking"])
            elif delta["type"] == "input_json_delta":
                self._arguments.append(delta["partial_json"])
            events.append(block_delta(self.index, delta))
        if piece.closes:
            self.close(events)

    def _signs_another(self, thinking: str) -> bool:
        """Whether the open block is not the one with these thoughts: a signature is for one text to
        the letter."""
        return self._open != THINKING or self._shown != len(thinking)

    def close(self, events: list[Event]) -> None:
        """Ends the open block, where there is one."""
        key, self._open = self._open, None
        if key is None:
            return
        if key.startswith("call "):
            self._over.add(key)
        events.append(block_stop(self.index))
