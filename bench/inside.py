"""`scripts/bench inside`: where the time of a call of W2 goes, in one process and without sockets.

The server's own parts, from a client's connection to an upstream's, are given what W2's peers send,
read by read. What a read costs is told with the processor's caches as the reads before left them,
and with all of them filled with something else before each: a gateway that waits a millisecond for
its next chunk is nearer to the second. `--functions` counts bytecode instructions, which come out
the same every time.
"""

import argparse
import asyncio
import gc
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from types import CodeType, FrameType, SimpleNamespace
from typing import Any, Final, cast

import uvloop

from bench.load import Job, request
from bench.mock import HEAD
from bench.voices import PLAIN
from legato.core.dialect import Quirks
from legato.core.timers import Timers
from legato.dialects import openai
from legato.gateway.services import Services
from legato.policy.keys import Key, Keyring, create
from legato.policy.ledger import Row, SettledCall
from legato.policy.routing import Route, Router
from legato.server.limits import Limits
from legato.server.context import ServerContext
from legato.server.cors import Cors
from legato.server.protocol import LegatoProtocol
from legato.upstreams.connection import Connection
from legato.upstreams.endpoint import Endpoint
from legato.upstreams.pool import Pool
from legato.upstreams.upstream import Target, Upstream

#: Bytes that are copied to have nothing else in the caches of a core.
FOREIGN: Final = 6 << 20

CHUNKS: Final = 5


class Line:
    """A transport whose other end takes everything."""

    def write(self, data: bytes) -> None: ...
    def abort(self) -> None: ...
    def close(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Rows:
    """A ledger that closes each row, as a database would have it, and writes none."""

    is_full = False

    def __init__(self) -> None:
        self.waiting: list[Row | SettledCall] = []

    def put(self, identity: str, entry: Row | SettledCall) -> None:
        self.waiting.append(entry)

    def write(self) -> None:
        for entry in self.waiting:
            entry.settled()
        self.waiting.clear()


class Inside:
    """One client's connection and one upstream's, kept from call to call."""

    def __init__(self) -> None:
        identity, key, digest = create()
        clock = time.monotonic
        pool = Pool(Endpoint("127.0.0.1", 9, "/v1"), clock=clock)
        target = Target.of(pool, openai, "bench", (None,), Quirks())
        self.rows, self.timers = Rows(), Timers()
        services = Services(
            keyring=Keyring([Key(identity, "bench", digest, 0.0)]),
            router=Router([Route("bench", ("bench",))]),
            ledger=self.rows,
            upstreams={"bench": Upstream("bench", "bench", target=target)},
            timers=self.timers,
            clock=clock,
            on_bug=self._on_bug,
        )
        state = SimpleNamespace(
            connections=set(), tasks=set(), total_requests=0, default_headers=[(b"date", b"today")]
        )
        client = LegatoProtocol(ServerContext(services, Limits(), Cors(), cast(Any, state), None))
        client.connection_made(cast(Any, Line()))
        upstream = Connection(pool)
        upstream.connection_made(cast(Any, Line()))
        pool.keep(upstream)
        job = Job(
            host="127.0.0.1",
            port=80,
            path="/v1",
            key=key,
            streams=1,
            calls=1,
            chunks=CHUNKS,
            interval_us=1000,
            first="now",
            text="plain",
            ramp=0,
            latency=False,
            deadline=0,
            model="bench",
        )
        before, after = PLAIN.usual
        chunk = b"%b%019d%b" % (before, 0, after)
        asked = request(job)
        self.stages: dict[str, Callable[[], None]] = {
            "the client's request": lambda: client.data_received(asked),
            "the upstream's first read": lambda: upstream.data_received(HEAD + PLAIN.begin + chunk),
            "one more chunk": lambda: upstream.data_received(chunk),
            "its last read": lambda: upstream.data_received(chunk + PLAIN.end),
        }

    @staticmethod
    def _on_bug(error: BaseException) -> None:
        raise error

    async def call(self, *, foreign: Callable[[], None] | None = None) -> dict[str, float]:
        """What each stage took, in µs; that of the chunks between the first and the last is of one
        of them."""
        took: dict[str, float] = {}
        for name, stage in self.stages.items():
            for _ in range(CHUNKS - 2 if name == "one more chunk" else 1):
                if foreign is not None:
                    foreign()
                began = time.perf_counter()
                stage()
                took[name] = (time.perf_counter() - began) * 1e6
        if foreign is not None:
            foreign()
        began = time.perf_counter()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        took["the turn in which it is settled"] = (time.perf_counter() - began) * 1e6
        self.timers.clear()
        return took


async def times(calls: int) -> int:
    inside = Inside()
    mine, other = bytearray(FOREIGN), bytearray(FOREIGN)

    def foreign() -> None:
        mine[:] = other

    for _ in range(200):
        await inside.call()
    inside.rows.write()
    gc.freeze()
    found: dict[str, dict[str, float]] = {}
    for name, between in (("caches warm", None), ("caches cold", foreign)):
        runs = [await inside.call(foreign=between) for _ in range(calls)]
        inside.rows.write()
        found[name] = {stage: statistics.median(run[stage] for run in runs) for stage in runs[0]}
    rows = [
        [stage, *(f"{of[stage]:.1f}" for of in found.values())] for stage in found["caches warm"]
    ]
    rows.append(["all of a call", *(f"{_all(of):.0f}" for of in found.values())])
    print(_table(["µs, medians", *found], rows))
    return 0


def _all(of: dict[str, float]) -> float:
    return sum(of.values()) + (CHUNKS - 3) * of["one more chunk"]


async def functions(calls: int, most: int) -> int:
    inside = Inside()
    for _ in range(20):
        await inside.call()
    instructions: Counter[CodeType] = Counter()
    entered: Counter[CodeType] = Counter()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            entered[frame.f_code] += 1
        elif event == "opcode":
            instructions[frame.f_code] += 1
        return trace

    sys.settrace(trace)
    for _ in range(calls):
        await inside.call()
    sys.settrace(None)
    ours = [code for code in instructions if "legato" in code.co_filename.split("/")]
    rows = [
        [code.co_qualname, f"{instructions[code] / calls:.0f}", f"{entered[code] / calls:g}"]
        for code in sorted(ours, key=lambda code: -instructions[code])[:most]
    ]
    total = [sum(each[code] for code in ours) / calls for each in (instructions, entered)]
    print(_table(["function", "instructions", "calls"], rows))
    print(f"\nin all: {total[0]:,.0f} instructions, {total[1]:.0f} calls of Python functions")
    return 0


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench inside", description=__doc__)
    parser.add_argument("--calls", type=int, default=300, help="of each kind")
    parser.add_argument(
        "--functions", type=int, metavar="N", help="the N functions with the most instructions"
    )
    given = parser.parse_args()
    run = functions(20, given.functions) if given.functions else times(given.calls)
    return uvloop.run(run)
