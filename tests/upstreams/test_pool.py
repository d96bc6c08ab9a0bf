"""Connections to an upstream: made, limited, raced, kept, and closed when nobody wants them."""

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from legato.core.errors import UpstreamError
from legato.mock.server import MockServer, Script, Step
from legato.upstreams.connection import Connection, _timeout
from legato.upstreams.endpoint import Endpoint
from legato.upstreams.pool import Pool, _addresses, _first_of
from tests.conftest import serving, settings_for, until
from tests.support.wire import Wire, ask, chat, request


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no ::1")


class Peer:
    """A listener that says nothing."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []
        self.server: asyncio.Server | None = None
        self.port = 0

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.server = await asyncio.start_server(self._met, host, port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        await reader.read()
        writer.close()

    async def stop(self) -> None:
        assert self.server is not None
        for writer in self.writers:
            writer.transport.abort()
        self.server.close()
        await self.server.wait_closed()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    await peer.start()
    yield peer
    await peer.stop()


def pool_at(port: int, host: str = "127.0.0.1", **more: Any) -> Pool:
    return Pool(Endpoint(host, port), clock=time.monotonic, **more)


async def gone(pool: Pool, *connections: Connection) -> None:
    for each in connections:
        each.close()
    pool.close()
    await until(lambda: not pool.size, "all are closed")


async def test_the_last_kept_is_the_first_used(peer: Peer) -> None:
    pool = pool_at(peer.port)
    one, two = await pool.connect(), await pool.connect()
    pool.keep(one)
    pool.keep(two)
    assert pool.idle() is two
    assert pool.idle() is one
    assert pool.idle() is None
    await gone(pool, one, two)


async def test_over_the_limit_calls_wait_their_turn(peer: Peer) -> None:
    pool = pool_at(peer.port, max_connections=1)
    first = await pool.connect()
    order: list[int] = []

    async def one(number: int) -> None:
        connection = await pool.connect()
        order.append(number)
        pool.keep(connection)

    waiting = [asyncio.create_task(one(number)) for number in range(3)]
    await until(lambda: pool.waiting == 3)
    pool.keep(first)
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2]
    assert pool.size == 1
    await gone(pool)


async def test_room_is_made_where_a_connection_is_closed(peer: Peer) -> None:
    pool = pool_at(peer.port, max_connections=1)
    first = await pool.connect()
    second = asyncio.create_task(pool.connect())
    await until(lambda: pool.waiting)
    first.close()
    assert await second is not first
    await gone(pool, second.result())


async def test_one_that_waits_too_long_is_told_so(peer: Peer) -> None:
    pool = pool_at(peer.port, max_connections=1, connect_seconds=0.05)
    first = await pool.connect()
    with pytest.raises(UpstreamError) as caught:
        await pool.connect()
    assert (caught.value.status, caught.value.code) == (503, "upstream_busy")
    assert not pool.waiting
    await gone(pool, first)


async def test_one_that_leaves_the_queue_keeps_nobody_else_waiting(peer: Peer) -> None:
    pool = pool_at(peer.port, max_connections=1)
    first = await pool.connect()
    leaves, stays = (asyncio.create_task(pool.connect()) for _ in range(2))
    await until(lambda: pool.waiting == 2)
    pool.keep(first)  # it is the first one's turn ...
    leaves.cancel()  # ... who is cancelled in that very moment
    assert await asyncio.wait_for(stays, 5) is first
    await asyncio.gather(leaves, return_exceptions=True)
    await gone(pool, first)


async def test_an_idle_one_makes_room_for_a_fresh_one(peer: Peer) -> None:
    pool = pool_at(peer.port, max_connections=1)
    first = await pool.connect()
    pool.keep(first)
    second = await asyncio.wait_for(pool.connect(), 5)
    assert second is not first
    await gone(pool, second)


async def test_each_of_two_fresh_ones_takes_the_place_of_an_idle_one(peer: Peer) -> None:
    pool = pool_at(peer.port, max_connections=2)
    idle = [await pool.connect(), await pool.connect()]
    for each in idle:
        pool.keep(each)
    fresh = await asyncio.wait_for(asyncio.gather(pool.connect(), pool.connect()), 5)
    assert not set(fresh) & set(idle)
    await gone(pool, *fresh)


async def test_what_is_idle_for_too_long_is_closed_though_nobody_asks(peer: Peer) -> None:
    pool = pool_at(peer.port, idle_seconds=0.05)
    pool.keep(await pool.connect())
    pool.keep(await pool.connect())
    await until(lambda: not pool.size, "they are closed")
    assert pool._timer is None
    pool.close()


async def test_each_is_kept_for_its_own_time(peer: Peer) -> None:
    pool = pool_at(peer.port)
    long, brief = await pool.connect(), await pool.connect()
    brief.keep_seconds = 0.05
    pool.keep(long)
    pool.keep(brief)
    await until(lambda: brief.is_closing, "the brief one is closed")
    assert pool.idle() is long
    await gone(pool, long)
    assert pool._timer is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("timeout=5", 4.0), ("Timeout=1, max=100", 0.0), ("max=3", float("inf")), ("x", float("inf"))],
)
def test_the_timeout_in_a_keep_alive_header(header: str, seconds: float) -> None:
    assert _timeout(header) == seconds


async def test_a_peer_that_keeps_for_a_second_is_not_asked_again(
    tmp_path: Path, scripted: MockServer
) -> None:
    steps = [Step(say="x"), Step(finish="stop"), Step(done=True)]
    scripted.scripts["brief"] = Script(steps=steps, headers={"keep-alive": "timeout=1"})
    settings = settings_for(tmp_path, await scripted.start(), ["brief"])
    async with serving(settings) as legato:
        assert (await ask(legato.port, legato.key, chat("brief", stream=True))).done
        await until(lambda: scripted.open_connections == 0, "it is not kept")


async def test_a_call_that_waits_for_a_connection_leaves_with_its_client(
    tmp_path: Path, scripted: MockServer
) -> None:
    deploy = {"max_connections": 1}
    settings = settings_for(tmp_path, await scripted.start(), ["slow"], deploy=deploy)
    async with serving(settings) as legato:
        target = legato.app.upstreams["at-slow"].target
        assert target is not None
        async with await Wire.open(legato.port) as first, await Wire.open(legato.port) as second:
            first.send(request(legato.key, chat("slow", stream=True)))
            await first.head()
            second.send(request(legato.key, chat("slow", stream=True)))
            await until(lambda: target.pool.waiting, "the second one waits")
            second.writer.transport.abort()
            await until(lambda: not target.pool.waiting, "its place is free")
        assert len(scripted.requests) == 1


# Where a host is


def named(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """`somewhere` has these addresses, in this order."""

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        assert host == "somewhere"
        families = [socket.AF_INET6 if ":" in each else socket.AF_INET for each in addresses]
        return [
            (family, socket.SOCK_STREAM, 6, "", (each, port))
            for family, each in zip(families, addresses, strict=True)
        ]

    loop = asyncio.get_running_loop()

    class Loop:
        def __getattr__(self, name: str) -> Any:
            return getattr(loop, name)

    stand_in = Loop()
    stand_in.getaddrinfo = getaddrinfo  # type: ignore[attr-defined]
    monkeypatch.setattr("legato.upstreams.pool.asyncio.get_running_loop", lambda: stand_in)


async def test_families_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, "::1", "::2", "::1", "127.0.0.1", "127.0.0.2")
    assert await _addresses("somewhere", 80) == ["::1", "127.0.0.1", "::2", "127.0.0.2"]


async def test_the_next_address_is_tried_where_one_refuses(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_at(peer.port, "somewhere")
    with monkeypatch.context() as patched:
        named(patched, "127.0.0.3", "127.0.0.1")
        connection = await pool.connect()
    assert connection.transport is not None
    assert connection.transport.get_extra_info("peername")[0] == "127.0.0.1"
    await gone(pool, connection)


async def test_the_next_address_is_tried_beside_one_that_hangs(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listener whose queue is full takes no connection, and does not refuse one."""
    full = socket.socket()
    full.bind(("127.0.0.4", peer.port))
    full.listen(0)
    fillers = [socket.socket() for _ in range(3)]
    for each in fillers:
        each.setblocking(False)
        each.connect_ex(("127.0.0.4", peer.port))
    pool = pool_at(peer.port, "somewhere")
    with monkeypatch.context() as patched:
        named(patched, "127.0.0.4", "127.0.0.1")
        connection = await pool.connect()
    assert connection.transport is not None
    assert connection.transport.get_extra_info("peername")[0] == "127.0.0.1"
    await gone(pool, connection)
    for each in (*fillers, full):
        each.close()


