"""The upstream: streams whose every content chunk says when it was sent.

A process of its own: `python -m bench.mock PORT TICK_US`; it prints the port that it listens on.
What is wanted of a stream stands in the text of its prompt, which every gateway and dialect
carries: `bench chunks=200 interval_us=20000 first=tick text=plain`. A GET tells how many chunks the
last stream that was sent flat out has sent so far.
"""

import asyncio
import gc
import json
import os
import re
import sys
import time
from typing import Final, cast

import uvloop

from bench.pacer import Pacer
from bench.voices import DIFFERENT, PLAIN, voice

WISH: Final = re.compile(
    rb"bench chunks=(\d{1,6}) interval_us=(\d{1,8}) first=(now|tick) text=(plain|think)"
)

HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_GOLDEN: Final = 0.6180339887498949
_BURST: Final = 4  # chunks of a stream's turn, flat out
_MODELS: Final = {"object": "list", "data": [{"id": "bench", "object": "model"}]}


class Wheel:
    """All streams with one interval, spread over it in steps of `tick_us`; one timer for all."""

    tick_us = 1000

    def __init__(self, interval_us: int) -> None:
        self._slots: list[set[Upstream]] = [
            set() for _ in range(max(1, round(interval_us / self.tick_us)))
        ]
        self._pacer = Pacer(round(interval_us / len(self._slots)), self._tick)
        self._where: dict[Upstream, int] = {}
        self._taken = 0

    def add(self, stream: "Upstream") -> None:
        # The golden ratio's multiples are evenly spread however many there are.
        self._taken += 1
        slot = int(self._taken * _GOLDEN % 1 * len(self._slots))
        self._where[stream] = slot
        self._slots[slot].add(stream)
        self._pacer.start()

    def remove(self, stream: "Upstream") -> None:
        slot = self._where.pop(stream, None)
        if slot is not None:
            self._slots[slot].discard(stream)
            if not self._where:
                self._pacer.stop()

    @classmethod
    def of(cls, interval_us: int) -> "Wheel":
        return _wheels.get(interval_us) or _wheels.setdefault(interval_us, cls(interval_us))

    def _tick(self, number: int) -> None:
        streams = self._slots[number % len(self._slots)]
        if streams:
            for stream in list(streams):
                stream.tick()


_wheels: dict[int, Wheel] = {}


class Upstream(asyncio.Protocol):
    """One connection of a gateway."""

    def __init__(self) -> None:
        self._buffer = b""
        self._voice = PLAIN
        self._ready: list[bytes] = []
        self._chunks = 0
        self._left = 0
        self._wheel: Wheel | None = None
        self._flat = False
        self._paused = False
        self._pumping = False  # a turn of `_pump` is due
        self._fd = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._fd = transport.get_extra_info("socket").fileno()

    def connection_lost(self, exc: Exception | None) -> None:
        self._left = 0
        self._leave()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._flat and not self._pumping:
            self._pump()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, mark, body = self._buffer.partition(b"\r\n\r\n")
        if not mark:
            return
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        size = int(length[1]) if length else 0
        if len(body) < size:
            return
        self._buffer = body[size:]
        if head.startswith(b"POST"):
            self._stream(head[: head.index(b"\r")].split()[1], body[:size])
        else:
            said = json.dumps(_MODELS | {"flat_out": _last_flat_out.sent}).encode()
            answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d"
            self._transport.write((answer + b"\r\n\r\n%b") % (len(said), said))

    @property
    def sent(self) -> int:
        return self._chunks - self._left

    def tick(self) -> None:
        content = self._content()
        if self._left:
            self._send(content)
        else:
            self._send(content + self._voice.end)
            self._leave()

    def _content(self) -> bytes:
        """The next chunk, sent now."""
        before, after = self._voice.frame(self.sent, self._chunks)
        self._left -= 1
        return b"%b%019d%b" % (before, time.monotonic_ns(), after)

    def _stream(self, path: bytes, body: bytes) -> None:
        global _last_flat_out
        wish = WISH.search(body)
        chunks, interval, first, text = wish.groups() if wish else (b"5", b"0", b"now", b"plain")
        self._voice = voice(path, text)
        self._chunks = self._left = max(1, int(chunks))
        self._flat = not int(interval)
        self._send(HEAD + self._voice.begin + (self._content() if first == b"now" else b""))
        if not self._left:
            self._send(self._voice.end)
        elif self._flat:
            _last_flat_out = self
            self._ready = [] if self._voice.odd else self._voice.flat()
            # Where the socket is full, what waits for it is not joined: one chunk at most.
            self._transport.set_write_buffer_limits(high=0)
            self._pump()
        else:
            self._wheel = Wheel.of(int(interval))
            self._wheel.add(self)

    def _send(self, data: bytes) -> None:
        """Out now. uvloop would send at the end of its turn, after the times of other streams."""
        if self._transport.is_closing():
            return
        sent = 0
        if not self._transport.get_write_buffer_size():
            try:
                sent = os.write(self._fd, data)
            except OSError:
                sent = 0  # full, or gone: the transport finds out
        if sent < len(data):
            self._transport.write(data[sent:])

    def _pump(self) -> None:
        """A few chunks, each flushed by itself as engines do; then it is the others' turn."""
        self._pumping = False
        for _ in range(_BURST):
            if not self._left or self._paused:
                break
            if self._ready:
                self._left -= 1
                content = self._ready[self._left % DIFFERENT]
            else:
                content = self._content()
            self._send(content if self._left else content + self._voice.end)
        self._flat = self._left > 0
        if self._flat and not self._paused:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _leave(self) -> None:
        wheel, self._wheel = self._wheel, None
        if wheel is not None:
            wheel.remove(self)


_last_flat_out = Upstream()


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    gc.freeze()
    # The bench holds the other end of stdin: when it is gone, so are we.
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    Wheel.tick_us = int(sys.argv[2])
    uvloop.run(serve(int(sys.argv[1])))
