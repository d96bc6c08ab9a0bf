"""The clients: open streams, check each to its end and measure how late its chunks arrive.

A process of its own: `python -m bench.load` reads a `Job` as one line of JSON from stdin. It prints
events as lines of JSON: `ready` after a warm-up, then, after a line on stdin, `open` when all
streams have content, and `result` at the end.
"""

import asyncio
import gc
import re
import sys
import time
from collections import Counter
from typing import Any, Final, Literal, cast

import msgspec
import uvloop
from msgspec import Struct

from bench.upstream_formats import FormatName
from bench.workloads import FrontName

SENT: Final = re.compile(rb"@(\d{19})@")
#: Bytes of a failed stream's last text that are shown.
SHOWN: Final = 160


class Job(Struct, kw_only=True):
    """What to send where. Times in seconds but for `interval_us`."""

    host: str
    port: int
    path: str
    key: str
    streams: int
    calls: int
    chunks: int
    interval_us: int
    first: Literal["tick", "now"]
    text: Literal["plain", "think"]
    ramp: float
    latency: bool
    deadline: float
    model: str
    format: FormatName = "mix"
    front: FrontName = "chat"
    sources: int = 1
    """Loopback addresses to connect from: the ports of one are limited."""


#: The path of each client format, and members of its requests.
_FRONTS: Final[dict[FrontName, tuple[str, dict[str, Any]]]] = {
    "chat": ("/chat/completions", {"stream_options": {"include_usage": True}}),
    "messages": ("/messages", {"max_tokens": 4096}),
    "responses": ("/responses", {"store": False}),
}

#: What the last frame of an answer has in it.
_ENDS: Final[dict[FrontName, bytes]] = {
    "chat": b"data: [DONE]",
    "messages": b"event: message_stop",
    "responses": b"event: response.completed",
}

#: What the frame of a text has in it, in the format that repeats the whole text in others.
_DELTA: Final = b'"response.output_text.delta"'


