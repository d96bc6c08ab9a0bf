"""Connection pool of one upstream: opens connections, limits them, and reuses idle ones."""

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
from legato.upstreams.proxy import Proxy, Tunnel, proxy_error

#: Seconds between connection attempts to the addresses of a host (RFC 8305, section 5).
ATTEMPT_DELAY: Final = 0.25

_UNREACHABLE: Final = (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

P = TypeVar("P", bound=asyncio.BaseProtocol)
Connected = tuple[asyncio.BaseTransport, P]


class Pool:
    """Connections to one endpoint. At most `max_connections` are open; when all are busy, callers
    wait in a queue, first in, first out."""

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
        self._context = (context or tls.default_context()) if endpoint.tls else None
        self._proxy = proxy
        self._connect_seconds = connect_seconds
        self._idle_seconds = idle_seconds
        self._max_connections = max_connections
        self._max_idle = max_idle
        # Idle connections with their expiry times; the most recent is reused first.
        self._idle: dict[Connection, float] = {}
        self._open: set[Connection] = set()
        self._connecting = 0
        # Each future resolves to an idle connection, or to None: a new one may be opened.
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None  # for the first expiry of an idle connection
        self._timer_due = 0.0
        self._closed = False

    def __repr__(self) -> str:
        return f"<Pool {self.endpoint.authority}: {self.busy} busy, {len(self._idle)} idle>"

    @property
    def size(self) -> int:
        """Open connections, busy and idle."""
        return len(self._open)

    @property
    def busy(self) -> int:
        return len(self._open) - len(self._idle)

    @property
    def waiting(self) -> int:
        """Calls that wait for a connection."""
        return len(self._waiting)

    def idle(self) -> Connection | None:
        """An idle connection, removed from the pool, or None. The upstream may have closed it
        unnoticed: only the next request shows."""
        now = self._clock()
        while self._idle:
            connection, expires_at = self._idle.popitem()
            if expires_at > now and not connection.is_closing:
                return connection
            connection.close()
        return None

    async def connect(self) -> Connection:
        """Opens a connection. If the pool is full, waits for a slot or a released connection.

        Raises `UpstreamError` if there is none within `connect_seconds`.
        """
        has_slot = False
        try:
            async with asyncio.timeout(self._connect_seconds):
                if not self._is_full:
                    self._connecting += 1
                elif (released := await self._wait_slot()) is not None:
                    return released
                has_slot = True
                return await self._open_new()
        except TimeoutError:
            seconds = f"within {self._connect_seconds:g} s"
            if not has_slot:
                raise service_unavailable(
                    f"All connections to the upstream are busy; none was released {seconds}.",
                    code="upstream_busy",
                ) from None
            raise gateway_timeout(
                f"The upstream accepted no connection {seconds}.", code="upstream_connect_timeout"
            ) from None
        except (OSError, UnicodeError) as error:
            raise _connect_error(error) from None

    @property
    def _is_full(self) -> bool:
        return len(self._open) + self._connecting >= self._max_connections

    async def _wait_slot(self) -> Connection | None:
        """Waits for a released connection, or for a free slot (None; `_connecting` includes it)."""
        while self._is_full:
            if self._idle:  # the caller needs a new connection: the oldest idle one makes room
                oldest = next(iter(self._idle))
                del self._idle[oldest]  # the next waiting call closes another one
                oldest.close()
            slot: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
            self._waiting.append(slot)
            try:
                released = await slot
            except asyncio.CancelledError:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(slot)
                if not slot.cancelled():
                    self._pass_on(slot.result())
                raise
            if released is None or not released.is_closing:
                return released
        self._connecting += 1
        return None

    def _pass_on(self, released: Connection | None) -> None:
        """Passes a slot or a connection on: the call that it was given to was cancelled."""
        if released is None:
            self._connecting -= 1
            self._offer_slot()
        elif not released.is_closing:
            self.keep(released)

    def _offer_slot(self) -> None:
        """A connection fewer is open: the first call in the queue may open one."""
        slot = self._next_waiting()
        if slot is not None:
            self._connecting += 1
            slot.set_result(None)

    def _next_waiting(self) -> "asyncio.Future[Connection | None] | None":
        while self._waiting:
            slot = self._waiting.popleft()
            if not slot.done():
                return slot
        return None

    async def _open_new(self) -> Connection:
        try:
            proxy = self._proxy
            connection = await (self._connect_through(proxy) if proxy else self._connect_directly())
            if connection.is_closing:
                raise bad_gateway("The upstream closed the connection.", code="upstream_cut")
        except BaseException:
            self._connecting -= 1
            self._offer_slot()
            raise
        self._connecting -= 1
        self._open.add(connection)
        return connection

    async def _connect_directly(self) -> Connection:
        endpoint = self.endpoint
        _, connection = await connect(
            lambda: Connection(self), endpoint.host, endpoint.port, self._context
        )
        return connection

    async def _connect_through(self, proxy: Proxy) -> Connection:
        loop = asyncio.get_running_loop()
        host, port = self.endpoint.host, self.endpoint.port
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            transport, tunnel = await connect(
                lambda: Tunnel(proxy, authority), proxy.host, proxy.port
            )
        except (OSError, UnicodeError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise proxy_error("it cannot be reached") from None
        connection = Connection(self)
        try:
            await tunnel.opened
            if transport.is_closing():
                raise proxy_error("it closed the connection")
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
        """Takes a connection back that is good for another request."""
        seconds = min(self._idle_seconds, connection.keep_seconds)
        if self._closed or seconds <= 0:
            connection.close()
        elif self._waiting and (slot := self._next_waiting()) is not None:
            slot.set_result(connection)
        elif len(self._idle) >= self._max_idle:
            connection.close()
        else:
            expires_at = self._idle[connection] = self._clock() + seconds
            if self._timer is None or expires_at < self._timer_due:
                self._set_timer(expires_at)

    def remove(self, connection: Connection) -> None:
        """Removes a connection that was closed."""
        self._idle.pop(connection, None)
        if connection in self._open:
            self._open.discard(connection)
            self._offer_slot()

    def close(self) -> None:
        """Closes idle connections now, busy ones when their requests end."""
        self._closed = True
        self._stop_timer()
        for connection in list(self._idle):
            connection.close()

    # Reusing an idle connection does not reset the timer; `_expire` checks all expiry times.
    # Stopping and restarting the timer would cost each call two microseconds.

    def _set_timer(self, due: float) -> None:
        self._stop_timer()
        self._timer_due = due
        delay = max(due - self._clock(), 0.001)
        self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        now = self._clock()
        for connection in [each for each, at in self._idle.items() if at <= now]:
            del self._idle[connection]
            connection.close()
        if self._idle:
            self._set_timer(min(self._idle.values()))


async def connect(
    factory: Callable[[], P], host: str, port: int, context: ssl.SSLContext | None = None
) -> Connected[P]:
    """Connects to the first address of a host that accepts (Happy Eyeballs). Raises OSError.

    Implemented here because uvloop's `create_connection` tries one address after the other.
    """
    loop = asyncio.get_running_loop()
    server_name = host if context is not None else None

    def attempt(address: str) -> Coroutine[Any, Any, Connected[P]]:
        return loop.create_connection(
            factory, address, port, ssl=context, server_hostname=server_name
        )

    if _is_address(host):
        return await attempt(host)
    addresses = await _addresses(host, port)
    if len(addresses) == 1:
        return await attempt(addresses[0])
    return await _first_of(attempt, addresses)


async def _first_of(
    attempt: Callable[[str], Coroutine[Any, Any, Connected[P]]], addresses: list[str]
) -> Connected[P]:
    """Starts an attempt to each address, `ATTEMPT_DELAY` apart; returns the first connection."""
    running: set[asyncio.Task[Connected[P]]] = set()
    remaining = deque(addresses)
    errors: list[BaseException] = []
    try:
        while remaining or running:
            if remaining:
                running.add(asyncio.create_task(attempt(remaining.popleft())))
            done, _ = await asyncio.wait(
                running,
                timeout=ATTEMPT_DELAY if remaining else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                running.discard(task)
                error = task.exception()
                if error is None:
                    return task.result()
                errors.append(error)
        raise min(errors, key=_is_unreachable, default=OSError("the host has no address"))
    finally:
        for task in running:
            task.add_done_callback(_close_late)
            task.cancel()


def _is_unreachable(error: BaseException) -> bool:
    """Whether this machine has no route for the address family, which says nothing about the
    host."""
    return isinstance(error, OSError) and error.errno in _UNREACHABLE


def _close_late(task: "asyncio.Task[Connected[P]]") -> None:
    """Closes the connection of an attempt that succeeded after another one was chosen."""
    if not task.cancelled() and task.exception() is None:
        _abort(task.result()[0])


def _abort(transport: asyncio.BaseTransport) -> None:
    cast(asyncio.Transport, transport).abort()


async def _addresses(host: str, port: int) -> list[str]:
    """The distinct addresses of a host; the families alternate, starting with the resolver's first
    choice (RFC 8305, section 4)."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    families: dict[int, dict[str, None]] = {}
    for family, _, _, _, address in infos:
        families.setdefault(family, {})[str(address[0])] = None
    rounds = itertools.zip_longest(*families.values())
    return [address for each in rounds for address in each if address is not None]


@functools.lru_cache(256)
def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _connect_error(error: OSError | UnicodeError) -> UpstreamError:
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "verify_message", None) or error.reason or "handshake failed"
        return bad_gateway(f"TLS with the upstream failed: {reason}.", code="upstream_tls")
    if isinstance(error, UnicodeError):
        reason = "no such host"
    else:
        # Both event loops raise an empty error if the peer closes during the TLS handshake.
        reason = error.strerror or str(error) or "it closed the connection in the TLS handshake"
    return bad_gateway(f"The upstream cannot be reached: {reason}.", code="upstream_unreachable")
