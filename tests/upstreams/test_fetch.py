"""Answers in one piece over the connections of a pool."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from legato.core.errors import UpstreamError
from legato.upstreams.endpoint import Endpoint
from legato.upstreams.fetch import LIMIT, Fetched, fetch
from legato.upstreams.pool import Pool
from tests.conftest import until

REQUEST = b"POST /count HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Peer:
    """Plays its answers in turn; None: it says nothing. `closes`: it closes behind each."""

    def __init__(self, *answers: bytes | None, closes: bool = False) -> None:
        self.answers = list(answers)
        self.closes = closes
        self.connections = 0
        self.writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(writer)
        try:
            while await reader.readuntil(b"{}"):
                answer = self.answers.pop(0)
                if answer is not None:
                    writer.write(answer)
                    await writer.drain()
                if self.closes:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()


@asynccontextmanager
async def pool_to(peer: Peer) -> AsyncIterator[Pool]:
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = Pool(Endpoint("127.0.0.1", port), clock=time.monotonic)
    try:
        yield pool
        await until(lambda: pool.busy == 0, "connections are given back")
    finally:
        pool.close()
        server.close()
        await until(lambda: not peer.writers, "the peer's side is closed")
        await server.wait_closed()


async def test_an_answer() -> None:
    later = b"HTTP/1.1 429 -\r\nretry-after: 3\r\ntransfer-encoding: chunked\r\n\r\n"
    later += b"2\r\n{}\r\n0\r\n\r\n"
    peer = Peer(OK, later)
    async with pool_to(peer) as pool:
        assert await fetch(pool, REQUEST, 5) == Fetched(200, b"{}", None)
        assert await fetch(pool, REQUEST, 5) == Fetched(429, b"{}", 3.0)
    assert peer.connections == 1, "the connection is kept"


async def test_a_kept_connection_that_was_closed() -> None:
    peer = Peer(OK, None, OK, closes=False)
    async with pool_to(peer) as pool:
        await fetch(pool, REQUEST, 5)
        peer.closes = True  # behind the request that comes next, unanswered
        assert await fetch(pool, REQUEST, 5) == Fetched(200, b"{}", None)
    assert peer.connections == 2


@pytest.mark.parametrize(
    ("answer", "code"),
    [(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", "upstream_cut"), (b"x", "upstream_error")],
)
async def test_an_answer_that_breaks(answer: bytes, code: str) -> None:
    async with pool_to(Peer(answer, closes=True)) as pool:
        with pytest.raises(UpstreamError) as caught:
            await fetch(pool, REQUEST, 5)
    assert caught.value.code == code


async def test_no_answer_in_time() -> None:
    async with pool_to(Peer(None)) as pool:
        with pytest.raises(UpstreamError, match=r"no answer within 0\.05 s"):
            await fetch(pool, REQUEST, 0.05)


async def test_nobody_is_there() -> None:
    pool = Pool(Endpoint("127.0.0.1", 9), clock=time.monotonic)
    with pytest.raises(UpstreamError, match="cannot be reached"):
        await fetch(pool, REQUEST, 5)


async def test_an_answer_without_an_end_is_not_kept_whole() -> None:
    body = b"x" * (LIMIT + 200_000)
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with pool_to(Peer(head + body)) as pool:
        found = await fetch(pool, REQUEST, 5)
    assert LIMIT <= len(found.body) < len(body)
