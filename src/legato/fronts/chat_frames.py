"""Chunks as the bytes of server-sent events: what a streaming client reads."""

from collections.abc import Callable
from functools import lru_cache
from typing import Final, Protocol

import msgspec

from legato.core import padding
from legato.core.chunk import Chunk, Usage
from legato.core.coalesce import Coalescer
from legato.core.errors import ApiError
from legato.core.json_text import encoded, one_line

DONE: Final = b"data: [DONE]\n\n"
KEEP_ALIVE: Final = b": keep-alive\n\n"


#: What each frame begins with: the answer's id as JSON, its time, its model as JSON.
_HEAD: Final = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,"choices":'

#: Models are few, and said in each answer.
_encoded: Final = lru_cache(256)(encoded)

#: What comes before the text, what comes after it, and behind the padding, where there is any.
Around = tuple[bytes, bytes, bytes | None]


class Sink(Protocol):
    """Takes the bytes of frames."""

    def write(self, data: bytes) -> None:
        """One or more whole frames."""

    def direct(self) -> Callable[[bytes], None] | None:
        """What takes frames as chunks of HTTP; None where they are not sent as such."""
        ...

    def finish(self, data: bytes) -> None:
        """The last frames of a stream."""


class ChatWriter:
    """A subscriber that writes frames.

    All frames of one turn of the event loop leave in one `send`. The members that are the same in
    every chunk are encoded once a stream; `choices` are carried as they come.
    """

    __slots__ = (
        "_backlog",
        "_head",
        "_limit",
        "_on_full",
        "_pads",
        "_parts",
        "_running_usage",
        "_tail",
        "_wants_usage",
        "frames",
        "sink",
        "size",
    )

    def __init__(
        self,
        *,
        identity: str,
        created: int,
        model: str,
        wants_usage: bool,
        running_usage: Callable[[], Usage] | None = None,
        pads: bool = False,
        sink: Sink,
        limit: int = 4 * 1024 * 1024,
        on_full: Callable[[], None] = lambda: None,
    ) -> None:
        """`running_usage` gives the usage so far, for clients that want it in every chunk.
        `on_full` is called while more than `limit` bytes wait for a slow client.
        """
        self._head = _HEAD % (msgspec.json.encode(identity), created, _encoded(model))
        self._tail = b',"usage":null}\n\n' if wants_usage else b"}\n\n"
        self._wants_usage = wants_usage
        self._running_usage = running_usage
        self.sink = sink
        self._limit = limit
        self._on_full = on_full
        self._parts: list[bytes] = []
        self._pads = pads
        self._backlog: Coalescer | None = None  # there while the client cannot take more
        self.frames = 0
        self.size = 0

    def push(self, chunk: Chunk) -> None:
        if self._backlog is not None:
            self._backlog.add(chunk)
            if self._backlog.size > self._limit:
                self._on_full()
            return
        self.frames += 1
        raw, extras, tail = chunk.raw or b"[]", chunk.extras, self._tail
        if self._running_usage is not None:
            tail = b',"usage":%b}\n\n' % msgspec.json.encode(self._running_usage())
        if self._pads:
            extras += padding.member(len(self._head) + len(raw) + len(extras) + len(tail))
        self._parts += (self._head, raw, extras, tail)

    def around(self, raw: tuple[bytes, bytes], extras: bytes) -> Around | None:
        """What comes before and after the text of a frame's one choice; None where that is another
        in every frame."""
        if self._running_usage is not None:
            return None
        before, after = self._head + raw[0], raw[1] + extras
        return (before, after, self._tail) if self._pads else (before, after + self._tail, None)

    @property
    def is_paused(self) -> bool:
        return self._backlog is not None

    def pause(self) -> None:
        """The client takes no more for now: what comes is merged."""
        if self._backlog is None:
            self._backlog = Coalescer()

    def resume(self) -> None:
        backlog, self._backlog = self._backlog, None
        if backlog is not None:
            for chunk in backlog.take():
                self.push(chunk)
            self.flush()

    def flush(self) -> None:
        parts = self._parts
        if parts:
            data = b"".join(parts)
            parts.clear()
            self.size += len(data)
            self.sink.write(data)

    def comment(self, text: bytes = KEEP_ALIVE) -> None:
        """Keeps the line open; never counts as progress. A line that is full needs none."""
        if self._backlog is None:
            self._parts.append(text)
            self.flush()

    def complete(self, usage: Usage, extras: bytes) -> None:
        if self._backlog is not None:
            self.resume()
        if self._wants_usage:
            self.frames += 1
            said = encoded(usage)
            self._parts += (self._head, b"[]", extras, b',"usage":', said, b"}\n\n")
        self._parts.append(DONE)
        self._end()

    def fail(self, error: ApiError) -> None:
        """The last frame of a stream that broke: an error, and no `[DONE]`."""
        self.resume()
        self._parts += (b"data: ", one_line(error.as_json()), b"\n\n")
        self._end()

    def _end(self) -> None:
        data = b"".join(self._parts)
        self._parts.clear()
        self.size += len(data)
        self.sink.finish(data)
