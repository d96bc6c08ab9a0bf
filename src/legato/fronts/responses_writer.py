"""Writes a stream as server-sent events of OpenAI's Responses API."""

from typing import Final

from msgspec import Raw

from legato.core import padding
from legato.core.chunk import Chunk, Usage
from legato.core.coalesce import Coalescer
from legato.core.errors import ApiError
from legato.core.front import AnswerHead, Sink, WriterOptions
from legato.core.json_text import as_encoded
from legato.core.span_edit import with_members, with_number
from legato.core.subscriber import WriteText
from legato.fronts.responses_body import ResponseBody
from legato.fronts.responses_errors import failure
from legato.fronts.responses_events import OutputItems
from legato.fronts.responses_relay import CREATED, RelayedEvent, RelayedEvents
from legato.fronts.responses_request import Echo

#: What each event begins with.
_HEAD: Final = b'event: %b\ndata: {"type":"%b","sequence_number":'

_IN_PROGRESS: Final = "response.in_progress"

#: The events that each answer begins with.
_FIRST: Final = (CREATED, _IN_PROGRESS)

#: What the events that the fast path takes over begin with.
_TEXT: Final = b"response.output_text.delta"
_TEXT_HEAD: Final = b"event: %b\ndata: " % _TEXT

#: A number that no event has by chance.
_ANY: Final = 987_654_321


