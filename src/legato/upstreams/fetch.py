"""One answer in one piece, over the connections of an upstream's pool."""

import asyncio
import time
from typing import Final

from msgspec import Struct

from legato.core.errors import ApiError, bad_gateway, gateway_timeout
from legato.core.stream import Stream
from legato.fastpath.splice import Splice
from legato.upstreams.connection import StaleConnection
from legato.upstreams.pool import Pool
from legato.upstreams.response import seconds_of

#: Bytes of an answer that are read at most.
LIMIT: Final = 1024 * 1024


class Fetched(Struct, frozen=True):
    """`retry_after`: seconds."""

    status: int
    body: bytes
    retry_after: float | None


async def fetch(pool: Pool, request: bytes, seconds: float) -> Fetched:
    """Sends a request, head and body, and reads the answer. Raises `ApiError` where none comes
    within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            try:
                return await _fetch(pool, request, fresh=False)
            except StaleConnection:
                return await _fetch(pool, request, fresh=True)
    except TimeoutError:
        raise gateway_timeout(f"The upstream gave no answer within {seconds:g} s.") from None


async def _fetch(pool: Pool, request: bytes, *, fresh: bool) -> Fetched:
    connection = (None if fresh else pool.idle()) or await pool.connect()
    answer = _Answer()
    connection.send(request, answer)
    try:
        return await answer.done
    except asyncio.CancelledError:
        connection.release()
        raise


class _Answer:
    """Reads one response (`upstreams.connection.Receiver`)."""

    def __init__(self) -> None:
        self.stream = Stream(time.monotonic, 0.0)  # a connection has one; nothing is pushed
        self.done: asyncio.Future[Fetched] = asyncio.get_running_loop().create_future()
        self._status = 0
        self._retry_after: float | None = None
        self._body = bytearray()

    def head(self, status: int, headers: dict[str, str]) -> None:
        self._status = status
        self._retry_after = seconds_of(headers.get("retry-after"))

    def body(self, data: bytes) -> None:
        if len(self._body) < LIMIT:
            self._body += data[:LIMIT]

    def fast_path(self, body: bytes) -> Splice | None:
        return None

    def complete(self) -> None:
        if not self.done.done():
            self.done.set_result(Fetched(self._status, bytes(self._body), self._retry_after))

    def lost(self, error: ApiError) -> None:
        if not self.done.done():
            if self._status:
                error = bad_gateway("The upstream closed the connection.", code="upstream_cut")
            self.done.set_exception(error)