def request(job: Job) -> bytes:
    """The bytes of a call, with what the upstream reads in its prompt."""
    prompt = (
        f"bench chunks={job.chunks} interval_us={job.interval_us} first={job.first}"
        f" text={job.text} format={job.format}"
    )
    path, fields = _FRONTS[job.front]
    messages = [{"role": "user", "content": prompt}]
    name = "input" if job.front == "responses" else "messages"
    body = msgspec.json.encode({"model": job.model, name: messages, "stream": True} | fields)
    head = (
        f"POST {job.path}{path} HTTP/1.1\r\nhost: {job.host}:{job.port}\r\n"
        f"authorization: Bearer {job.key}\r\ncontent-type: application/json\r\n"
        f"accept: text/event-stream\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Run:
    """All streams of one job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.request = request(job)
        self.latencies: list[int] = []  # ns
        self.ttfts: list[int] = []  # ns
        self.failures: Counter[str] = Counter()
        self.completed = 0
        self.chunks = 0
        self.recording = False
        self._opened = 0
        self._clients: set[Client] = set()
        self._over = asyncio.Event()
        self._reports_open = False

    async def play(self, *, reports_open: bool = False) -> None:
        """Returns when every call has completed or failed."""
        job, loop = self.job, asyncio.get_running_loop()
        self._reports_open = reports_open
        started = loop.time()
        watchdog = loop.call_later(job.deadline, self._give_up)
        for number in range(job.streams):
            late = started + number * job.ramp / job.streams - loop.time()
            if late > 0:
                await asyncio.sleep(late)
            if self._over.is_set():
                break
            client = Client(self)
            self._clients.add(client)
            try:
                async with asyncio.timeout(10):
                    await loop.create_connection(
                        lambda c=client: c, job.host, job.port, local_addr=self._source(number)
                    )
            except (OSError, TimeoutError) as error:
                client.fail(f"no connection: {type(error).__name__}")
        await self._over.wait()
        watchdog.cancel()

    def _source(self, number: int) -> tuple[str, int] | None:
        if self.job.sources == 1:
            return None
        return f"127.0.0.{1 + number % self.job.sources}", 0

    def opened(self) -> None:
        self._opened += 1
        if self._opened == self.job.streams:
            # Latencies are recorded from here on, not while streams are still being opened.
            self.recording = self.job.latency
            if self._reports_open:
                emit({"event": "open"})

    def left(self, client: "Client") -> None:
        self._clients.discard(client)
        if self.completed + self.failures.total() >= self.job.streams * self.job.calls:
            self._over.set()

    def _give_up(self) -> None:
        for client in list(self._clients):
            client.fail(f"not complete after {self.job.deadline:g} s")
        missing = self.job.streams * self.job.calls - self.completed - self.failures.total()
        if missing:
            self.failures["not started"] += missing
        self._over.set()


class Client(asyncio.Protocol):
    """One connection with `calls` calls, one after another."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._calls = run.job.calls
        self._end = _ENDS[run.job.front]
        self._repeats = run.job.front == "responses"
        self._transport: asyncio.Transport | None = None
        self._rest = b""  # of an incomplete HTTP chunk, or of an incomplete head
        self._line = b""  # of an incomplete line of an event
        self._in_body = False
        self._count = 0
        self._done = False
        self._asked = 0
        self._last = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(f"cut after {self._count} chunks")

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if not self._in_body:
            head, mark, rest = data.partition(b"\r\n\r\n")
            if not mark:
                self._rest = data
                return
            if not head.startswith(b"HTTP/1.1 200") or b"chunked" not in head.lower():
                self.fail((head.partition(b"\r")[0] + b" " + rest[:SHOWN]).decode("latin-1"))
                return
            self._in_body = True
            data = rest
        self._chunks(data, now)

    def fail(self, reason: str) -> None:
        if self._calls:
            reason = " ".join(reason.split())
            self._run.failures[reason] += self._calls  # with the calls after it
            self._calls = 0
            if self._transport is not None:
                self._transport.abort()
            self._run.left(self)

    def _ask(self) -> None:
        assert self._transport is not None
        self._in_body = self._done = False
        self._count = 0
        self._asked = time.monotonic_ns()
        self._transport.write(self._run.request)

    def _chunks(self, data: bytes, now: int) -> None:
        """RFC 9112, section 7.1."""
        at = 0
        while at < len(data):
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            size = int(data[at:end].partition(b";")[0], 16)
            after = end + 2 + size + 2
            if after > len(data):
                break
            if not size:
                self._ended()
                return
            self._text(data[end + 2 : after - 2], now)
            at = after
        self._rest = data[at:]

    def _text(self, text: bytes, now: int) -> None:
        if self._line:
            text = self._line + text
        cut = text.rfind(b"\n") + 1
        self._line = text[cut:]
        if cut < len(text):
            text = text[:cut]
        if self._end in text:
            self._done = True
        if self._repeats:
            text = b"\n".join([line for line in text.split(b"\n") if _DELTA in line])
        if not self._run.job.latency:
            number = text.count(b"@") // 2
        else:
            times = SENT.findall(text)
            number = len(times)
            if self._run.recording:
                for sent in times:
                    self._run.latencies.append(now - int(sent))
        if number:
            if not self._count:
                self._run.ttfts.append(now - self._asked)
                if self._calls == self._run.job.calls:
                    self._run.opened()
            self._count += number
        self._last = text

    def _ended(self) -> None:
        run = self._run
        run.chunks += self._count
        if not self._done:
            last = self._last[-SHOWN:].decode("latin-1")
            self.fail(f"no end after {self._count} chunks: {last}")
        elif self._count != run.job.chunks:
            self.fail(f"{self._count} chunks of {run.job.chunks}")
        else:
            run.completed += 1
            self._calls -= 1
            if self._calls:
                self._ask()
            else:
                if self._transport is not None:
                    self._transport.close()
                run.left(self)


def emit(event: dict[str, Any]) -> None:
    print(msgspec.json.encode(event).decode(), flush=True)


def percentiles(values: list[int]) -> dict[str, float] | None:
    """In microseconds, of nanoseconds."""
    if not values:
        return None
    ordered = sorted(values)
    last = len(ordered) - 1
    return {
        "p50": ordered[round(last * 0.50)] / 1000,
        "p99": ordered[round(last * 0.99)] / 1000,
        "max": ordered[-1] / 1000,
    }


async def main() -> None:
    job = msgspec.json.decode(sys.stdin.readline(), type=Job)
    few = {"streams": min(8, job.streams), "calls": 4, "chunks": 20, "interval_us": 0, "ramp": 0}
    warm_up = Run(msgspec.structs.replace(job, **few, latency=False, deadline=20))
    await warm_up.play()
    gc.collect()
    gc.freeze()
    gc.disable()
    failures = dict(warm_up.failures)
    emit({"event": "ready", "failed": warm_up.failures.total(), "failures": failures})
    sys.stdin.readline()
    run = Run(job)
    started = time.monotonic()
    await run.play(reports_open=True)
    emit(
        {
            "event": "result",
            "seconds": time.monotonic() - started,
            "completed": run.completed,
            "failed": run.failures.total(),
            "failures": dict(run.failures.most_common(5)),
            "chunks": run.chunks,
            "latency_us": percentiles(run.latencies),
            "ttft_us": percentiles(run.ttfts),
        }
    )


if __name__ == "__main__":
    uvloop.run(main())
