"""Connections to one upstream: opened, counted, kept for the next request."""

import asyncio
import contextlib
import errno
import functools
import ipaddress
import itertools
import socket
import ssl
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar, cast

from legato.core.errors import UpstreamError, bad_gateway, gateway_timeout, service_unavailable
from legato.upstreams import tls
from legato.upstreams.connection import Connection
from legato.upstreams.endpoint import Endpoint
from legato.upstreams.proxy import Proxy, Tunnel, refused

#: Seconds for which one address is tried alone, before the next one is tried too (RFC 8305, 5).
STAGGER: Final = 0.25

_NO_WAY: Final = (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

P = TypeVar("P", bound=asyncio.BaseProtocol)
Made = tuple[asyncio.BaseTransport, P]


class Pool:
    """At most `max_connections` to one endpoint; a call that finds them all busy waits its turn."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        clock: Callable[[], float],
        context: ssl.SSLContext | None = None,
        proxy: Proxy | None = None,
        connect_seconds: float = 10.0,
        idle_seconds: float = 55.0,
        max_connections: int = 10_000,
        max_idle: int = 256,
    ) -> None:
        self.endpoint = endpoint
        self._clock = clock
        self._context = (context or tls.usual()) if endpoint.tls else None
        self._proxy = proxy
        self._connect_seconds = connect_seconds
        self._idle_seconds = idle_seconds
        self._max_connections = max_connections
        self._max_idle = max_idle
        # Until when each is kept, by the clock; the last kept is the first used again.
        self._idle: dict[Connection, float] = {}
        self._open: set[Connection] = set()
        self._dialing = 0
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None  # set when one is kept
        self._due = 0.0
        self._closed = False

    def __repr__(self) -> str:
        idle = len(self._idle)
        return f"<Pool {self.endpoint.authority}: {len(self._open) - idle} busy, {idle} idle>"

    @property
    def busy(self) -> int:
        return len(self._open) - len(self._idle)

    def idle(self) -> Connection | None:
        """A kept connection that is still good, as far as one can know before asking."""
        now = self._clock()
        found = None
        while self._idle and found is None:
            connection, until = self._idle.popitem()
            if until > now and not connection.is_closing:
                found = connection
            else:
                connection.close()
        return found

    async def connect(self) -> Connection:
        """A fresh connection; or, where there may be no more, one that another call is done with.
        Raises `UpstreamError` where there is none to be had in time."""
        has_turn = False
        try:
            async with asyncio.timeout(self._connect_seconds):
                if not self._is_full:
                    self._dialing += 1
                elif (kept := await self._turn()) is not None:
                    return kept
                has_turn = True
                return await self._fresh()
        except TimeoutError:
            seconds = f"within {self._connect_seconds:g} s"
            if not has_turn:
                raise service_unavailable(
                    f"All connections to the upstream are busy; none came free {seconds}.",
                    code="upstream_busy",
                ) from None
            raise gateway_timeout(
                f"The upstream took no connection {seconds}.", code="upstream_connect_timeout"
            ) from None
        except (OSError, UnicodeError) as error:
            raise _failure(error) from None

    @property
    def _is_full(self) -> bool:
        return len(self._open) + self._dialing >= self._max_connections

    async def _turn(self) -> Connection | None:
        """Waits until one more may be opened (None, and it is counted), or one is handed over."""
        while self._is_full:
            if self._idle:  # none of these was wanted; the oldest makes room
                oldest = next(iter(self._idle))
                del self._idle[oldest]  # the next call that waits takes another one
                oldest.close()
            turn: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                kept = await turn
            except asyncio.CancelledError:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(turn)
                if not turn.cancelled():
                    self._hand_back(turn.result())
                raise
            if kept is None or not kept.is_closing:
                return kept
        self._dialing += 1
        return None

    def _hand_back(self, kept: Connection | None) -> None:
        """The one whose turn it was has left."""
        if kept is None:
            self._dialing -= 1
            self._free()
        elif not kept.is_closing:
            self.keep(kept)

    def _free(self) -> None:
        """One more may be opened."""
        turn = self._next()
        if turn is not None:
            self._dialing += 1
            turn.set_result(None)

    def _next(self) -> "asyncio.Future[Connection | None] | None":
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                return turn
        return None

    async def _fresh(self) -> Connection:
        try:
            connection = await (self._through(self._proxy) if self._proxy else self._direct())
            if connection.is_closing:
                raise bad_gateway("The upstream closed the connection.", code="upstream_cut")
        except BaseException:
            self._dialing -= 1
            self._free()
            raise
        self._dialing -= 1
        self._open.add(connection)
        return connection

    async def _direct(self) -> Connection:
        where = self.endpoint
        made = await dial(lambda: Connection(self), where.host, where.port, self._context)
        return made[1]

    async def _through(self, proxy: Proxy) -> Connection:
        loop = asyncio.get_running_loop()
        host = self.endpoint.host
        behind = f"[{host}]:{self.endpoint.port}" if ":" in host else f"{host}:{self.endpoint.port}"
        try:
            transport, tunnel = await dial(lambda: Tunnel(proxy, behind), proxy.host, proxy.port)
        except (OSError, UnicodeError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise refused("it cannot be reached") from None
        connection = Connection(self)
        try:
            await tunnel.opened
            if transport.is_closing():
                raise refused("it closed the connection")
            if self._context is None:
                transport.set_protocol(connection)
                connection.connection_made(transport)
            else:
                wrapped = await loop.start_tls(
                    cast(asyncio.WriteTransport, transport),
                    connection,
                    self._context,
                    server_hostname=host,
                )
                assert wrapped is not None
                connection.connection_made(wrapped)
        except BaseException:
            _abort(transport)
            raise
        return connection

    def keep(self, connection: Connection) -> None:
        seconds = min(self._idle_seconds, connection.keep_seconds)
        if self._closed or seconds <= 0:
            connection.close()
        elif self._waiting and (turn := self._next()) is not None:
            turn.set_result(connection)
        elif len(self._idle) >= self._max_idle:
            connection.close()
        else:
            until = self._idle[connection] = self._clock() + seconds
            if self._timer is None or until < self._due:
                self._set_timer(until)

    def forget(self, connection: Connection) -> None:
        self._idle.pop(connection, None)
        if connection in self._open:
            self._open.discard(connection)
            self._free()

    def close(self) -> None:
        """Closes the idle ones now; the busy ones when they are done."""
        self._closed = True
        self._stop_timer()
        for connection in list(self._idle):
            connection.close()

    # The timer is left alone where a kept connection is used again, and looks about when it comes:
    # to stop it and to set another would cost each call two microseconds.

    def _set_timer(self, due: float) -> None:
        self._stop_timer()
        self._due = due
        wait = max(due - self._clock(), 0.001)
        self._timer = asyncio.get_running_loop().call_later(wait, self._expire)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        now = self._clock()
        for connection in [each for each, until in self._idle.items() if until <= now]:
            del self._idle[connection]
            connection.close()
        if self._idle:
            self._set_timer(min(self._idle.values()))


async def dial(
    factory: Callable[[], P], host: str, port: int, context: ssl.SSLContext | None = None
) -> Made[P]:
    """A connection to the first of a host's addresses that takes one. Raises OSError.

    This is here because uvloop's `create_connection` tries one address after the other.
    """
    loop = asyncio.get_running_loop()
    name = host if context is not None else None

    def one(address: str) -> Coroutine[Any, Any, Made[P]]:
        return loop.create_connection(factory, address, port, ssl=context, server_hostname=name)

    if _is_address(host):
        return await one(host)
    addresses = await _addresses(host, port)
    if len(addresses) == 1:
        return await one(addresses[0])
    return await _race(one, addresses)


async def _race(
    one: Callable[[str], Coroutine[Any, Any, Made[P]]], addresses: list[str]
) -> Made[P]:
    running: set[asyncio.Task[Made[P]]] = set()
    left = deque(addresses)
    problems: list[BaseException] = []
    try:
        while left or running:
            if left:
                running.add(asyncio.create_task(one(left.popleft())))
            done, _ = await asyncio.wait(
                running,
                timeout=STAGGER if left else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for each in done:
                running.discard(each)
                error = each.exception()
                if error is None:
                    return each.result()
                problems.append(error)
        raise min(problems, key=_is_no_way, default=OSError("it has no address"))
    finally:
        for each in running:
            each.add_done_callback(_drop)
            each.cancel()


def _is_no_way(error: BaseException) -> bool:
    """There is no network for an address of this family, which tells nothing of the peer."""
    return isinstance(error, OSError) and error.errno in _NO_WAY


def _drop(loser: "asyncio.Task[Made[P]]") -> None:
    if not loser.cancelled() and loser.exception() is None:
        _abort(loser.result()[0])


def _abort(transport: asyncio.BaseTransport) -> None:
    cast(asyncio.Transport, transport).abort()


async def _addresses(host: str, port: int) -> list[str]:
    """Each of a host's once, the families in turn, that of the first one first (RFC 8305, 4)."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    families: dict[int, dict[str, None]] = {}
    for family, _, _, _, at in found:
        families.setdefault(family, {})[str(at[0])] = None
    rounds = itertools.zip_longest(*families.values())
    return [address for each in rounds for address in each if address is not None]


@functools.lru_cache(256)
def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _failure(error: OSError | UnicodeError) -> UpstreamError:
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "verify_message", None) or error.reason or "handshake failed"
        return bad_gateway(f"The upstream's TLS failed: {reason}.", code="upstream_tls")
    if isinstance(error, UnicodeError):
        reason = "no such host"
    else:
        # Of one that closes in the midst of the handshake both event loops say nothing at all.
        reason = error.strerror or str(error) or "it hung up in the TLS handshake"
    return bad_gateway(f"The upstream cannot be reached: {reason}.", code="upstream_unreachable")
