"""The workloads, and which measures are shown of each."""

import math
from typing import Final, Literal

from msgspec import Struct, structs

#: The client formats.
FrontName = Literal["chat", "messages", "responses"]

#: Open files of a gateway beyond those of its streams.
SPARE_FILES: Final = 100


class Measure(Struct, frozen=True):
    """One figure of a workload. `key` names a member of a round's figures. `target`: Legato's goal
    as the table shows it; with an x, a goal for its ratio to nginx."""

    key: str
    title: str
    digits: int = 1
    target: str = ""


def _latencies(p50: str = "", p99: str = "") -> tuple[Measure, ...]:
    return (
        Measure("added_p50_us", "added latency p50, µs", 0, p50),
        Measure("added_p99_us", "added latency p99, µs", 0, p99),
        Measure("latency_p50_us", "whole latency p50, µs", 0),
        Measure("latency_p99_us", "whole latency p99, µs", 0),
    )


_CPU_CHUNK: Final = Measure("cpu_us_per_chunk", "CPU per chunk, µs")
_CPU_OPEN: Final = Measure("cpu_us_per_chunk_open", "CPU per chunk, all streams open, µs")
_SLOW: Final = (
    Measure("alone_p99_us", "other clients' p99 before it, µs", 0),
    Measure("filling_p99_us", "other clients' p99 from its first byte on, µs", 0),
    Measure("reading_p99_us", "other clients' p99 while it goes on, µs", 0),
    Measure("slow_taken", "chunks read from its upstream", 0),
    Measure("slow_text_mb", "text in these chunks, MB"),
    Measure("slow_memory_mb", "growth of memory, MB"),
    Measure("slow_above_mb", "growth beyond the text, MB", 1, "2"),
)


class Workload(Struct, frozen=True, kw_only=True):
    """`streams` connections, each with `calls` calls one after another, each of `chunks` chunks.

    `interval_us` 0: the upstream writes as fast as it is read. `first`: the first content chunk is
    sent at its stream's `tick`, or `now`, with the head of the answer. `text`: whether the upstream
    puts reasoning between tags. `dialect`: what the upstream speaks to Legato. `front`: what the
    clients speak; the upstream has no Responses, so nginx and the direct way get Chat Completions
    in their place. `steady`: seconds with all streams open in which CPU is measured separately.
    `slow`: chunks of the stream of one more client, which reads a byte a second. `idle_upstream`:
    the upstream runs only while the clients on its core wait; on a
    busy machine that may never be. `deployment` and `settings`: Legato's, TOML. `rounds`: the
    maximum.
    """

    name: str
    about: str
    streams: int
    chunks: int
    interval_us: int
    measures: tuple[Measure, ...]
    calls: int = 1
    first: Literal["tick", "now"] = "tick"
    text: Literal["plain", "think"] = "plain"
    dialect: str = "openai"
    front: FrontName = "chat"
    ramp_us: int = 1000
    memory: bool = False
    steady: float = 0.0
    slow: int = 0
    idle_upstream: bool = False
    deployment: str = ""
    settings: str = ""
    rounds: int = 1000

    @property
    def ramp(self) -> float:
        """Seconds over which the streams are opened, so that no burst of calls is measured."""
        return self.streams * self.ramp_us / 1e6 if self.streams > 1 and self.interval_us else 0.0

    @property
    def latency(self) -> bool:
        """Whether latency is measured: in a flat-out stream it is only the time in queues."""
        return self.interval_us > 0

    @property
    def seconds(self) -> float:
        """How long it takes if nothing is late."""
        once = self.ramp + self.calls * self.chunks * self.interval_us / 1e6
        return 3 * once if self.slow else once

    @property
    def deadline(self) -> float:
        """Seconds after which open streams have failed: at a thousand chunks a second and less."""
        slowest = self.streams * self.calls * self.chunks / 1000
        return 3 * self.seconds + 30 + min(slowest, 200)

    @property
    def files(self) -> int:
        """Open files of a gateway, which needs most: two for each stream."""
        return 2 * self.streams + SPARE_FILES


