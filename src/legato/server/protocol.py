"""uvicorn's HTTP protocol, with the hot endpoint inside.

`POST /v1/chat/completions` is answered here, without ASGI: its frames go from an upstream's
callback straight to the transport. All else goes on to uvicorn's own cycle and the ASGI
application. Pipelined requests are answered in order; headers, body, the time to send a request,
idle time and the number of connections are limited for both.
"""

import asyncio
from typing import Any, Final

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from legato.call import new_request_id
from legato.core.errors import ApiError
from legato.core.wheel import Alarm
from legato.server.exchange import STATUS_LINES, ChatExchange
from legato.server.limits import Limits
from legato.services import Services

PATH: Final = b"/v1/chat/completions"

#: Bytes of requests that may wait behind a running answer before reading stops.
PIPELINE_BYTES: Final = 256 * 1024

#: After a refusal, what the peer still sends is read and thrown away, so that it can read the
#: answer (a close with unread data resets the connection). At most so many bytes and seconds of it.
DISCARD_BYTES: Final = 64 * 1024 * 1024
DISCARD_SECONDS: Final = 5.0

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


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


class LegatoProtocol(HttpToolsProtocol):
    """One connection of a client."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        services: Services,
        limits: Limits,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.parser: Any  # uvicorn sets it to None once the connection is lost
        self.services = services
        self.limits = limits
        self.cors_origins = limits.cors_origins
        self._current: Any = None  # the cycle whose answer is being made
        self._head_size = 0  # names and values of the headers so far
        self._head_raw = 0  # bytes read of a head that is not complete
        self._in_head = False
        self._body_size = 0
        self._begun: float | None = None  # when the request being read began; None between requests
        self._idle_since: float | None = None
        self._alarm = Alarm(self._check_idle)
        self._slow = False  # a watcher for a request that takes its time is set
        self._over = False  # no more requests are taken from this connection
        self._discarded = 0
        self._piped = 0  # bytes of requests that wait behind the answer in hand

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        now = self.services.clock()
        self._idle_since = now
        self.services.wheel.watch(now + self.limits.request_seconds, self._alarm)
        if len(self.connections) > self.limits.connections:
            self._refuse(ApiError(503, "too_many_connections", "The server is at its limit."))

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self)
        waiting = [cycle for cycle, _ in self.pipeline]
        self.pipeline.clear()
        for cycle in (self._current, self.cycle, *waiting):
            if isinstance(cycle, ChatExchange):
                if not cycle.disconnected:
                    cycle.gone()
            elif cycle is not None and not cycle.disconnected:
                cycle.disconnected = not cycle.response_complete
                cycle.message_event.set()
        self.flow.resume_writing()
        self._current = self.cycle = None  # type: ignore[assignment]
        self._idle_since = self._begun = None
        self.parser = self._alarm.check = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._over:
            self._discarded += len(data)
            if self._discarded > DISCARD_BYTES:
                self.transport.abort()
            return
        self._idle_since = None
        if self._begun is None:
            data = _without_upgrade(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # CONNECT, or an upgrade spelt oddly: answered as a request that it is not
        except httptools.HttpParserError:
            self._refuse(ApiError(400, "invalid_http", "This is not an HTTP/1.1 request."))
            return
        if self.pipeline:
            self._piped += len(data)
            if self._piped > PIPELINE_BYTES:
                self.flow.pause_reading()
        if self._begun is not None and not self._over:
            self._still_reading(len(data))

    def eof_received(self) -> None:
        return None  # the transport closes itself: a peer that sends no more is gone

    def pause_writing(self) -> None:
        super().pause_writing()
        if isinstance(self._current, ChatExchange):
            self._current.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if isinstance(self._current, ChatExchange):
            self._current.resume()

    # llhttp

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self._head_size = self._head_raw = self._body_size = 0
        self._in_head = True
        self._begun = self.services.clock()

    def on_url(self, url: bytes) -> None:
        self.url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value) + 4)
        if not self._over:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._over:
            return
        self._in_head = False
        if self.parser.get_http_version() == "1.1" and not any(
            name == b"host" for name, _ in self.headers
        ):
            self._refuse(ApiError(400, "invalid_http", "The request has no Host header."))
        elif self.parser.get_method() == b"POST" and self._path() == PATH:
            self._hot()
        else:
            self._cold()

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if self._over or cycle is None or cycle.response_complete:
            return
        self._body_size += len(body)
        if self._body_size > self.limits.body:
            self._refuse(self._too_large())
        elif isinstance(cycle, ChatExchange):
            cycle.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._begun = None
        cycle = self.cycle
        if self._over or cycle is None:
            return
        if isinstance(cycle, ChatExchange):
            cycle.more_body = False
            if cycle is self._current and not cycle.started:
                cycle.begin()
        else:
            super().on_message_complete()

    # Cycles, in order

    @property
    def usual_headers(self) -> list[tuple[bytes, bytes]]:
        return self.server_state.default_headers

    @property
    def is_behind_proxy(self) -> bool:
        """Whether the peer is a proxy whose word counts."""
        return self.client is not None and self.client[0] in self.limits.trusted_proxies

    def spawn(self, coroutine: Any) -> None:
        task = self.loop.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def answered(self, cycle: Any) -> None:
        """An answer is complete: the next request's turn, or idle, or the end."""
        self.server_state.total_requests += 1
        self._current = None
        if self.transport.is_closing():
            return
        if not cycle.keep_alive or self._over:
            self.transport.close()
            return
        self._piped = 0
        self.flow.resume_reading()
        if self.pipeline:
            self._take_turn(*self.pipeline.pop())
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

    def _hot(self) -> None:
        parser = self.parser
        old = parser.get_http_version() == "1.0"
        cycle = ChatExchange(
            self, keep_alive=not old and parser.should_keep_alive(), chunked=not old
        )
        cycle.read_headers(self.headers)
        self.headers = []
        if cycle.length > self.limits.body:
            self._refuse(self._too_large())
            return
        self.cycle = cycle  # type: ignore[assignment]
        if self._current is None:
            self._take_turn(cycle, None)
        else:
            self.pipeline.appendleft((cycle, None))  # type: ignore[arg-type]

    def _path(self) -> bytes:
        url = self.url
        if not url.startswith(b"/"):  # absolute form (RFC 9112, section 3.2.2)
            url = httptools.parse_url(url).path or b"/"
        return url.partition(b"?")[0]

    def _cold(self) -> None:
        self.scope = {  # type: ignore[typeddict-item]
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": self.root_path,
            "headers": self.headers,
            "state": self.app_state.copy(),
        }
        self.expect_100_continue = (b"expect", b"100-continue") in self.headers
        busy = self._current is not None
        super().on_headers_complete()
        if busy:
            self.flow.resume_reading()  # a client that goes must be noticed behind a long answer

    def _take_turn(self, cycle: Any, app: Any) -> None:
        self._current = cycle
        if isinstance(cycle, ChatExchange):
            if cycle.expects_continue and cycle.more_body:
                self.transport.write(_CONTINUE)
            if not cycle.more_body:
                cycle.begin()
        else:
            super()._start_asgi_task(cycle, app)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._current = cycle
        super()._start_asgi_task(cycle, app)

    # Limits

    def _too_large(self) -> ApiError:
        return ApiError(
            413, "request_too_large", f"The request body is over {self.limits.body} bytes."
        )

    def _head_too_large(self) -> ApiError:
        return ApiError(
            431, "headers_too_large", f"The headers are over {self.limits.header} bytes."
        )

    def _count_head(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self.limits.header and not self._over:
            self._refuse(self._head_too_large())

    def _still_reading(self, size: int) -> None:
        """A request has not come whole in one read: its head has a limit, and so has its time."""
        assert self._begun is not None
        if self._in_head:
            self._head_raw += size
            if self._head_raw > self.limits.header:
                self._refuse(self._head_too_large())
                return
        if not self._slow:
            self._slow = True
            self.services.wheel.watch(
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
        if self.transport.is_closing():
            return None
        limit = self.limits.idle_seconds
        if self._idle_since is not None and now >= self._idle_since + limit:
            # What a peer does not read would keep a closed transport open for ever.
            unread = self.transport.get_write_buffer_size() > 0
            (self.transport.abort if unread else self.transport.close)()
            return None
        return now + limit if self._idle_since is None else self._idle_since + limit

    def _refuse(self, error: ApiError) -> None:
        """Answers a request that is no request, and takes no more from this connection."""
        self._over = True
        if self._current is not None and self._current is not self.cycle:
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
            self.services.wheel.watch(self.services.clock() + DISCARD_SECONDS, self._check_linger)
        else:
            self.transport.close()

    def _check_linger(self, now: float) -> None:
        if not self.transport.is_closing():
            self.transport.abort()
