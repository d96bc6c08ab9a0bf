"""The upstream: streams whose every content chunk says when it was sent.

A process of its own: `python -m bench.mock PORT TICK_US`; it prints the port that it listens on.
What is wanted of a stream stands in the text of its prompt, which every gateway and dialect
carries: `bench chunks=200 interval_us=20000 first=tick`.
"""

import asyncio
import gc
import json
import os
import re
import resource
import sys
import time
from typing import Final, cast

import uvloop

from bench.pacer import Pacer

WISH: Final = re.compile(rb"bench chunks=(\d{1,6}) interval_us=(\d{1,8}) first=(now|tick)")

#: Bytes of a content chunk's event: what a provider's takes.
FRAME_BYTES: Final = 230

_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_GOLDEN: Final = 0.6180339887498949


def _framed(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


def _event(choices: str, more: str = "") -> bytes:
    return (
        'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,'
        f'"model":"bench","choices":[{choices}]{more}}}\n\n'
    ).encode()


def _content() -> tuple[bytes, bytes]:
    """A content chunk in its HTTP chunk, up to the time in it and from there on."""
    text = '{"index":0,"delta":{"content":"@%s@%s"},"logprobs":null,"finish_reason":null}'
    bare = len(_event(text % ("0" * 19, "")))
    padding = (" word" * FRAME_BYTES)[: FRAME_BYTES - bare]
    before, _, after = _framed(_event(text % ("0" * 19, padding))).partition(b"0" * 19)
    return before, after


_BEFORE, _AFTER = _content()
_ROLE: Final = _framed(
    _event('{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}')
)
_END: Final = (
    _framed(_event('{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}'))
    + _framed(_event("", ',"usage":{"prompt_tokens":9,"completion_tokens":200,"total_tokens":209}'))
    + _framed(b"data: [DONE]\n\n")
    + b"0\r\n\r\n"
)
_BURST: Final = 4  # chunks of a stream's turn, flat out
_MODELS: Final = json.dumps({"object": "list", "data": [{"id": "bench", "object": "model"}]})


def content() -> bytes:
    return b"%b%019d%b" % (_BEFORE, time.monotonic_ns(), _AFTER)


_FLAT: Final = b"%b%019d%b" % (_BEFORE, 0, _AFTER)


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
            self._stream(body[:size])
        else:
            answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d"
            self._transport.write((answer + b"\r\n\r\n%b") % (len(_MODELS), _MODELS.encode()))

    def tick(self) -> None:
        self._left -= 1
        if self._left:
            self._send(content())
        else:
            self._send(content() + _END)
            self._leave()

    def _stream(self, body: bytes) -> None:
        wish = WISH.search(body)
        chunks, interval, first = (int(wish[1]), int(wish[2]), wish[3]) if wish else (5, 0, b"now")
        self._left = max(1, chunks)
        self._flat = not interval
        if self._flat:
            self._transport.write(_HEAD + _ROLE)
            self._pump()
            return
        if first == b"now":
            self._left -= 1
            self._send(_HEAD + _ROLE + content() + (b"" if self._left else _END))
        else:
            self._send(_HEAD + _ROLE)
        if self._left:
            self._wheel = _wheels.get(interval) or _wheels.setdefault(interval, Wheel(interval))
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
            self._left -= 1
            self._send(_FLAT if self._left else _FLAT + _END)
        self._flat = self._left > 0
        if self._flat and not self._paused:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _leave(self) -> None:
        wheel, self._wheel = self._wheel, None
        if wheel is not None:
            wheel.remove(self)


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    gc.freeze()
    # The bench holds the other end of stdin: when it is gone, so are we.
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    Wheel.tick_us = int(sys.argv[2])
    uvloop.run(serve(int(sys.argv[1])))
