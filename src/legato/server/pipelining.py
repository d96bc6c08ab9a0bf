"""The requests of one connection, answered in the order in which they came."""

import asyncio
from typing import Any, Final

from msgspec import Struct
from uvicorn.protocols.utils import get_remote_addr
from uvicorn.server import ServerState

from legato.gateway.services import Services
from legato.server.exchange import ChatExchange
from legato.server.limits import Limits

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class House(Struct):
    """What all connections of one server share."""

    services: Services
    limits: Limits
    state: ServerState
    app: Any  # ASGI
    _headers: list[tuple[bytes, bytes]] | None = None  # uvicorn makes others every second
    _lines: bytes = b""

    @property
    def usual(self) -> bytes:
        """The headers of every answer, as they are sent."""
        headers = self.state.default_headers
        if headers is not self._headers:
            self._headers = headers
            self._lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        return self._lines


class Turns(asyncio.Protocol):
    """One connection of a client, from the side of its answers."""

    __slots__ = (
        "_current",
        "_cycle",
        "_house",
        "_idle_since",
        "_over",
        "_piped",
        "_pipeline",
        "_read_paused",
        "_unsent",
        "_writable",
        "is_secure",
        "limits",
        "services",
        "transport",
        "write_paused",
    )

    transport: asyncio.Transport

    def __init__(self, house: House) -> None:
        self._house = house
        self.services = house.services
        self.limits = house.limits
        self._current: Any = None  # the cycle whose answer is being made
        self._cycle: Any = None  # of the last request that was read
        self._pipeline: list[Any] | None = None  # cycles that wait for their turn
        self._piped = 0  # bytes of requests that wait behind the answer in hand
        self._idle_since: float | None = None
        self._over = False  # no more requests are taken from this connection
        self._read_paused = False
        self._unsent = 0  # of the last answer, when that was last looked at
        self._writable: asyncio.Event | None = None  # while somebody waits for it
        self.write_paused = False
        self.is_secure = False

    @property
    def usual(self) -> bytes:
        return self._house.usual

    @property
    def is_behind_proxy(self) -> bool:
        """Whether the peer is a proxy whose word counts."""
        peer = get_remote_addr(self.transport)
        return peer is not None and peer[0] in self.limits.trusted_proxies

    @property
    def running(self) -> set[Any]:
        """What makes an answer, on any connection."""
        return self._house.state.tasks

    def answered(self, cycle: Any) -> None:
        """An answer is complete: the next request's turn, or idle, or the end."""
        self._house.state.total_requests += 1
        self._current = None
        self._unsent = self.transport.get_write_buffer_size()
        if self.transport.is_closing():
            return
        if not cycle.keep_alive or self._over:
            self._over = True
            self._idle_since = self.services.clock()  # it may take its time to read the answer
            self.transport.close()
            return
        self._piped = 0
        if self._read_paused:
            self.resume_reading()
        if self._pipeline:
            # In another turn: one that is refused is answered at once, and there may be many.
            self._current = cycle = self._pipeline.pop(0)
            asyncio.get_running_loop().call_soon(self._take_turn, cycle)
        else:
            self._idle_since = self.services.clock()

    def on_response_complete(self) -> None:
        """uvicorn's own cycle is done."""
        if self._current is not None:
            self.answered(self._current)

    def shutdown(self) -> None:
        """No new requests; the one that is being answered is finished."""
        if self._current is None:
            self.transport.close()
        else:
            self._current.keep_alive = False

    def _queue(self, cycle: Any) -> None:
        self._cycle = cycle
        if self._current is None:
            self._take_turn(cycle)
        elif self._pipeline is None:
            self._pipeline = [cycle]
        else:
            self._pipeline.append(cycle)

    def _take_turn(self, cycle: Any) -> None:
        if cycle.disconnected or cycle.response_complete:
            return  # since it was its turn
        self._current = cycle
        if not isinstance(cycle, ChatExchange):
            task = asyncio.get_running_loop().create_task(cycle.run_asgi(self._house.app))
            self.running.add(task)
            task.add_done_callback(self.running.discard)
            return
        if cycle.expects_continue and cycle.more_body:
            self.transport.write(_CONTINUE)
        if not cycle.more_body and not cycle.started:
            cycle.begin()

    def pause_writing(self) -> None:
        self.write_paused = True
        if isinstance(self._current, ChatExchange):
            self._current.pause()

    def resume_writing(self) -> None:
        self.write_paused = False
        writable, self._writable = self._writable, None
        if writable is not None:
            writable.set()
        if isinstance(self._current, ChatExchange):
            self._current.resume()

    # What an answer of the ASGI application asks for (`cold.Flow`)

    async def drain(self) -> None:
        if self.write_paused:
            self._writable = self._writable or asyncio.Event()
            await self._writable.wait()

    def pause_reading(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._read_paused:
            self._read_paused = False
            self.transport.resume_reading()
