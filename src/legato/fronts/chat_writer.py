"""Writes a stream as server-sent events of OpenAI's chat.completion.chunk."""

from functools import lru_cache
from typing import Final

import msgspec

from legato.core import padding
from legato.core.chunk import Chunk, Usage
from legato.core.coalesce import Coalescer
from legato.core.errors import ApiError
from legato.core.front import AnswerHead, Sink, WriterOptions
from legato.core.json_text import encoded, one_line
from legato.core.subscriber import WriteText

DONE: Final = b"data: [DONE]\n\n"
KEEP_ALIVE: Final = b": keep-alive\n\n"

#: What each frame begins with: the answer's id as JSON, its kind, its time, its model as JSON.
_HEAD: Final = b'data: {"id":%b,"object":"%b","created":%d,"model":%b,"choices":'

#: Models are few, and are named in each answer.
_encoded: Final = lru_cache(256)(encoded)


class ChatWriter:
    """A subscriber that writes frames.

    All frames of one turn of the event loop leave in one `write`. The members that are the same in
    every chunk are encoded once per stream; `choices` are carried as they come.
    """

    __slots__ = (
        "_coalescer",
        "_head",
        "_heartbeat",
        "_limit",
        "_pads",
        "_parts",
        "_shows_running_usage",
        "_shows_usage",
        "_sink",
        "_tail",
        "frames",
        "size",
    )

    #: The format does not repeat the answer at its end.
    response = b""

    #: The `object` of each frame, and the choices of one that says nothing.
    kind = b"chat.completion.chunk"
    silence = b'[{"index":0,"delta":{},"finish_reason":null}]'

    def __init__(self, head: AnswerHead, options: WriterOptions, sink: Sink) -> None:
        identity, model = msgspec.json.encode(head.identity), _encoded(head.model)
        self._head = _HEAD % (identity, self.kind, head.created, model)
        self._tail = b',"usage":null}\n\n' if options.shows_usage else b"}\n\n"
        self._shows_usage = options.shows_usage
        self._shows_running_usage = options.shows_running_usage
        self._heartbeat = options.heartbeat
        self._limit = options.limit
        self._pads = options.pads
        self._sink = sink
        self._parts: list[bytes] = []
        self._coalescer: Coalescer | None = None  # there while the client takes no more
        self.frames = 0
        self.size = 0

    def push(self, chunk: Chunk) -> None:
        coalescer = self._coalescer
        if coalescer is not None:
            coalescer.add(chunk)
            if coalescer.size > self._limit:
                self._sink.on_full()
            return
        tail = self._tail
        if self._shows_running_usage and chunk.usage_so_far is not None:
            tail = b',"usage":%b}\n\n' % msgspec.json.encode(chunk.usage_so_far)
        self.frames += 1
        self._parts += self._frame(chunk.raw or b"[]", chunk.extras, tail)

    def _frame(self, raw: bytes, extras: bytes, tail: bytes) -> tuple[bytes, ...]:
        if self._pads:
            size = len(self._head) + len(raw) + len(extras) + len(tail)
            tail = padding.member(size) + tail
        return self._head, raw, extras, tail

    def relay(self, name: bytes, data: bytes) -> None:
        """Chunks are what is written here, whatever the upstream's events look like."""

    def event_writer(self, event: bytes) -> WriteText | None:
        return None

    def text_writer(self, chunk: Chunk, raw: tuple[bytes, bytes]) -> WriteText | None:
        parts, pads = self._parts, self._pads
        before, after, tail = self._head + raw[0], raw[1] + chunk.extras, self._tail
        size = len(before) + len(after) + len(tail)
        if not pads:
            after += tail

        def write(quoted: bytes, _event: bytes) -> None:
            self.frames += 1
            if pads:
                parts.extend((before, quoted, after, padding.member(size + len(quoted)), tail))
            else:
                parts.extend((before, quoted, after))

        return None if self._coalescer is not None or self._shows_running_usage else write

    @property
    def is_paused(self) -> bool:
        return self._coalescer is not None

    def pause(self) -> None:
        if self._coalescer is None:
            self._coalescer = Coalescer()

    def resume(self) -> None:
        coalescer, self._coalescer = self._coalescer, None
        if coalescer is not None:
            for chunk in coalescer.take():
                self.push(chunk)
            self.flush()

    def flush(self) -> None:
        parts = self._parts
        if parts:
            data = b"".join(parts)
            parts.clear()
            self.size += len(data)
            self._sink.write(data)

    def heartbeat(self, progress: float | None) -> None:
        if self._coalescer is not None:
            return  # a line that is full needs none
        if self._heartbeat == "chunk":
            self.frames += 1
            self._parts += self._frame(self.silence, b"", self._tail)
        elif progress is not None:
            self._parts.append(b": prefill %d%%\n\n" % round(progress * 100))
        else:
            self._parts.append(KEEP_ALIVE)
        self.flush()

    def complete(self, usage: Usage, extras: bytes) -> None:
        self.resume()
        if self._shows_usage:
            self.frames += 1
            self._parts += (self._head, b"[]", extras, b',"usage":', encoded(usage), b"}\n\n")
        self._parts.append(DONE)
        self._finish()

    def fail(self, error: ApiError) -> None:
        """Ends a stream that broke: an error, and no `[DONE]`."""
        self.resume()
        self._parts += (b"data: ", one_line(error.as_json()), b"\n\n")
        self._finish()

    def _finish(self) -> None:
        data = b"".join(self._parts)
        self._parts.clear()
        self.size += len(data)
        self._sink.finish(data)
