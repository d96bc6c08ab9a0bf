"""Server-sent events, read incrementally.

The rules are WHATWG's (HTML, section 9.2.6 "Interpreting an event stream"), with two leniencies. At
the end of the body an event whose closing blank line is missing still counts (`Decoder.close`),
because some servers leave it out after `[DONE]`. A line that begins with `{` begins the data of an
event, up to the next blank line: some servers and proxies write an error into a stream as it is.
"""

from typing import Final

#: (event name or b"", data). A plain tuple: one is made per chunk relayed.
Event = tuple[bytes, bytes]

_BOM: Final = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """One event is larger than the reader is willing to hold."""


def event(block: bytes) -> Event | None:
    """The event whose lines are `block`; None where it takes a decoder."""
    if b"\r" in block:
        return None
    name, data = b"", block
    if block.startswith(b"event: "):
        name, _, data = block[7:].partition(b"\n")
    if not data.startswith(b"data:") or b"\n" in data:
        return None
    return name, data[6:] if data.startswith(b"data: ") else data[5:]


class Decoder:
    """Bytes in, events out. `feed` takes the body as it arrives, cut anywhere."""

    __slots__ = (
        "_after_cr",
        "_data",
        "_held",
        "_is_bare",
        "_limit",
        "_name",
        "_partial",
        "_started",
    )

    def __init__(self, limit: int = 16 * 1024 * 1024) -> None:
        """`limit`: bytes of one event that may be held before `EventTooLarge` is raised."""
        # Most events come whole: lists are made where they are needed, and not a stream each.
        self._partial: list[bytes] | None = None  # pieces of the line whose end has not come yet
        self._held = 0  # bytes in `_partial` and `_data`
        self._data: list[bytes] | None = None  # `data:` lines of the event in hand
        self._name = b""
        self._is_bare = False  # an object that stands in the stream without `data:`
        self._after_cr = False  # a CR ended the last piece; an LF now belongs to it
        self._started = False  # a byte order mark may still come
        self._limit = limit

    def begin(self) -> None:
        """What is fed is no longer the beginning of the body: no byte order mark comes."""
        self._started = True

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes, in order."""
        if (
            data.startswith(b"data: ")
            and data.endswith(b"\n\n")
            and not self._held
            and not self._name
            and not self._after_cr
            and b"\r" not in data
        ):
            # Whole events, as nearly every server writes them: nothing has to be kept.
            self._started = True
            if data.find(b"\n") == len(data) - 2:
                return [(b"", data[6:-2])]
            return self._whole(data)
        return self._pieces(data)

    @property
    def is_between(self) -> bool:
        """Nothing is held of an event whose end has not come."""
        return not (self._partial or self._data or self._name or self._after_cr)

    def close(self) -> list[Event]:
        """The event left over at the end of the body, where only its blank line is missing."""
        line = self._taken()
        events: list[Event] = []
        if line:
            self._line(line, events)
        self._line(b"", events)
        return events

    def _whole(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        for block in data[:-2].split(b"\n\n"):
            if block.startswith(b"data: ") and b"\n" not in block:
                events.append((b"", block[6:]))
            else:
                for line in block.split(b"\n"):
                    self._line(line, events)
                self._line(b"", events)
        return events

    def _pieces(self, data: bytes) -> list[Event]:
        if not self._started and not (data := self._without_bom(data)):
            return []
        if self._after_cr and data:
            self._after_cr = False
            if data.startswith(b"\n"):
                data = data[1:]
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        events: list[Event] = []
        lines = data.split(b"\n")
        if len(lines) > 1:
            # Only what is new was searched for line ends: a long line costs its length once.
            line = self._taken() + lines[0]
            self._held -= len(line) - len(lines[0])
            self._line(line, events)
            for line in lines[1:-1]:
                self._line(line, events)
        rest = lines[-1]
        if rest:
            self._hold(rest)
        if self._held > self._limit:
            raise EventTooLarge(f"an event is larger than {self._limit} bytes")
        return events

    def _without_bom(self, data: bytes) -> bytes:
        data = self._taken() + data
        self._held = 0
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._hold(data)
            return b""
        self._started = True
        return data.removeprefix(_BOM)

    def _hold(self, piece: bytes) -> None:
        """Of a line whose end has not come."""
        if self._partial is None:
            self._partial = [piece]
        else:
            self._partial.append(piece)
        self._held += len(piece)

    def _taken(self) -> bytes:
        """What was held of the line, and is not any more."""
        partial, self._partial = self._partial, None
        return b"".join(partial) if partial is not None else b""

    def _line(self, line: bytes, events: list[Event]) -> None:
        if not line:
            if self._data:
                events.append((self._name, b"\n".join(self._data)))
                self._held -= sum(map(len, self._data)) + len(self._data)
                self._data = None
            self._name = b""
            self._is_bare = False
            return
        field, _, value = line.partition(b":")
        if value.startswith(b" "):
            value = value[1:]
        if self._is_bare or (self._data is None and line.startswith(b"{")):
            self._is_bare, field, value = True, b"data", line
        if field == b"data":
            if self._data is None:
                self._data = []
            self._data.append(value)
            self._held += len(value) + 1  # an empty line is held too
        elif field == b"event":
            self._name = value
        # Comments (an empty field name), `id`, `retry` and unknown fields carry nothing for us.
