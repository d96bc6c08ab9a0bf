"""`scripts/soak kill`: SIGKILL of a server under load at random moments, and PostgreSQL away for a
while. From the clients' side no call may be missing in the ledger, twice in it, or left open."""

import argparse
import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from tests.support.postgres import Postgres
from tests.support.server_process import Clients, ServerProcess, check
from tests.support.soak.memory import resident_mb

START_SECONDS = 60.0


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="scripts/soak kill", description=__doc__)
    parser.add_argument("--kills", type=int, default=30, help="on each database")
    parser.add_argument("--away", type=float, default=20.0, help="seconds without PostgreSQL")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    print(f"seed {seed}")
    asyncio.run(_run(options.kills, options.away, random.Random(seed)))


async def _run(kills: int, away: float, draw: random.Random) -> None:
    upstream = MockServer(SCRIPTS)
    base = await upstream.start()
    postgres = await asyncio.to_thread(Postgres)
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name, address in (("SQLite", None), ("PostgreSQL", await postgres.create())):
                server = ServerProcess(Path(folder) / name, base, address)
                await _kill(name, server, kills, draw)
            if away:
                server = ServerProcess(Path(folder) / "away", base, await postgres.create())
                await _away(server, postgres, away, draw)
    finally:
        await asyncio.to_thread(postgres.close)
        await upstream.stop()


async def _kill(name: str, server: ServerProcess, kills: int, draw: random.Random) -> None:
    told: dict[str, str] = {}
    sent = 0
    for number in range(kills):
        await server.start()
        clients = Clients(server, draw.randrange(1 << 32))
        await _until(lambda clients=clients: len(clients.told) > 20)
        await asyncio.sleep(2 * draw.random())
        await server.kill()
        await clients.end()
        told |= clients.told
        sent += clients.sent
        if draw.random() < 0.3:  # sometimes read while it is down
            check(told, (await server.usage())["rows"], sent)
        print(f"{name}: kill {number + 1}, {len(told)} calls", end="\r", flush=True)
    await server.start()
    report = await server.usage()
    await server.stop()
    check(told, report["rows"], sent)
    _report(f"{name}, {kills} kills", told, report["outcomes"], sent)


async def _away(
    server: ServerProcess, postgres: Postgres, seconds: float, draw: random.Random
) -> None:
    await server.start()
    clients = Clients(server, draw.randrange(1 << 32))
    await _until(lambda: len(clients.told) > 20)
    before = resident_mb(server)
    await asyncio.to_thread(postgres.stop)
    await asyncio.sleep(seconds)
    during = resident_mb(server)
    await asyncio.to_thread(postgres.start)
    asked = len(clients.told)
    await _until(lambda: len(clients.told) > asked + 20)
    await clients.end()
    await server.stop()
    report = await server.usage()
    check(clients.told, report["rows"], clients.sent)
    assert set(clients.statuses) <= {200, 502}, f"refused: {clients.statuses}"
    assert not report["outcomes"]["interrupted"], report["outcomes"]
    _report(f"PostgreSQL away for {seconds:.0f} s", clients.told, report["outcomes"], clients.sent)
    print(f"  memory of the server: {before:.0f} MB before, {during:.0f} MB at the end of it")


def _report(name: str, told: dict[str, str], outcomes: dict[str, int], sent: int) -> None:
    ends = ", ".join(f"{number} {end}" for end, number in sorted(Counter(told.values()).items()))
    rows = ", ".join(
        f"{number} {outcome}" for outcome, number in sorted(outcomes.items()) if number
    )
    print(f"{name}: {sent} requests; clients were told of {len(told)}: {ends}")
    print(f"  ledger: {sum(outcomes.values())} rows: {rows}; none missing, none twice, none open")


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the server does not answer"
        await asyncio.sleep(0.01)
