"""The HTTP protocol of the server, with the hot endpoint inside.

`POST /v1/chat/completions` is answered here, without ASGI: its frames go from an upstream's
callback straight to the transport. All else goes on to uvicorn's own cycle and the ASGI
application. Pipelined requests are answered in order; headers, body, the time to send a request,
idle time and the number of connections are limited for both.

uvicorn's own protocol is not what this is made from: it keeps five kilobytes for a connection, most
of them for what a stream never asks for.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.utils import is_ssl
from uvicorn.server import ServerState

from legato.core.errors import ApiError
from legato.core.timers import Timer
from legato.gateway.call import new_request_id
from legato.gateway.services import Services
from legato.server import asgi
from legato.server.exchange import STATUS_LINES, ChatExchange
from legato.server.limits import Limits
from legato.server.pipelining import House, Turns
from legato.server.repeats import Repeats

PATH: Final = b"/v1/chat/completions"

#: Bytes of requests that may wait behind a running answer before reading stops.
PIPELINE_BYTES: Final = 256 * 1024

#: After a refusal, what the peer still sends is read and thrown away, so that it can read the
#: answer (a close with unread data resets the connection). At most so many bytes and seconds of it.
DISCARD_BYTES: Final = 64 * 1024 * 1024
DISCARD_SECONDS: Final = 5.0


def _without_upgrade(data: bytes) -> bytes:
    """A request that offers an upgrade (h2c, as Java's client does) is answered as it stands.

    llhttp would take the body for the other protocol's; under another name the header is one of
    many that nobody reads.
    """
    if b"pgrade:" in data:
        head, end, rest = data.partition(b"\r\n\r\n")
        for spelt in (b"\r\nUpgrade:", b"\r\nupgrade:"):
            head = head.replace(spelt, b"\r\nx-offers:")
        return head + end + rest
    return data


def protocols(services: Services, limits: Limits) -> Callable[..., "LegatoProtocol"]:
    """Makes the protocol of each connection, as uvicorn asks for it."""
    house: House | None = None

    def make(
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> LegatoProtocol:
        nonlocal house
        if house is None:
            house = House(services, limits, server_state, config.loaded_app)
        return LegatoProtocol(house)

    return make


class LegatoProtocol(Turns):
    """One connection of a client."""

    __slots__ = (
        "_alarm",
        "_begun",
        "_body_size",
        "_discarded",
        "_head_raw",
        "_head_size",
        "_headers",
        "_in_head",
        "_parser",
        "_repeats",
        "_slow",
        "_url",
    )

    def __init__(self, house: House) -> None:
        super().__init__(house)
        self._parser: Any = None  # while a request is read
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] | None = None  # while they are read
        self._head_size = 0  # names and values of the headers so far
        self._head_raw = 0  # bytes read of a head that is not complete
        self._in_head = False
        self._body_size = 0
        self._begun: float | None = None  # when the request being read began; None between requests
        self._alarm = Timer(self._check_idle)
        self._repeats: Repeats | None = None  # from the second request on
        self._slow = False  # a watcher for a request that takes its time is set
        self._discarded = 0

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.is_secure = is_ssl(self.transport)
        connections = self._house.state.connections
        connections.add(self)  # type: ignore[arg-type]
        now = self.services.clock()
        self._idle_since = now
        first = min(self.limits.request_seconds, self.limits.idle_seconds)
        self.services.timers.watch(now + first, self._alarm)
        if len(connections) > self.limits.connections:
            self._refuse(ApiError(503, "too_many_connections", "The server is at its limit."))

    def connection_lost(self, exc: Exception | None) -> None:
        self._house.state.connections.discard(self)  # type: ignore[arg-type]
        waiting, self._pipeline = self._pipeline or (), None
        for cycle in (self._current, self._cycle, *waiting):
            if isinstance(cycle, ChatExchange):
                if not cycle.disconnected:
                    cycle.gone()
            elif cycle is not None and not cycle.disconnected:
                cycle.disconnected = not cycle.response_complete
                cycle.message_event.set()
        self.resume_writing()
        self._current = self._cycle = None
        self._idle_since = self._begun = None
        self._parser = self._alarm.check = None

    def data_received(self, data: bytes) -> None:
        if self._over:
            self._discarded += len(data)
            if self._discarded > DISCARD_BYTES:
                self.transport.abort()
            return
        self._idle_since = None
        is_first, repeats = self._begun is None, self._repeats
        if repeats is None:
            self._read(data)
            return
        if is_first and self._current is None and self._repeated(repeats, data):
            return
        repeats.noted = None  # what came in an earlier read tells nothing of this one
        self._read(data)
        if is_first and self._begun is None:
            repeats.learn(data)

    def _read(self, data: bytes) -> None:
        if self._begun is None:
            data = _without_upgrade(data)
        parser = self._parser = self._parser or self._new_parser()
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # CONNECT, or an upgrade spelt oddly: answered as a request that it is not
        except httptools.HttpParserError:
            self._refuse(ApiError(400, "invalid_http", "This is not an HTTP/1.1 request."))
            return
        if self._pipeline:
            self._piped += len(data)
            if self._piped > PIPELINE_BYTES:
                self.pause_reading()
        self._still_reading(len(data))

    def _repeated(self, repeats: Repeats, data: bytes) -> bool:
        """Whether this is a whole request with the head of the last one. It need not be parsed."""
        body = repeats.body(data)
        if body is None or len(body) > self.limits.body:
            return False
        cycle = ChatExchange(self, keep_alive=True, chunked=True)
        repeats.fill(cycle, body)
        self._queue(cycle)
        return True

    def _new_parser(self) -> Any:
        parser = httptools.HttpRequestParser(self)
        # What comes behind a `connection: close` is another request, not an error.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def eof_received(self) -> None:
        return None  # the transport closes itself: a peer that sends no more is gone

    # llhttp

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []
        self._head_size = self._head_raw = self._body_size = 0
        self._in_head = True
        self._begun = self.services.clock()

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._head_size += len(url)
        if self._head_size > self.limits.header:
            self._refuse_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value) + 4
        if self._head_size > self.limits.header:
            self._refuse_head()
        if self._headers is not None:  # trailers are nobody's
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._over:
            return
        self._in_head = False
        headers, self._headers = self._headers or [], None
        if self._parser.get_http_version() == "1.1" and b"host" not in [
            name for name, _ in headers
        ]:
            self._refuse(ApiError(400, "invalid_http", "The request has no Host header."))
        elif self._parser.get_method() == b"POST" and self._path() == PATH:
            self._hot(headers)
        else:
            self._cold(headers)

    def on_body(self, body: bytes) -> None:
        cycle = self._cycle
        if self._over or cycle is None or cycle.response_complete:
            return
        self._body_size += len(body)
        if self._body_size > self.limits.body:
            self._refuse(self._too_large())
        elif isinstance(cycle, ChatExchange):
            cycle.append(body)
        else:
            asgi.append(cycle, self, body)

    def on_message_complete(self) -> None:
        self._begun = None
        cycle = self._cycle
        if self._over or cycle is None:
            return
        if isinstance(cycle, ChatExchange):
            cycle.more_body = False
            if cycle is self._current and not cycle.started:
                cycle.begin()
        elif not cycle.response_complete:
            asgi.end(cycle)

    def _hot(self, headers: list[tuple[bytes, bytes]]) -> None:
        parser = self._parser
        old = parser.get_http_version() == "1.0"
        cycle = ChatExchange(
            self, keep_alive=not old and parser.should_keep_alive(), chunked=not old
        )
        cycle.read_headers(headers)
        if cycle.length > self.limits.body:
            self._refuse(self._too_large())
            return
        if self._repeats is not None:
            self._repeats.note(cycle)
        self._queue(cycle)

    def _path(self) -> bytes:
        url = self._url
        if not url.startswith(b"/"):  # absolute form (RFC 9112, section 3.2.2)
            url = httptools.parse_url(url).path or b"/"
        return url.partition(b"?")[0]

    def _cold(self, headers: list[tuple[bytes, bytes]]) -> None:
        usual = self._house.state.default_headers
        self._queue(
            asgi.cycle(
                self,
                self.transport,
                self._parser,
                self._url,
                headers,
                usual,
                self.on_response_complete,
            )
        )

    # Limits

    def _too_large(self) -> ApiError:
        return ApiError(
            413, "request_too_large", f"The request body is over {self.limits.body} bytes."
        )

    def _head_too_large(self) -> ApiError:
        return ApiError(
            431, "headers_too_large", f"The headers are over {self.limits.header} bytes."
        )

    def _refuse_head(self) -> None:
        if not self._over:
            self._refuse(self._head_too_large())

    def _still_reading(self, size: int) -> None:
        """Where a request has not come whole in one read: its head has a limit, and so has its
        time."""
        if self._begun is None:
            self._parser = None  # a kilobyte, which a stream's connection need not keep
            return
        if self._over:
            return
        if self._in_head:
            self._head_raw += size
            if self._head_raw > self.limits.header:
                self._refuse(self._head_too_large())
                return
        if not self._slow:
            self._slow = True
            self.services.timers.watch(
                self._begun + self.limits.request_seconds, self._check_request
            )

    def _check_request(self, now: float) -> float | None:
        if self._begun is None or self._over:
            self._slow = False
            return None
        due = self._begun + self.limits.request_seconds
        if now < due:
            return due
        seconds = self.limits.request_seconds
        self._refuse(
            ApiError(408, "request_timeout", f"The request did not arrive within {seconds:g} s.")
        )
        return None

    def _check_idle(self, now: float) -> float | None:
        limit, unsent = self.limits.idle_seconds, self.transport.get_write_buffer_size()
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

    def _refuse(self, error: ApiError) -> None:
        """Answers a request that is no request, and takes no more from this connection."""
        self._over = True
        if self._current is not None and self._current is not self._cycle:
            self._current.keep_alive = False  # its answer goes on; then the connection ends
            return
        current = self._current
        if current is not None and (not isinstance(current, ChatExchange) or current.started):
            current.keep_alive = False
            return
        body = error.as_json()
        head = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        usual = b"x-request-id: %b\r\nconnection: close\r\n\r\n" % new_request_id().encode()
        self.transport.write(b"".join((STATUS_LINES[error.status], head, usual, body)))
        if current is not None:
            current.response_complete = True
            self._current = None
        self._linger()

    def _linger(self) -> None:
        """Closes our side, reads on for a while so that the peer can read our answer."""
        self._over = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.services.timers.watch(self.services.clock() + DISCARD_SECONDS, self._check_linger)
        else:
            self.transport.close()

    def _check_linger(self, now: float) -> None:
        if not self.transport.is_closing():
            self.transport.abort()
