"""One connection to an upstream: what it makes of an answer, and what becomes of it then."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from legato.core.errors import UpstreamError
from legato.mock.server import MockServer, Script, Step
from legato.upstreams.connection import HEAD_LIMIT, Connection, StaleConnection
from legato.upstreams.endpoint import Endpoint
from legato.upstreams.pool import Pool
from tests.conftest import serving, settings_for, until
from tests.support.wire import ask, chat


class Peer:
    """Reads requests that end with a blank line, and gives each the next of its answers.

    An answer is bytes; None behind it: the connection is closed.
    """

    def __init__(self) -> None:
        self.answers: list[list[bytes | None]] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.gone = 0
        self.server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._met, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                for part in self.answers.pop(0):
                    if part is None:
                        return
                    writer.write(part)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.gone += 1
            writer.close()

    async def stop(self) -> None:
        assert self.server is not None
        for writer in self.writers:
            writer.transport.abort()
        await until(lambda: self.gone == len(self.writers), "all have gone")
        self.server.close()
        await self.server.wait_closed()


class Reader:
    """Whoever asked."""

    def __init__(self, on_body: Callable[[], None] = lambda: None) -> None:
        self.stream: Any = self
        self.status = 0
        self.headers: dict[str, str] = {}
        self.read = b""
        self.end: UpstreamError | str | None = None
        self._on_body = on_body

    is_behind = False  # of the stream, as is the next

    def flush(self) -> None:
        """Of the stream: nothing waits here."""

    def head(self, status: int, headers: dict[str, str]) -> None:
        assert not self.status
        self.status, self.headers = status, headers

    def body(self, data: bytes) -> None:
        self.read += data
        self._on_body()

    def lane(self, read: bytes) -> None:
        """There is no short cut."""

    def complete(self) -> None:
        assert self.end is None
        self.end = "complete"

    def lost(self, error: UpstreamError) -> None:
        assert self.end is None
        self.end = error


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    await peer.start()
    yield peer
    await peer.stop()


@pytest.fixture
async def pool(peer: Peer) -> AsyncIterator[Pool]:
    pool = Pool(Endpoint("127.0.0.1", peer.port), clock=time.monotonic)
    yield pool
    pool.close()
    await until(lambda: not pool.size, "all are closed")


async def asked(connection: Connection, reader: Reader | None = None) -> Reader:
    """Sends a request; comes back when its answer has ended."""
    reader = reader or Reader()
    connection.send(b"GET / HTTP/1.1\r\n\r\n", reader)
    await until(lambda: reader.end is not None, "the answer has ended")
    return reader


OK = b"HTTP/1.1 200 OK\r\n"
FIVE = OK + b"content-length: 5\r\n\r\nhello"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n"

#: What comes; whether the connection is good for another request.
WHOLE: dict[str, tuple[bytes, bool]] = {
    "a length": (FIVE, True),
    "chunks": (CHUNKED, True),
    "trailers": (CHUNKED[:-2] + b"x-sum: 1\r\n\r\n", True),
    "behind interim answers": (
        b"HTTP/1.1 100 -\r\n\r\nHTTP/1.1 103 -\r\na: b\r\n\r\n" + FIVE,
        True,
    ),
    "it is to be closed": (FIVE.replace(b"\r\n", b"\r\nconnection: close\r\n", 1), False),
    "HTTP/1.0": (FIVE.replace(b"1.1", b"1.0"), False),
    "it is kept for a minute": (FIVE.replace(b"\r\n", b"\r\nkeep-alive: timeout=60\r\n", 1), True),
    "it is kept for a second": (FIVE.replace(b"\r\n", b"\r\nkeep-alive: timeout=1\r\n", 1), False),
    "more than was asked for": (FIVE + FIVE, False),
    "a head as large as it may be": (
        OK + b"x: %b\r\ncontent-length: 5\r\n\r\nhello" % (b"a" * (HEAD_LIMIT - 16)),
        True,
    ),
}


@pytest.mark.parametrize("name", WHOLE)
async def test_a_whole_answer(peer: Peer, pool: Pool, name: str) -> None:
    data, is_kept = WHOLE[name]
    peer.answers.append([data])
    connection = await pool.connect()
    reader = await asked(connection)
    assert (reader.status, reader.read, reader.end) == (200, b"hello", "complete")
    assert pool.idle() is (connection if is_kept else None)
    connection.close()


class Line:
    """A transport of a connection that only reads."""

    def __init__(self) -> None:
        self.closed = False

    def get_extra_info(self, name: str) -> None:
        """It has no socket."""

    def write(self, data: bytes) -> None:
        pass

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def resume_reading(self) -> None:
        pass


@pytest.mark.parametrize("name", [name for name in WHOLE if "large" not in name])
async def test_an_answer_that_comes_byte_by_byte_is_the_same(pool: Pool, name: str) -> None:
    data, is_kept = WHOLE[name]
    connection, line, reader = Connection(pool), Line(), Reader()
    connection.connection_made(line)  # type: ignore[arg-type]
    connection.send(b"", reader)
    for at in range(len(data)):
        connection.data_received(data[at : at + 1])
    assert (reader.status, reader.read, reader.end) == (200, b"hello", "complete")
    assert line.closed is not is_kept
    pool.remove(connection)


#: What comes before the connection is closed; what was read of it, the error and a word of it.
BROKEN: dict[str, tuple[bytes, bytes, str, str]] = {
    "nothing": (b"", b"", "upstream_cut", "closed"),
    "half a head": (OK, b"", "upstream_cut", "closed"),
    "an interim answer": (b"HTTP/1.1 100 -\r\n\r\n", b"", "upstream_cut", "closed"),
    "half a length": (FIVE[:-2], b"hel", "upstream_cut", "closed"),
    "half of the chunks": (CHUNKED[:-9], b"hel", "upstream_cut", "closed"),
    "chunks without the last one": (CHUNKED[:-5], b"hello", "upstream_cut", "closed"),
    "no length at all": (OK + b"\r\nhello", b"hello", "upstream_cut", "closed"),
    "another protocol": (b"SSH-2.0-x\r\n", b"", "upstream_error", "not HTTP"),
    "a chunk's size that is none": (
        OK + b"transfer-encoding: chunked\r\n\r\nx\r\n",
        b"",
        "upstream_error",
        "not HTTP",
    ),
    "an upgrade": (
        b"HTTP/1.1 101 -\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        b"",
        "upstream_error",
        "not HTTP",
    ),
    "a header without an end": (OK + b"x" * HEAD_LIMIT, b"", "upstream_error", "large a head"),
    "a value without an end": (OK + b"x: " + b"y" * HEAD_LIMIT, b"", "upstream_error", "large"),
    "interim answers without an end": (
        b"HTTP/1.1 100 -\r\n\r\n" * HEAD_LIMIT,
        b"",
        "upstream_error",
        "large a head",
    ),
    "too many headers": (OK + b"x: y\r\n" * HEAD_LIMIT, b"", "upstream_error", "large a head"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_an_answer_that_is_not_whole(peer: Peer, pool: Pool, name: str) -> None:
    data, read, code, words = BROKEN[name]
    peer.answers.append([data, None])
    reader = await asked(await pool.connect())
    assert reader.read == read
    assert isinstance(reader.end, UpstreamError)
    assert (reader.end.status, reader.end.code) == (502, code)
    assert words in reader.end.message
    assert not isinstance(reader.end, StaleConnection)
    assert pool.idle() is None


@pytest.mark.parametrize(
    ("received", "is_stale"), [(b"", True), (b"H", False), (b"HTTP/1.1 100 -\r\n\r\n", False)]
)
async def test_a_kept_connection_is_stale_where_nothing_came_back(
    peer: Peer, pool: Pool, received: bytes, is_stale: bool
) -> None:
    peer.answers += [[FIVE], [received, None]]
    connection = await pool.connect()
    assert (await asked(connection)).end == "complete"
    assert pool.idle() is connection
    end = (await asked(connection)).end
    assert isinstance(end, UpstreamError)
    assert isinstance(end, StaleConnection) is is_stale


async def test_trailers_are_not_taken_for_headers_of_the_next_answer(
    peer: Peer, pool: Pool
) -> None:
    peer.answers += [[CHUNKED[:-2] + b"content-encoding: gzip\r\n\r\n"], [FIVE]]
    connection = await pool.connect()
    await asked(connection)
    assert (await asked(connection)).headers == {}


async def test_a_kept_connection_that_its_peer_closes_is_forgotten(peer: Peer, pool: Pool) -> None:
    peer.answers.append([FIVE, None])
    await asked(await pool.connect())
    await until(lambda: not pool.size, "it is closed here too")
    assert pool.idle() is None


async def test_a_kept_connection_on_which_something_is_said_is_closed(
    peer: Peer, pool: Pool
) -> None:
    peer.answers.append([FIVE])
    connection = await pool.connect()
    await asked(connection)
    peer.writers[0].write(FIVE)
    await until(lambda: connection.is_closing, "it is closed")
    assert pool.idle() is None


async def test_one_that_is_released_in_the_middle_is_closed_and_nothing_more_is_told(
    peer: Peer, pool: Pool
) -> None:
    peer.answers.append([FIVE[:-2]])
    connection, reader = await pool.connect(), Reader()
    connection.send(b"GET / HTTP/1.1\r\n\r\n", reader)
    await until(lambda: reader.read == b"hel")
    connection.release()
    await until(lambda: peer.gone == 1, "the peer sees it")
    assert reader.end is None


async def test_one_that_is_released_behind_the_end_stays(peer: Peer, pool: Pool) -> None:
    peer.answers += [[FIVE], [FIVE]]
    connection = await pool.connect()
    await asked(connection)
    connection.release()
    assert pool.idle() is connection
    assert (await asked(connection)).end == "complete"


async def test_one_that_was_held_when_its_answer_ended_reads_on(peer: Peer, pool: Pool) -> None:
    """A slow client holds it in the very read that ends the answer."""
    peer.answers += [[FIVE], [FIVE]]
    connection = await pool.connect()
    assert (await asked(connection, Reader(connection.pause))).end == "complete"
    assert pool.idle() is connection
    assert (await asked(connection)).read == b"hello"


async def test_what_is_held_comes_when_it_is_let_go(peer: Peer, pool: Pool) -> None:
    peer.answers.append([FIVE[:-2]])
    connection, reader = await pool.connect(), Reader()
    connection.send(b"GET / HTTP/1.1\r\n\r\n", reader)
    await until(lambda: reader.read == b"hel")
    connection.pause()
    assert connection.transport is not None
    assert not connection.transport.is_reading()
    peer.writers[0].write(b"lo")
    connection.resume()
    await until(lambda: reader.end == "complete")
    assert reader.read == b"hello"


async def test_a_call_on_a_stale_connection_is_asked_again_once_and_its_client_sees_nothing(
    tmp_path: Path, scripted: MockServer
) -> None:
    happy = Script(steps=[Step(say="x"), Step(finish="stop"), Step(done=True)])
    stale = Script(no_head=True, steps=[Step(cut=True)], then=happy)
    scripted.scripts["stale"] = Script(steps=happy.steps, then=stale)
    settings = settings_for(tmp_path, await scripted.start(), ["stale"])
    async with serving(settings) as legato:
        for attempts in (1, 3):
            answer = await ask(legato.port, legato.key, chat("stale", stream=True))
            assert answer.done
            assert answer.text() == "x"
            assert len(scripted.requests) == attempts
        assert [row["attempts"] for row in await legato.rows()] == [1, 1]
