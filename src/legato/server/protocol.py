"""The HTTP protocol of the server: one connection of a client.

Native endpoints (`context.NATIVE`) are answered without ASGI: their frames go from an upstream's
callback straight to the transport. Everything else goes to uvicorn's request-response cycle and the
ASGI application. Both are exchanges behind one interface, answered in the order of their requests;
headers, body, the time to send a request, idle time and the number of connections are limited for
both.

uvicorn's own protocol is not the base class: it keeps five kilobytes for a connection, most of them
for what a stream never needs.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.utils import get_remote_addr, is_ssl
from uvicorn.server import ServerState

from legato.core.errors import ApiError
from legato.core.timers import Timer
from legato.gateway.call import new_request_id
from legato.gateway.services import Services
from legato.server.asgi import AsgiExchange, Headers
from legato.server.context import DEFAULT, NATIVE, ServerContext
from legato.server.cors import Cors
from legato.server.exchange import (
    DISCARD_BYTES,
    STATUS_LINES,
    Exchange,
    NativeExchange,
    too_large,
)
from legato.server.limits import Limits
from legato.server.pipelining import Pipeline
from legato.server.preflight import Preflight
from legato.server.reader import RequestReader

#: Bytes of requests that may wait behind a running answer before reading stops.
PIPELINE_BYTES: Final = 256 * 1024

#: Seconds for which a peer that was refused is still read from.
DISCARD_SECONDS: Final = 5.0


def protocols(services: Services, limits: Limits) -> Callable[..., "LegatoProtocol"]:
    """Makes the protocol of each connection, as uvicorn asks for it."""
    context: ServerContext | None = None

    def make(
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> LegatoProtocol:
        nonlocal context
        if context is None:
            cors = Cors(limits.cors_origins)
            context = ServerContext(services, limits, cors, server_state, config.loaded_app)
        return LegatoProtocol(context)

    return make


class LegatoProtocol(asyncio.Protocol):
    """One connection of a client."""

    __slots__ = (
        "_body_size",
        "_closes",
        "_discard_limit",
        "_discarded",
        "_ended",
        "_idle_since",
        "_is_slow",
        "_piped",
        "_pipeline",
        "_read_paused",
        "_reader",
        "_timer",
        "_unsent",
        "_writable",
        "context",
        "is_secure",
        "transport",
        "write_paused",
    )

    transport: asyncio.Transport

    def __init__(self, context: ServerContext) -> None:
        self.context = context
        self.is_secure = False
        self.write_paused = False
        self._pipeline = Pipeline()
        self._reader: RequestReader | None = None  # while a request is read: a kilobyte or two
        self._body_size = 0  # of the request being read
        self._ended: list[Exchange] | None = None  # those whose body ended in this read
        self._timer = Timer(self._check_idle)
        self._is_slow = False  # a timer for a request that takes its time is set
        self._closes = False  # no more requests are taken from this connection
        self._discarded = 0
        self._discard_limit = DISCARD_BYTES
        self._piped = 0  # bytes of requests that wait behind the answer in hand
        self._idle_since: float | None = None
        self._read_paused = False
        self._unsent = 0  # bytes of the last answer, when that was last looked at
        self._writable: asyncio.Event | None = None  # while somebody waits for it

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.is_secure = is_ssl(self.transport)
        context = self.context
        connections, limits = context.state.connections, context.limits
        connections.add(self)  # type: ignore[arg-type]
        now = self._idle_since = context.services.clock()
        first = min(limits.request_seconds, limits.idle_seconds)
        context.services.timers.watch(now + first, self._timer)
        if len(connections) > limits.connections:
            self.refuse(ApiError(503, "too_many_connections", "The server is at its limit."))

    def connection_lost(self, exc: Exception | None) -> None:
        self.context.state.connections.discard(self)  # type: ignore[arg-type]
        self._pipeline.drop()
        self.resume_writing()
        self._idle_since = self._ended = self._timer.check = None
        self._drop_reader()

    def data_received(self, data: bytes) -> None:
        if self._closes:
            self._discarded += len(data)
            if self._discarded > self._discard_limit:
                self.transport.abort()
            return
        self._idle_since = None
        reader = self._reader = self._reader or self._new_reader()
        try:
            reader.feed(data)
        except httptools.HttpParserError:
            self.refuse(ApiError(400, "invalid_http", "This is not an HTTP/1.1 request."))
            return
        if self._pipeline.is_waiting:
            self._piped += len(data)
            if self._piped > PIPELINE_BYTES:
                self.pause_reading()
        if reader.begun is None:
            self._drop_reader()
        elif not self._is_slow and not self._closes:
            self._is_slow = True
            due = reader.begun + self.context.limits.request_seconds
            self.context.services.timers.watch(due, self._check_request)
        # Nothing of a call runs inside a callback of the parser.
        ended, self._ended = self._ended, None
        for exchange in ended or ():
            exchange.end()

    def _new_reader(self) -> RequestReader:
        return RequestReader(self, self.context.services.clock, self.context.limits.header)

    def _drop_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def eof_received(self) -> None:
        return None  # the transport closes itself: a peer that sends no more is gone

    def pause_writing(self) -> None:
        self.write_paused = True
        if self._pipeline.current is not None:
            self._pipeline.current.pause()

    def resume_writing(self) -> None:
        self.write_paused = False
        writable, self._writable = self._writable, None
        if writable is not None:
            writable.set()
        if self._pipeline.current is not None:
            self._pipeline.current.resume()

    # From the reader

    def read_head(self, reader: RequestReader, headers: Headers) -> None:
        if self._closes:
            return
        self._body_size = 0
        parser = reader.parser
        is_old, method = parser.get_http_version() == "1.0", parser.get_method()
        if not is_old and b"host" not in [name for name, _ in headers]:
            self.refuse(ApiError(400, "invalid_http", "The request has no Host header."))
            return
        keep_alive = not is_old and parser.should_keep_alive()
        exchange: Exchange
        if (front := NATIVE.get((method, reader.path))) is not None:
            exchange = NativeExchange(
                self, front, headers, keep_alive=keep_alive, chunked=not is_old
            )
            exchange.admit(headers)
        elif method == b"OPTIONS" and (answer := self.context.cors.preflight(headers)) is not None:
            exchange = Preflight(self, answer, keep_alive=keep_alive)
        else:
            exchange = AsgiExchange(self, parser, reader.url, headers)
        self._pipeline.add(exchange)

    def read_body(self, data: bytes) -> None:
        exchange = self._pipeline.last
        if self._closes or exchange is None:
            return
        self._body_size += len(data)
        if self._body_size > self.context.limits.body and not exchange.is_over:
            self.refuse(too_large(self.context.limits.body))
        else:
            exchange.append(data)

    def read_end(self) -> None:
        exchange = self._pipeline.last
        if not self._closes and exchange is not None:
            self._ended = [*(self._ended or ()), exchange]

    # Exchanges

    @property
    def is_behind_proxy(self) -> bool:
        """Whether the peer is a proxy that is trusted."""
        peer = get_remote_addr(self.transport)
        return peer is not None and peer[0] in self.context.limits.trusted_proxies

    def answered(self, exchange: Exchange) -> None:
        """An answer is complete: the next request's turn, or idle, or the end."""
        self.context.state.total_requests += 1
        self._unsent = self.transport.get_write_buffer_size()
        if self.transport.is_closing():
            self._pipeline.current = None
        elif not exchange.keep_alive or self._closes:
            self._pipeline.current = None
            self._closes = True
            self._idle_since = self.context.services.clock()  # it may take its time to read
            self.transport.close()
        else:
            self._piped = 0
            self.resume_reading()
            if not self._pipeline.advance():
                self._idle_since = self.context.services.clock()

    def close_after_refusal(self, limit: int) -> None:
        self._pipeline.current = None
        self._discard_limit = limit
        self._linger()

    def shutdown(self) -> None:
        """No new requests; the one that is being answered is finished."""
        if self._pipeline.current is None:
            self.transport.close()
        else:
            self._pipeline.current.keep_alive = False

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

    # Limits

    def _check_request(self, now: float) -> float | None:
        begun = self._reader.begun if self._reader is not None else None
        if begun is None or self._closes:
            self._is_slow = False
            return None
        seconds = self.context.limits.request_seconds
        if now < begun + seconds:
            return begun + seconds
        message = f"The request did not arrive within {seconds:g} s."
        self.refuse(ApiError(408, "request_timeout", message))
        return None

    def _check_idle(self, now: float) -> float | None:
        limit, unsent = self.context.limits.idle_seconds, self.transport.get_write_buffer_size()
        if not unsent and self.transport.is_closing():
            return None
        if self._idle_since is None:
            return now + limit
        if unsent != self._unsent:  # it is still reading the last answer, or was until now
            self._unsent, self._idle_since = unsent, now
        if now < self._idle_since + limit:
            return self._idle_since + limit
        # What a peer does not read would keep a closed transport open for ever.
        (self.transport.abort if unsent else self.transport.close)()
        return None

    def refuse(self, error: ApiError) -> None:
        """Answers a request that cannot be read, and takes no more from this connection."""
        if self._closes:
            return
        self._closes = True
        current, reader = self._pipeline.current, self._reader
        if current is not None and (current is not self._pipeline.last or current.is_started):
            current.keep_alive = False  # its answer goes on; then the connection ends
            return
        front = reader.front if reader is not None else DEFAULT
        body = front.render_error(error)
        lines = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        lines += b"x-request-id: %b\r\nconnection: close\r\n" % new_request_id().encode()
        cors = self.context.cors.lines(reader.origin if reader is not None else None)
        self.transport.write(b"".join((STATUS_LINES[error.status], lines, cors, b"\r\n", body)))
        if current is not None:
            current.refused()
            self._pipeline.current = None
        self._linger()

    def _linger(self) -> None:
        """Closes our side, reads on for a while so that the peer can read our answer."""
        self._closes = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
            timers, now = self.context.services.timers, self.context.services.clock()
            timers.watch(now + DISCARD_SECONDS, self._check_linger)
        else:
            self.transport.close()

    def _check_linger(self, now: float) -> None:
        if not self.transport.is_closing():
            self.transport.abort()
