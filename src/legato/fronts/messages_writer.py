"""Writes a stream as server-sent events of Anthropic's Messages API."""

from typing import Any, Final

import msgspec

from legato.core.chunk import Chunk, Usage
from legato.core.errors import ApiError
from legato.core.front import AnswerHead, Sink, WriterOptions
from legato.core.json_text import encoded, one_line
from legato.core.merge import TextBuffer
from legato.core.subscriber import WriteText
from legato.fronts.messages_blocks import TEXT, THINKING, Event
from legato.fronts.messages_errors import stream_error
from legato.fronts.messages_events import MessagesEvents, has_more
from legato.fronts.messages_relay import RelayedEvents, Sent

PING: Final = b'event: ping\ndata: {"type": "ping"}\n\n'

#: What a text delta begins with on the line, as every server of this API writes it.
_DELTA_HEAD: Final = b"event: content_block_delta\ndata: "
#: The whole frame of one: the block's index, its kind twice, the text as JSON.
_DELTA: Final = (
    _DELTA_HEAD + b'{"type":"content_block_delta","index":%d,"delta":{"type":"%b_delta","%b":'
)
_DELTA_END: Final = b"}}\n\n"

#: Members of deltas whose text goes on in the next one.
_TEXTS: Final = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
}

_decode_text: Final = msgspec.json.Decoder(str).decode


class MessagesWriter:
    """A subscriber that writes frames: events of ours for chunks, and events that are relayed.

    All frames of one turn of the event loop leave in one `write`.
    """

    __slots__ = (
        "_backlog",
        "_events",
        "_limit",
        "_parts",
        "_relayed",
        "_sink",
        "frames",
        "size",
    )

    #: The format does not repeat the answer at its end.
    response = b""

    def __init__(
        self,
        head: AnswerHead,
        options: WriterOptions,
        sink: Sink,
        stop_sequences: tuple[str, ...] = (),
    ) -> None:
        self._events = MessagesEvents(stop_sequences)
        self._relayed = RelayedEvents(self._events.blocks, head)
        self._limit = options.limit
        self._sink = sink
        self._parts: list[bytes] = []
        self._backlog: _Backlog | None = None  # there while the client takes no more
        self.frames = 0
        self.size = 0

    def push(self, chunk: Chunk) -> None:
        self._relayed.go_on()
        self._send(self._relayed.start())
        for event in self._events.add(chunk):
            self._emit(event)

    def relay(self, name: bytes, data: bytes) -> None:
        self._send(self._relayed.take(data))

    def _emit(self, event: Event) -> None:
        if self._backlog is not None:
            self.frames += self._backlog.add(event)
            if self._backlog.size > self._limit:
                self._sink.on_full()
        else:
            self.frames += 1
            self._parts.append(_frame(event["type"], encoded(event)))

    def _send(self, events: list[Sent]) -> None:
        for kind, data in events:
            frame = _frame(kind, data)
            self.frames += 1
            if self._backlog is None:
                self._parts.append(frame)
                continue
            self._backlog.add_frame(frame)
            if self._backlog.size > self._limit:
                self._sink.on_full()

    # The fast path

    def text_writer(self, chunk: Chunk, raw: tuple[bytes, bytes]) -> WriteText | None:
        kind = THINKING if chunk.is_reasoning else TEXT
        if self._backlog is not None or chunk.text_choice != 0 or has_more(raw[0] + raw[1]):
            return None
        blocks, parts = self._events.blocks, self._parts
        if not blocks.passes(kind):
            return None
        before = _DELTA % (blocks.index, kind.encode(), kind.encode())
        is_thinking = kind == THINKING

        def write(quoted: bytes, _event: bytes) -> None:
            self.frames += 1
            if is_thinking or b"\\" in quoted:
                text = _decode_text(quoted)
                quoted = encoded(text)
                if is_thinking:
                    blocks.note_thinking(text)
            parts.extend((before, quoted, _DELTA_END))

        return write

    def event_writer(self, event: bytes) -> WriteText | None:
        if self._backlog is not None or not event.startswith(_DELTA_HEAD):
            return None
        if not self._events.blocks.is_open or not self._relayed.is_plain:
            return None
        parts = self._parts

        def write(_quoted: bytes, event: bytes) -> None:
            self.frames += 1
            parts.append(event)

        return write

    # A slow client

    @property
    def is_paused(self) -> bool:
        return self._backlog is not None

    def pause(self) -> None:
        if self._backlog is None:
            self._backlog = _Backlog()

    def resume(self) -> None:
        backlog, self._backlog = self._backlog, None
        if backlog is not None:
            self._parts += backlog.take()
            self.flush()

    def flush(self) -> None:
        parts = self._parts
        if parts:
            data = b"".join(parts)
            parts.clear()
            self.size += len(data)
            self._sink.write(data)

    def heartbeat(self, progress: float | None) -> None:
        if self._backlog is not None:
            return  # a line that is full needs none
        self._send(self._relayed.start())
        self._parts.append(PING)
        self.frames += 1
        self.flush()

    # The end

    def complete(self, usage: Usage, extras: bytes) -> None:
        self.resume()
        self._send(self._relayed.start())
        relayed = self._relayed.end(usage)
        if relayed is not None:
            self._send(relayed)
        else:
            for event in self._events.end(usage):
                self._emit(event)
        self._finish()

    def fail(self, error: ApiError) -> None:
        """Ends a stream that broke: an error. The open block stays open, and nothing ends it."""
        self.resume()
        self._parts.append(_frame("error", one_line(stream_error(error))))
        self._finish()

    def _finish(self) -> None:
        data = b"".join(self._parts)
        self._parts.clear()
        self.size += len(data)
        self._sink.finish(data)


def _frame(kind: str, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


class _Backlog:
    """Frames that wait for a slow client. Deltas of one text are joined, so that they cost only
    their text. `size`: bytes that came in."""

    __slots__ = ("_frames", "_text", "size")

    def __init__(self) -> None:
        self._frames: list[bytes | tuple[Event, str, TextBuffer]] = []
        self._text: tuple[int, str] | None = None  # the block and the type of the last delta
        self.size = 0

    def add(self, event: Event) -> int:
        """How many frames more there are."""
        delta: dict[str, Any] = event.get("delta") or {}
        name = _TEXTS.get(str(delta.get("type")))
        if name is None:
            self.add_frame(_frame(event["type"], encoded(event)))
            return 1
        text = delta[name]
        self.size += len(text)
        last = self._frames[-1] if self._frames else b""
        place = (event["index"], name)
        if place == self._text and isinstance(last, tuple):
            last[2].append(text)
            return 0
        self._text = place
        self._frames.append((event, name, TextBuffer(text)))
        return 1

    def add_frame(self, frame: bytes) -> None:
        self._text = None
        self.size += len(frame)
        self._frames.append(frame)

    def take(self) -> list[bytes]:
        frames, self._frames = self._frames, []
        return [each if isinstance(each, bytes) else _joined(*each) for each in frames]


def _joined(event: Event, name: str, text: TextBuffer) -> bytes:
    delta = event["delta"] | {name: str(text)}
    return _frame(event["type"], encoded(event | {"delta": delta}))
