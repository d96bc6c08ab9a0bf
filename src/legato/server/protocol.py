"""The HTTP protocol of the server: one connection of a client.

Native endpoints (`context.NATIVE`) are answered without ASGI: their frames go from an upstream's
callback straight to the transport. Everything else goes to uvicorn's request-response cycle and the
ASGI application; the answers to preflights and the refusals are static. All are exchanges behind
one interface, answered in the order of their requests; headers, body, the time to send a request,
idle time and the number of connections are limited for all.

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

from legato.core.errors import ApiError, internal
from legato.core.timers import Timer
from legato.gateway.services import Services
from legato.server.context import ServerContext, front_at
from legato.server.cors import Cors
from legato.server.exchange import DISCARD_BYTES, Exchange
from legato.server.limits import Limits, too_large
from legato.server.pipelining import Pipeline
from legato.server.reader import RequestHead, RequestReader, not_http
from legato.server.selection import exchange_for
from legato.server.static import StaticExchange

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
        "_accepts",
        "_body_size",
        "_discard_limit",
        "_discarded",
        "_ended",
        "_idle_since",
        "_is_done",
        "_new",
        "_piped",
        "_pipeline",
        "_read_paused",
        "_reader",
        "_reading",
        "_refusal",
        "_request_timer",
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
        self._reading: Exchange | None = None  # of the request whose body is being read
        self._body_size = 0  # of that request
        self._new: list[Exchange] | None = None  # those whose head came in this read
        self._ended: Exchange | None = None  # one that is not new, whose body ended in this read
        self._refusal: StaticExchange | None = None  # of what came in this read
        self._accepts = True  # requests are taken from this connection
        self._is_done = False  # nothing more is sent
        self._timer = Timer(self._check_idle)
        self._request_timer: Timer | None = None  # for a request that takes more than one read
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
            self._answer_refusal()

    def connection_lost(self, exc: Exception | None) -> None:
        self.context.state.connections.discard(self)  # type: ignore[arg-type]
        self._pipeline.drop()
        self.resume_writing()
        self._reading = self._new = self._ended = self._idle_since = None
        self._timer.check = None
        if self._request_timer is not None:
            self._request_timer.check = None
        self._drop_reader()

    def data_received(self, data: bytes) -> None:
        if not self._accepts:
            self._discard(len(data))
            return
        reader = self._reader = self._reader or self._new_reader()
        try:
            reader.feed(data)
        except httptools.HttpParserError as error:
            self.refuse(self._problem(error))
        if reader.begun is not None:
            self._watch_request(reader.begun)
        elif self._refusal is None:
            self._drop_reader()
        self._answer()
        if self._accepts and self._pipeline.is_waiting:
            self._piped += len(data)
            if self._piped > PIPELINE_BYTES:
                self.pause_reading()

    def _problem(self, error: httptools.HttpParserError) -> ApiError:
        cause = error.__context__
        is_raised = isinstance(error, httptools.HttpParserCallbackError)
        if is_raised and not isinstance(cause, httptools.HttpParserInvalidURLError):
            self.context.services.on_bug(cause or error)
            return internal()
        return not_http()

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

    # From the reader: nothing is answered before all of a read has been parsed

    def read_head(self, head: RequestHead) -> None:
        if not self._accepts:
            return
        if head.version != "1.0" and b"host" not in head.fields:
            self.refuse(ApiError(400, "invalid_http", "The request has no Host header."))
            return
        self._body_size = self._discarded = 0
        self._discard_limit = DISCARD_BYTES
        exchange = self._reading = exchange_for(self, head)
        if self._new is None:
            self._new = [exchange]
        else:
            self._new.append(exchange)

    def read_body(self, data: bytes) -> None:
        exchange = self._reading
        if exchange is None or not self._accepts:
            return
        if exchange.is_over:
            self._discard_limit = exchange.discard_limit
            self._discard(len(data))
            return
        if not exchange.takes_body:
            return
        self._body_size += len(data)
        if self._body_size > self.context.limits.body:
            self.refuse(too_large(self.context.limits.body))
            return
        try:
            exchange.append(data)
        except ApiError as error:
            self.refuse(error)

    def read_end(self) -> None:
        exchange = self._reading
        if exchange is None or not self._accepts:
            return
        self._reading = None
        if self._new and self._new[-1] is exchange:
            exchange.end()  # its turn has not come: nothing begins here
        else:
            self._ended = exchange

    def refuse(self, error: ApiError) -> None:
        """No more is taken from this connection. The error is the answer to the request that is
        being read, and is sent once all requests before it are answered."""
        if not self._accepts:
            return
        self._accepts = False
        # Made now: the reader goes on to the next request in the same read.
        reader = self._reader
        front = front_at(b"") if reader is None else reader.front
        origin = None if reader is None else reader.origin
        self._refusal = StaticExchange.refusal(self, front, error, origin=origin)

    def _answer(self) -> None:
        """Begins the exchanges whose heads came in this read, and ends the one whose body did."""
        new, self._new = self._new, None
        ended, self._ended = self._ended, None
        if ended is not None:
            ended.end()
        for exchange in new or ():
            if not self._is_done:  # no answer before it was the last
                self._pipeline.add(exchange)
        self._answer_refusal()
        if not self._is_done:
            is_busy = self._pipeline.current is not None or self._reader is not None
            self._idle_since = (
                None if is_busy else self._idle_since or self.context.services.clock()
            )

    def _answer_refusal(self) -> None:
        refusal, self._refusal = self._refusal, None
        if refusal is None or self._is_done:
            return
        broken, self._reading = self._reading, None
        if broken is None:
            self._pipeline.add(refusal)
        elif broken.is_over:
            self._end(broken)  # it was answered before the rest of it was broken
        elif broken.refused():
            self._pipeline.replace(broken, refusal)

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
        self._idle_since = self.context.services.clock()
        if self.transport.is_closing() or not exchange.keep_alive:
            self._pipeline.current = None
            self._end(exchange)
            return
        self._piped = 0
        self.resume_reading()
        if self._pipeline.advance():
            self._idle_since = None

    def _end(self, exchange: Exchange) -> None:
        """Closes our side behind the last answer. Reads on for a while where the request has not
        come whole, so that the peer can read the answer."""
        self._accepts = False
        self._is_done = True
        self._idle_since = self.context.services.clock()
        if self.transport.is_closing():
            return
        if exchange.is_read or not self.transport.can_write_eof():
            self.transport.close()
            return
        self._discard_limit = exchange.discard_limit
        self.transport.write_eof()
        timers, now = self.context.services.timers, self.context.services.clock()
        timers.watch(now + DISCARD_SECONDS, self._check_discarding)

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
            if self._reader is not None and self._reader.begun is not None:
                # The request's time is not what it waited for us.
                self._reader.begun = self.context.services.clock()

    # Limits

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > self._discard_limit:
            self.transport.abort()

    def _watch_request(self, begun: float) -> None:
        if self._request_timer is None and self._accepts:
            timer = self._request_timer = Timer(self._check_request)
            due = begun + self.context.limits.request_seconds
            self.context.services.timers.watch(due, timer)

    def _check_request(self, now: float) -> float | None:
        begun = self._reader.begun if self._reader is not None else None
        if begun is None or not self._accepts:
            self._request_timer = None
            return None
        seconds = self.context.limits.request_seconds
        if self._read_paused:
            return now + seconds
        if now < begun + seconds:
            return begun + seconds
        message = f"The request did not arrive within {seconds:g} s."
        self.refuse(ApiError(408, "request_timeout", message))
        self._answer_refusal()
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

    def _check_discarding(self, now: float) -> float | None:
        if self.transport.is_closing():
            return None
        if self.transport.get_write_buffer_size():
            return now + DISCARD_SECONDS  # who reads nothing of it is cut as idle
        self.transport.abort()
        return None