class ResponsesWriter:
    """A subscriber that writes events. All frames of one turn of the event loop leave in one
    `write`.

    `response`: the whole response object as JSON, once it is complete.
    """

    __slots__ = (
        "_begun",
        "_body",
        "_coalescer",
        "_items",
        "_limit",
        "_number",
        "_pads",
        "_parts",
        "_relayed",
        "_sink",
        "_waiting",
        "frames",
        "response",
        "size",
    )

    def __init__(self, head: AnswerHead, options: WriterOptions, sink: Sink, echo: Echo) -> None:
        self._body = ResponseBody(head, echo)
        self._items = OutputItems(echo.names, self._emit, carries=echo.carries)
        self._relayed = RelayedEvents(self._items, self._emit)
        self._limit = options.limit
        self._pads = options.pads
        self._sink = sink
        self._parts: list[bytes] = []
        self._coalescer: Coalescer | None = None  # there while the client takes no more
        self._waiting = 0  # bytes of relayed events that wait for a slow client
        self._begun = 0  # how many of the first events have gone out
        self._number = 0  # of the next event
        self.frames = 0
        self.size = 0
        self.response = b""

    # Events

    def _emit(self, kind: str, members: bytes) -> None:
        name = kind.encode()
        parts = [_HEAD % (name, name), b"%d," % self._take_number(), members, b"}\n\n"]
        if self._pads and kind.endswith(".delta"):
            parts.insert(3, padding.member(sum(map(len, parts))))
        self._parts += parts

    def _take_number(self) -> int:
        self.frames += 1
        self._number += 1
        return self._number - 1

    def _begin(self, events: int = len(_FIRST)) -> None:
        """Emits what is missing of the first `events` that each answer has."""
        while self._begun < events:
            kind = _FIRST[self._begun]
            self._begun += 1
            self._emit_response(kind, self._body.render("in_progress"))

    def _emit_response(self, kind: str, response: bytes) -> None:
        self._emit(kind, b'"response":%b' % response)

    # From the stream

    def push(self, chunk: Chunk) -> None:
        coalescer = self._coalescer
        if coalescer is not None:
            coalescer.add(chunk)
            if coalescer.size > self._limit:
                self._sink.on_full()
            return
        self._begin()
        self._relayed.terminal = None  # another upstream goes on with the answer
        self._items.push(chunk)

    def relay(self, name: bytes, data: bytes) -> None:
        event = self._relayed.read(name, data)
        if event is None or (event.kind == CREATED and self._begun):
            return
        # The upstream's own beginning stands for ours.
        place = _FIRST.index(event.kind) if event.kind in _FIRST else len(_FIRST)
        self._begin(place)
        self._begun = max(self._begun, min(place + 1, len(_FIRST)))
        frame = self._frame(event)
        self._parts.append(frame)
        if self._coalescer is not None:
            self._waiting += len(frame)
            if self._waiting > self._limit:
                self._sink.on_full()

    def _frame(self, event: RelayedEvent, usage: Usage | None = None) -> bytes:
        """An event of the upstream with our id, the model's public name and our number."""
        number = self._take_number()
        data = event.data
        if event.response:
            response = self._body.amended(event.response, usage, self._items.output())
            if usage is not None:
                self.response = response
            data = with_members(data, {"response": Raw(response)})
        if event.number != number:
            data = with_members(data, {"sequence_number": number})
        frame = b"event: %b\ndata: %b" % (event.kind.encode(), data.rstrip())
        if self._lacks_padding(event.kind, data):
            frame = frame[:-1] + padding.member(len(frame) + 2) + b"}"
        return frame + b"\n\n"

    def _lacks_padding(self, kind: str, data: bytes) -> bool:
        """Whether an event is to be padded here: its upstream knows nothing of it."""
        return self._pads and kind.endswith(".delta") and b'"obfuscation"' not in data

    def text_writer(self, chunk: Chunk, raw: tuple[bytes, bytes]) -> WriteText | None:
        found = self._items.open_part(chunk.is_reasoning)
        if found is None or chunk.text_choice != 0 or self._coalescer is not None:
            return None
        item, part = found
        parts, pads, text = self._parts, self._pads, part.text
        kind, before, after = item.delta_head(part)
        name = kind.encode()
        fixed = (_HEAD % (name, name), b"," + before, after)
        head, before, after = [each.replace(b"%", b"%%") for each in fixed]
        frame = b"%b%%d%b%%b%b%%b}\n\n" % (head, before, after)
        size = sum(map(len, fixed)) + len(b"}\n\n")

        def write(quoted: bytes, _event: bytes) -> None:
            quoted = as_encoded(quoted)
            text.extend(quoted[1:-1])
            number = self._number
            self._number = number + 1
            self.frames += 1
            pad = padding.member(size + len(quoted) + len(str(number))) if pads else b""
            parts.append(frame % (number, quoted, pad))

        return write

    def event_writer(self, event: bytes) -> WriteText | None:
        if not event.startswith(_TEXT_HEAD) or self._coalescer is not None:
            return None
        data = event[len(_TEXT_HEAD) : -2]
        part = self._relayed.part_of(data)
        if part is None or self._lacks_padding(_TEXT.decode(), data):
            return None
        if with_number(data, _ANY) != with_members(data, {"sequence_number": _ANY}):
            return None  # it has none, or one that stands elsewhere too
        parts, text = self._parts, part.text

        def write(quoted: bytes, event: bytes) -> None:
            text.extend(as_encoded(quoted)[1:-1])
            parts.append(with_number(event, self._take_number()))

        return write

    @property
    def is_paused(self) -> bool:
        return self._coalescer is not None

    def pause(self) -> None:
        if self._coalescer is None:
            self._coalescer = Coalescer()

    def resume(self) -> None:
        coalescer, self._coalescer = self._coalescer, None
        self._waiting = 0
        if coalescer is not None:
            for chunk in coalescer.take():
                self.push(chunk)
            self.flush()

    def flush(self) -> None:
        if self._parts and self._coalescer is None:
            data = self._taken()
            self._sink.write(data)

    def _taken(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        self.size += len(data)
        return data

    def heartbeat(self, progress: float | None) -> None:
        """A whole event: the timers of some clients do not see comments."""
        if self._coalescer is not None:
            return  # a line that is full needs none
        if self._begun == len(_FIRST):
            output = self._items.output()
            self._emit_response(_IN_PROGRESS, self._body.render("in_progress", output))
        self._begin()
        self.flush()

    def complete(self, usage: Usage, extras: bytes) -> None:
        self.resume()
        self._begin()
        terminal = self._relayed.terminal
        self._relayed.end()
        if terminal is not None:
            self._parts.append(self._frame(terminal, usage))
        else:
            status, incomplete = self._items.status
            self.response = self._body.render(
                status, self._items.output(), incomplete=incomplete, usage=usage
            )
            self._emit_response(f"response.{status}", self.response)
        self._sink.finish(self._taken())

    def fail(self, error: ApiError) -> None:
        """Ends a stream that broke: what is open stays open."""
        self.resume()
        self._begin()
        output = self._items.output()
        response = self._body.render("failed", output, error=failure(error))
        self._emit_response("response.failed", response)
        self._sink.finish(self._taken())
