"""The upstream: streams in which every content chunk carries the time it was sent at.

A process of its own: `python -m bench.mock PORT TICK_US` prints the port that it listens on. What a
stream is like is in the text of its prompt, which every gateway and dialect forwards: `bench
chunks=200 interval_us=20000 first=tick text=plain format=mix`. A GET returns how many answers there
were in each format, and how far the last flat-out stream is.
"""

import asyncio
import gc
import json
import os
import re
import sys
import time
from collections import Counter
from itertools import count
from typing import Any, Final, cast

import uvloop

from bench.pacer import Pacer
from bench.upstream_answers import Answer, Format
from bench.upstream_formats import ANTHROPIC, FORMATS, MIX, OPENAI

REQUEST: Final = re.compile(
    rb"bench chunks=(\d{1,6}) interval_us=(\d{1,8}) first=(now|tick) text=(plain|think)"
    rb" format=([a-z.]+)"
)
#: For requests that are not from the bench's clients, such as health checks.
OTHER: Final = (b"5", b"0", b"now", b"plain", b"openai")

#: How many different chunks a flat-out stream has.
DIFFERENT: Final = 64
_BURST: Final = 4  # chunks that a flat-out stream sends before it is the others' turn
_GOLDEN_RATIO: Final = 0.6180339887498949
_MODELS: Final = {"object": "list", "data": [{"id": "bench", "object": "model"}]}


class Schedule:
    """All streams with one interval, spread over it in steps of `tick_us`, on one timer."""

    tick_us = 1000

    def __init__(self, interval_us: int) -> None:
        self._slots: list[set[Upstream]] = [
            set() for _ in range(max(1, round(interval_us / self.tick_us)))
        ]
        self._pacer = Pacer(round(interval_us / len(self._slots)), self._tick)
        self._slot_of: dict[Upstream, int] = {}
        self._added = 0

    def add(self, stream: "Upstream") -> None:
        # Multiples of the golden ratio, modulo 1, are evenly spread however many there are.
        self._added += 1
        slot = int(self._added * _GOLDEN_RATIO % 1 * len(self._slots))
        self._slot_of[stream] = slot
        self._slots[slot].add(stream)
        self._pacer.start()

    def remove(self, stream: "Upstream") -> None:
        slot = self._slot_of.pop(stream, None)
        if slot is not None:
            self._slots[slot].discard(stream)
            if not self._slot_of:
                self._pacer.stop()

    def _tick(self, number: int) -> None:
        streams = self._slots[number % len(self._slots)]
        if streams:
            for stream in list(streams):
                stream.tick()


class Statistics:
    """What a GET returns of all connections."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.flat_out: Upstream | None = None
        self._numbers = count()

    def next_number(self) -> int:
        return next(self._numbers)

    def as_json(self) -> dict[str, Any]:
        last = self.flat_out
        return {
            "answers": self.answers,
            "flat_out": {
                "sent": last.sent if last else 0,
                "chunk_bytes": last.mean_chunk_bytes if last else 0.0,
                "text_bytes": last.answer.format.text_bytes if last else 0.0,
            },
        }


_schedules: dict[int, Schedule] = {}
_statistics = Statistics()


class Upstream(asyncio.Protocol):
    """One connection of a gateway."""

    def __init__(self) -> None:
        self.answer = Answer(OPENAI, 0, 1)
        self._buffer = b""
        self._prepared: list[bytes] = []
        self._chunks = 0
        self._left = 0
        self._schedule: Schedule | None = None
        self._flat_out = False
        self._paused = False
        self._pumping = False  # `_pump` is scheduled
        self._fd = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._fd = transport.get_extra_info("socket").fileno()

    def connection_lost(self, exc: Exception | None) -> None:
        self._left = 0
        self._leave_schedule()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._flat_out and not self._pumping:
            self._pump()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        size = int(length[1]) if length else 0
        if len(body) < size:
            return
        self._buffer = body[size:]
        if head.startswith(b"POST"):
            self._stream(head[: head.index(b"\r")].split()[1], body[:size])
        else:
            self._send_json(_MODELS | _statistics.as_json())

    @property
    def sent(self) -> int:
        """Content chunks so far."""
        return self._chunks - self._left

    @property
    def mean_chunk_bytes(self) -> float:
        """Bytes of a flat-out content chunk, in its HTTP chunk."""
        return sum(map(len, self._prepared)) / len(self._prepared) if self._prepared else 0.0

    def tick(self) -> None:
        content = self._content()
        if self._left:
            self._send(content)
        else:
            self._send(content + self.answer.end())
            self._leave_schedule()

    def _content(self) -> bytes:
        """The next chunk, sent now."""
        at = self.sent
        self._left -= 1
        return self.answer.content(at, time.monotonic_ns())

    def _stream(self, path: bytes, body: bytes) -> None:
        match = REQUEST.search(body)
        chunks, interval, first, text, name = match.groups() if match else OTHER
        self._chunks = self._left = max(1, int(chunks))
        self._flat_out = not int(interval)
        number = _statistics.next_number()
        style = _format(path, name.decode(), number)
        _statistics.answers[style.name] += 1
        self.answer = Answer(style, number, self._chunks, thinks=text == b"think")
        # A flat-out stream begins with what precedes its first text.
        begins = first == b"now" or self._flat_out
        self._send(self.answer.opening() + (self._content() if begins else b""))
        if not self._left:
            self._send(self.answer.end())
        elif self._flat_out:
            _statistics.flat_out = self
            self._prepared = self.answer.prepared(DIFFERENT)
            # Where the socket is full, at most one chunk waits for it.
            self._transport.set_write_buffer_limits(high=0)
            self._pump()
        else:
            self._schedule = _schedules.get(int(interval)) or _schedules.setdefault(
                int(interval), Schedule(int(interval))
            )
            self._schedule.add(self)

    def _send(self, data: bytes) -> None:
        """Writes at once. uvloop would write at the end of its turn, after the time stamps of other
        streams."""
        if self._transport.is_closing():
            return
        sent = 0
        if not self._transport.get_write_buffer_size():
            try:
                sent = os.write(self._fd, data)
            except OSError:
                sent = 0  # full or closed: the transport finds out
        if sent < len(data):
            self._transport.write(data[sent:])

    def _send_json(self, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % len(body) + body)

    def _pump(self) -> None:
        """Sends a few chunks, each flushed by itself as servers do; then other streams go on."""
        self._pumping = False
        for _ in range(_BURST):
            if not self._left or self._paused:
                break
            self._left -= 1
            content = self._prepared[self._left % DIFFERENT]
            self._send(content if self._left else content + self.answer.end())
        self._flat_out = self._left > 0
        if self._flat_out and not self._paused:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _leave_schedule(self) -> None:
        schedule, self._schedule = self._schedule, None
        if schedule is not None:
            schedule.remove(self)


def _format(path: bytes, name: str, number: int) -> Format:
    """By the path that is requested and by name; `mix` takes the formats in turn."""
    if path.endswith(b"/messages"):
        return ANTHROPIC
    return MIX[number % len(MIX)] if name == "mix" else FORMATS[name]


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    gc.freeze()
    # The bench holds the other end of stdin: it closes when the bench is gone.
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    Schedule.tick_us = int(sys.argv[2])
    uvloop.run(serve(int(sys.argv[1])))
