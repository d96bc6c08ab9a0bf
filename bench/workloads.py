"""The workloads, and the measures that are shown of each: rows, so that another is another row."""

import math
from typing import Final

from msgspec import Struct, structs


class Measure(Struct, frozen=True):
    """One figure of a workload. `key` names a member of a round's figures."""

    key: str
    title: str
    digits: int = 1
    more_is_better: bool = False


CPU_CHUNK: Final = Measure("cpu_us_per_chunk", "CPU per chunk, µs")
CPU_CALL: Final = Measure("cpu_us_per_call", "CPU per call, µs", 0)
LATENCY: Final = (
    Measure("added_p50_us", "added latency p50, µs", 0),
    Measure("added_p99_us", "added latency p99, µs", 0),
    Measure("latency_p50_us", "whole latency p50, µs", 0),
    Measure("latency_p99_us", "whole latency p99, µs", 0),
)
MEMORY: Final = Measure("kb_per_stream", "memory per open stream, KB")


class Workload(Struct, frozen=True, kw_only=True):
    """`streams` connections, each with `calls` calls one after another, each of `chunks` chunks.

    `interval_us` 0: the upstream writes as fast as it is read. `first`: the first content chunk
    comes at its stream's `tick`, or `now`, with the head of the answer.
    """

    name: str
    about: str
    streams: int
    chunks: int
    interval_us: int
    measures: tuple[Measure, ...]
    calls: int = 1
    first: str = "tick"
    memory: bool = False

    @property
    def ramp(self) -> float:
        """Seconds over which the streams are opened: a burst of calls is not what is measured."""
        return self.streams * 0.001 if self.streams > 1 and self.interval_us else 0.0

    @property
    def latency(self) -> bool:
        """Whether chunks tell when they were sent: flat out, a time to wait in is all there is."""
        return self.interval_us > 0

    @property
    def seconds(self) -> float:
        """How long it takes where nothing is late."""
        return self.ramp + self.calls * self.chunks * self.interval_us / 1e6

    @property
    def deadline(self) -> float:
        """Seconds after which what is still open has failed."""
        return 3 * self.seconds + 30


_ALL: Final = (
    Workload(
        name="W1",
        about="200 streams, a chunk each 20 ms",
        streams=200,
        chunks=200,
        interval_us=20_000,
        measures=(CPU_CHUNK, *LATENCY),
    ),
    Workload(
        name="W2",
        about="500 calls one after another, 5 chunks 1 ms apart",
        streams=1,
        calls=500,
        chunks=5,
        interval_us=1_000,
        first="now",
        measures=(
            CPU_CALL,
            Measure("added_ttft_p50_us", "added TTFT p50, µs", 0),
            Measure("ttft_p50_us", "whole TTFT p50, µs", 0),
        ),
    ),
    Workload(
        name="W3",
        about="1,000 open streams, a chunk each 250 ms",
        streams=1_000,
        chunks=60,
        interval_us=250_000,
        memory=True,
        measures=(MEMORY, CPU_CHUNK, *LATENCY),
    ),
    Workload(
        name="W7",
        about="16 streams flat out, 2,000 chunks each, 5 times",
        streams=16,
        calls=5,
        chunks=2_000,
        interval_us=0,
        measures=(
            Measure("chunks_per_second", "chunks per second", 0, more_is_better=True),
            Measure("chunks_per_cpu_second", "chunks per second of CPU", 0, more_is_better=True),
            CPU_CHUNK,
            Measure("gateway_busy", "gateway's core busy", 2),
            Measure("driver_busy", "upstream's and client's core busy", 2),
        ),
    ),
)

WORKLOADS: Final = {each.name: each for each in _ALL}
DEFAULT: Final = ("W1", "W2", "W3", "W7")


def shrunk(workload: Workload) -> Workload:
    """A tenth of it in each direction: shows that everything works, measures nothing."""

    def less(number: int, least: int) -> int:
        return min(number, max(least, math.ceil(number / 10)))

    return structs.replace(
        workload,
        streams=less(workload.streams, 4),
        calls=less(workload.calls, 1),
        chunks=less(workload.chunks, 5),
        interval_us=min(workload.interval_us, 50_000),
    )
