"""A short cut for text: one step from the bytes of an upstream to the bytes of a client.

Most chunks of an answer differ from the one before in their text alone, and come as one event in
one HTTP chunk in one read. What is left to do with such a read is put together once: compare,
meter, write. What is anything else is not taken, and goes the usual way.

With many streams the cost of a chunk is not its instructions but the memory that it touches, which
has left the processor's caches since the stream's last one. So all that a chunk needs is here.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from legato.core.json_text import text_of
from legato.core.padding import member
from legato.core.stream import Stream
from legato.core.timings import KEPT
from legato.fastpath.template import Template
from legato.fastpath.through import Through
from legato.fronts.chat_frames import Around, ChatWriter

#: Bytes of a read whose HTTP chunk has a size of three hexadecimal digits, at least.
_THREE_DIGITS: Final = 0x100 + 7

#: The first line of an HTTP chunk of so many bytes, up to the size that most have.
_SMALL: Final = 1024
_LINES: Final = tuple([b"%x\r\n" % size for size in range(_SMALL)])


@lru_cache(256)
def _shared(same: bytes) -> bytes:
    """What many streams have alike is one object: used by all of them, it stays in the caches."""
    return same


#: Begins no chunk.
_SHUT: Final = b"\n"


class Lane:
    """Takes the reads that are one HTTP chunk with one event of nothing but text, for as long as
    nothing else happens to the stream."""

    __slots__ = (
        "_after",
        "_before",
        "_began",
        "_clock",
        "_count",
        "_end",
        "_head",
        "_head_size",
        "_is_plain",
        "_more",
        "_said",
        "_size",
        "_stop",
        "_stream",
        "_tail",
        "_tail_size",
        "_thinks",
        "_times",
        "_write",
        "_writer",
    )

    def __init__(
        self,
        stream: Stream,
        writer: ChatWriter,
        template: Template,
        through: Through,
        around: Around,
        write: Callable[[bytes], None],
    ) -> None:
        timings = stream.timings
        # The text is carried in its quotes: they stand at the end of what comes before it, and at
        # the beginning of what comes after it.
        self._head = template.head
        self._head_size = len(template.head) - 1
        self._tail = _shared(template.tail[1:] + b"\n\n\r\n")
        self._tail_size = len(self._tail)
        before, after, self._end = around
        self._before, self._after = before[:-1], _shared(after[1:])
        self._size = len(before) + len(after) - 2
        self._clock = stream.clock
        self._times = timings.times
        self._count = timings.count
        self._write = write
        self._more = self._told if through.thinks or stream.kept is not None else None
        self._stop = through.stop
        self._is_plain = self._end is None and self._more is None and self._stop is None
        self._said = 0  # bytes
        self._thinks = through.thinks
        self._stream = stream
        self._writer = writer
        self._began = timings.pieces

    def take(self, data: bytes) -> bool:
        """False where `data` is anything else; then nothing has happened."""
        size = len(data)
        begin = 4 if size < _THREE_DIGITS else 5
        body = size - begin - 2
        if not (
            data.endswith(self._tail)
            and data.startswith(self._head, begin)
            and data.startswith(_LINES[body] if body < _SMALL else b"%x\r\n" % body)
        ):
            return False
        quoted = data[begin + self._head_size : size - self._tail_size]
        text = text_of(quoted)
        if not text:
            return False
        if not self._is_plain:
            return self._take(quoted, text)
        times = self._times
        times.append(self._clock())
        if len(times) == KEPT:
            self._count()
        size = self._size + len(quoted)
        self._said += size
        line = _LINES[size] if size < _SMALL else b"%x\r\n" % size
        self._write(b"".join((line, self._before, quoted, self._after, b"\r\n")))
        return True

    def take_all(self, data: bytes) -> bool:
        """The same for a read of several such HTTP chunks, one behind the other: all or none. Their
        frames leave in one."""
        if not self._is_plain or not data.endswith(self._tail):
            return False
        head, tail, before, after = self._head, self._tail, self._before, self._after
        frames: list[bytes] = []
        at, end = 0, len(data)
        while at < end:
            stop = data.find(tail, at) + len(tail)  # nothing in a string looks like it
            begin = at + (4 if stop - at < _THREE_DIGITS else 5)
            body = stop - begin - 2
            if not (
                data.startswith(head, begin)
                and body > 0
                and data.startswith(_LINES[body] if body < _SMALL else b"%x\r\n" % body, at)
            ):
                return False
            quoted = data[begin + self._head_size : stop - self._tail_size]
            if not text_of(quoted):
                return False
            frames += (before, quoted, after)
            at = stop
        timings, now = self._stream.timings, self._clock()
        for _ in range(len(frames) // 3):
            timings.content(now)
        joined = b"".join(frames)
        self._said += len(joined)
        self._write(b"%x\r\n%b\r\n" % (len(joined), joined))
        return True

    def _take(self, quoted: bytes, text: str) -> bool:
        """The same where it has to be looked at, or padded."""
        if self._stop is not None and self._stop in text:
            return False
        self._stream.timings.content(self._clock())
        if self._more is not None:
            self._more(text)
        size, after = self._size + len(quoted), self._after
        if self._end is not None:
            padding = member(size + len(self._end))
            after = b"%b%b%b" % (after, padding, self._end)
            size += len(padding) + len(self._end)
        self._said += size
        self._write(b"%x\r\n%b%b%b\r\n" % (size, self._before, quoted, after))
        return True

    @property
    def has_taken(self) -> bool:
        return self._said > 0

    def shut(self) -> None:
        """Nothing is taken any more. The writer's account is put right."""
        if self._head is not _SHUT:
            self._head, self._more = _SHUT, None
            self._writer.frames += self._stream.timings.pieces - self._began
            self._writer.size += self._said

    def _told(self, text: str) -> None:
        stream = self._stream
        if self._thinks:
            stream.timings.reasoning += 1
        if stream.kept is not None:
            stream.kept.text(text, self._thinks)


def between(stream: Stream, template: Template, through: Through) -> Lane | None:
    """None where each chunk has to be looked at, for one side or the other."""
    writer = stream.subscriber
    if template.plain not in stream.carried or stream.tally is not None:
        return None
    if not isinstance(writer, ChatWriter) or writer.is_paused:
        return None
    around, write = writer.around(through.raw, template.extras), writer.sink.direct()
    if around is None or write is None:
        return None
    stream.lane = Lane(stream, writer, template, through, around, write)
    return stream.lane
