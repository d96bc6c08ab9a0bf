"""One request to the hot endpoint and its answer, on a client's connection."""

import asyncio
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final, Protocol

from legato.core.errors import ApiError
from legato.fronts.chat import CHAT
from legato.gateway.call import Call, new_request_id
from legato.gateway.reply import refuse
from legato.gateway.services import Services
from legato.server.limits import Limits

STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_STREAM_HEAD: Final = (
    STATUS_LINES[200] + b"content-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\n"
    b"x-accel-buffering: no\r\n"
)


class Connection(Protocol):
    """What an exchange needs of the connection it is on."""

    services: Services
    transport: asyncio.Transport
    limits: Limits

    write_paused: bool

    @property
    def is_secure(self) -> bool: ...
    @property
    def is_behind_proxy(self) -> bool: ...

    @property
    def usual(self) -> bytes: ...
    @property
    def running(self) -> set[Any]: ...
    def answered(self, cycle: Any) -> None: ...


class ChatExchange:
    """One request to the hot endpoint and its answer, on one connection.

    Stands where uvicorn's request-response cycle would; is the `Client` of its call.
    """

    __slots__ = (
        "_call",
        "_chunked",
        "_connection",
        "_forwarded",
        "_head",
        "_origin",
        "_pieces",
        "authorization",
        "begun",
        "body",
        "digest",
        "disconnected",
        "expects_continue",
        "keep_alive",
        "length",
        "more_body",
        "received",
        "request_id",
        "response_complete",
        "started",
        "user_agent",
    )

    def __init__(self, connection: Connection, *, keep_alive: bool, chunked: bool) -> None:
        self._connection = connection
        self._call: Call | None = None
        self._chunked = chunked
        self._origin: bytes | None = None
        self._forwarded: bytes | None = None
        self.authorization: bytes | None = None
        self.digest: bytes | None = None
        self.user_agent: bytes | None = None
        self.body: bytes = b""
        self._pieces: list[bytes] | None = None
        self._head = b""  # of an answer, as long as nothing of its body has come
        self.received = self.begun = connection.services.clock()
        self.request_id = new_request_id()
        self.expects_continue = False
        self.keep_alive = keep_alive
        self.length = 0  # as the headers say; 0 where they do not
        self.more_body = True
        self.started = False
        self.disconnected = False
        self.response_complete = False

    def read_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        for name, value in headers:
            if name == b"authorization":
                self.authorization = value
            elif name == b"origin":
                self._origin = value
            elif name == b"x-forwarded-proto":
                self._forwarded = value.lower()
            elif name == b"content-length":
                self.length = int(value)
            elif name == b"user-agent":
                self.user_agent = value
            elif name == b"expect":
                self.expects_continue = value.lower() == b"100-continue"

    @property
    def quirks(self) -> tuple[bytes | None, ...]:
        """What an answer goes by of the headers; of the key, once that is known, its digest."""
        return self.digest, self._origin, self._forwarded

    @quirks.setter
    def quirks(self, quirks: tuple[bytes | None, ...]) -> None:
        self.digest, self._origin, self._forwarded = quirks

    def append(self, data: bytes) -> None:
        # Nearly every body comes in one piece; a list is made only for the second.
        if self._pieces is not None:
            self._pieces.append(data)
        elif self.body:
            self._pieces = [self.body, data]
        else:
            self.body = data

    def begin(self) -> None:
        """The whole request is here, and it is its turn."""
        self.started = True
        self.begun = self._connection.services.clock()
        if self._pieces is not None:
            self.body = b"".join(self._pieces)
            self._pieces = None
        services = self._connection.services
        try:
            key = services.keyring.authenticate(self.authorization)
        except ApiError as error:
            refuse(self, CHAT, b"", error)
            return
        self._call = Call(services, self, CHAT, key)
        self._call.start(self._connection.running)

    def gone(self) -> None:
        """The peer has closed the connection."""
        self.disconnected = True
        call, self._call = self._call, None
        if call is not None and not self.response_complete:
            call.cancel()

    def pause(self) -> None:
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        if self._call is not None:
            self._call.resume()

    # The client's side of the call

    def answer(self, status: int, lines: bytes, body: bytes) -> None:
        if self.disconnected or self.response_complete:
            return
        kind = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        parts = (STATUS_LINES[status], kind, lines, self._usual(), b"\r\n", body)
        self._connection.transport.write(b"".join(parts))
        self._complete()

    def start(self, lines: bytes) -> None:
        if not self.disconnected:
            if not self._chunked:
                self.keep_alive = False  # an HTTP/1.0 body ends with the connection
            framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
            self._head = b"".join((_STREAM_HEAD, framing, lines, self._usual(), b"\r\n"))
            self.request_id = ""  # it has been said, and many streams are open

    def flush(self) -> None:
        head, self._head = self._head, b""
        if head and not self.disconnected:
            self._connection.transport.write(head)

    def write(self, data: bytes) -> None:
        if not self.disconnected:
            if self._chunked:
                data = b"%x\r\n%b\r\n" % (len(data), data)
            if self._head:
                data, self._head = self._head + data, b""
            self._connection.transport.write(data)

    def direct(self) -> Callable[[bytes], None] | None:
        if self.disconnected or self._head or not self._chunked:
            return None
        return self._connection.transport.write

    def finish(self, data: bytes) -> None:
        if not self.disconnected and not self.response_complete:
            if self._chunked:
                data = b"%b%x\r\n%b\r\n0\r\n\r\n" % (self._head, len(data), data)
            else:
                data = self._head + data
            self._head = b""
            self._connection.transport.write(data)
            self._complete()

    def abort(self) -> None:
        self._connection.transport.abort()

    @property
    def unsent(self) -> int:
        return self._connection.transport.get_write_buffer_size()

    @property
    def is_full(self) -> bool:
        return self._connection.write_paused

    @property
    def is_secure(self) -> bool:
        return self._connection.is_secure or (
            self._forwarded == b"https" and self._connection.is_behind_proxy
        )

    def _usual(self) -> bytes:
        """Headers of every answer: date, id, CORS, and whether the connection stays."""
        lines = b"%bx-request-id: %b\r\n" % (self._connection.usual, self.request_id.encode())
        if self._origin is not None:
            lines += self._cross_origin(self._origin)
        return lines if self.keep_alive else lines + b"connection: close\r\n"

    def _cross_origin(self, origin: bytes) -> bytes:
        origins = self._connection.limits.cors_origins
        if origin not in origins and b"*" not in origins:
            return b""
        return (
            b"access-control-allow-origin: %b\r\n"
            b"access-control-expose-headers: x-request-id, retry-after, x-legato-deployment, "
            b"x-legato-attempts\r\n"
            b"vary: origin\r\n"
        ) % origin

    def _complete(self) -> None:
        self.response_complete = True
        self._call = None
        self._connection.answered(self)