@needs_ipv6
@pytest.mark.parametrize("chosen", ["::1", "127.0.0.1"])
async def test_the_first_address_is_taken_where_it_can_be(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    there = Peer()
    if chosen == "::1":  # else nobody listens there
        await there.start("::1", peer.port)
    pool = pool_at(peer.port, "somewhere")
    with monkeypatch.context() as patched:
        named(patched, "::1", "127.0.0.1")
        connection = await pool.connect()
    assert connection.transport is not None
    assert connection.transport.get_extra_info("peername")[0] == chosen
    await gone(pool, connection)
    if there.server is not None:
        await there.stop()


@needs_ipv6
async def test_a_host_that_is_an_ipv6_address(peer: Peer) -> None:
    there = Peer()
    await there.start("::1")
    pool = Pool(Endpoint.parse(f"http://[::1]:{there.port}/v1"), clock=time.monotonic)
    await gone(pool, await pool.connect())
    await there.stop()


async def left_at_any_moment(pool: Pool, moments: int = 50) -> int:
    """Calls that leave after 0, 1, 2, ... turns of the event loop; how many left too early to have
    a connection. Whatever they had begun has been closed."""
    left = 0
    for turns in range(moments):
        call = asyncio.create_task(pool.connect())
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        (made,) = await asyncio.gather(call, return_exceptions=True)
        if isinstance(made, Connection):
            made.close()
        else:
            assert isinstance(made, asyncio.CancelledError)
            left += 1
        await until(lambda: not pool.size, "it is closed")
        assert pool._connecting == 0
    return left


async def test_a_call_may_leave_the_race_at_any_moment(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = asyncio.all_tasks()
    second = Peer()
    await second.start("127.0.0.2", peer.port)
    monkeypatch.setattr("legato.upstreams.pool.ATTEMPT_DELAY", 0.0)
    with monkeypatch.context() as patched:
        named(patched, "127.0.0.1", "127.0.0.2")
        assert await left_at_any_moment(pool_at(peer.port, "somewhere"))
    await until(lambda: asyncio.all_tasks() == before, "nothing is left")
    await second.stop()


async def test_a_family_without_a_network_hides_no_other_failure() -> None:
    failures: dict[str, OSError] = {
        "::2": OSError(errno.ENETUNREACH, "Network is unreachable"),
        "192.0.2.1": ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        "192.0.2.2": ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    }

    async def one(address: str) -> Any:
        raise failures[address]

    with pytest.raises(ConnectionRefusedError):
        await _first_of(one, list(failures))
    with pytest.raises(OSError, match="unreachable"):
        await _first_of(one, ["::2"])
    with pytest.raises(OSError, match="no address"):
        await _first_of(one, [])


async def test_no_address_works(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pool = pool_at(port, "somewhere")
    with monkeypatch.context() as patched:
        named(patched, "127.0.0.1", "127.0.0.2")
        with pytest.raises(UpstreamError) as caught:
            await pool.connect()
    assert caught.value.code == "upstream_unreachable"
    assert not pool._connecting