W1: Final = Workload(
    name="W1",
    about="200 streams, a chunk each 20 ms",
    streams=200,
    chunks=200,
    interval_us=20_000,
    measures=(structs.replace(_CPU_CHUNK, target="1.4 x"), *_latencies("1.3 x", "1.7 x")),
)
W2: Final = Workload(
    name="W2",
    about="500 calls one after another, 5 chunks 1 ms apart",
    streams=1,
    calls=500,
    chunks=5,
    interval_us=1_000,
    first="now",
    measures=(
        Measure("cpu_us_per_call", "CPU per call, µs", 0, "1.7 x"),
        Measure("added_ttft_p50_us", "added TTFT p50, µs", 0, "300"),
        Measure("ttft_p50_us", "whole TTFT p50, µs", 0),
    ),
)
_S1: Final = structs.replace(
    W1,
    name="S1",
    about="W1 beside a client that reads 1 byte/s of a stream of 100,000 chunks, sent flat out",
    slow=100_000,
    idle_upstream=True,
    measures=_SLOW,
)

_ALL: Final = (
    W1,
    W2,
    Workload(
        name="W3",
        about="1,000 open streams, a chunk each 250 ms",
        streams=1_000,
        chunks=60,
        interval_us=250_000,
        memory=True,
        measures=(
            Measure("kb_per_stream", "memory per open stream, KB", 1, "10"),
            _CPU_CHUNK,
            *_latencies(),
        ),
    ),
    Workload(
        name="W4",
        about="10,000 open streams, a chunk a second, for a minute (only if named)",
        streams=10_000,
        chunks=75,
        interval_us=1_000_000,
        ramp_us=1_500,
        memory=True,
        steady=30.0,
        rounds=1,
        deployment="max_connections = 12000",
        measures=(
            Measure("latency_p50_us", "whole latency p50, µs", 0),
            Measure("latency_p99_us", "whole latency p99, µs", 0, "20,000"),
            Measure("kb_per_stream", "memory per open stream, KB"),
            _CPU_OPEN,
        ),
    ),
    structs.replace(
        W1,
        name="W5",
        about="W1 with reasoning between tags, which Legato separates, and with padded frames",
        text="think",
        deployment='reasoning = "think-tags"',
        settings='[streams]\npadding = "on"',
        measures=(structs.replace(_CPU_CHUNK, target="1.8 x"), *_latencies()),
    ),
    structs.replace(
        W1,
        name="W6",
        about="W1 with an upstream that speaks Anthropic's Messages API (to nginx: OpenAI's)",
        dialect="anthropic",
        deployment='dialect = "anthropic"',
        measures=(structs.replace(_CPU_CHUNK, target="1.8 x"), *_latencies()),
    ),
    Workload(
        name="W7",
        about="16 streams flat out, 2,000 chunks each, 5 times",
        streams=16,
        calls=5,
        chunks=2_000,
        interval_us=0,
        measures=(
            Measure("chunks_per_second", "chunks per second", 0, "1.0 x"),
            Measure("chunks_per_cpu_second", "chunks per second of CPU", 0),
            _CPU_CHUNK,
            Measure("gateway_busy", "gateway's core busy", 2),
            Measure("driver_busy", "upstream's and client's core busy", 2),
        ),
    ),
    structs.replace(
        W1,
        name="W8",
        about="W1 with clients and an upstream that speak Anthropic's Messages API",
        dialect="anthropic",
        front="messages",
        deployment='dialect = "anthropic"',
    ),
    structs.replace(
        W1,
        name="W9",
        about="W1 with clients that speak OpenAI's Responses API (to nginx: Chat Completions)",
        front="responses",
    ),
    _S1,
    structs.replace(
        _S1,
        name="S2",
        about="S1 with room for the whole stream (only if named)",
        settings="[streams]\nbacklog_bytes = 67108864",
    ),
)

WORKLOADS: Final = {each.name: each for each in _ALL}
SMOKE: Final = ("W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W9", "S1")
DEFAULT: Final = ("W1", "W2", "W3", "W5", "W6", "W7", "W8", "W9", "S1")


def shrunk(workload: Workload) -> Workload:
    """A small version: it shows that everything works and measures nothing."""

    def less(number: int, least: int, most: int = 1000) -> int:
        return min(number, most, max(least, math.ceil(number / 10)))

    return structs.replace(
        workload,
        streams=less(workload.streams, 4, 100),
        calls=less(workload.calls, 1),
        chunks=less(workload.chunks, 5, 20),
        interval_us=min(workload.interval_us, 50_000),
        slow=min(workload.slow, 5_000),
        idle_upstream=False,
        steady=min(workload.steady, 0.1),
    )
