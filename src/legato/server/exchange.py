"""One request and its answer on a client's connection: the interface, and the native kind."""

import asyncio
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final, Protocol

from legato.core.errors import ApiError
from legato.core.front import Front
from legato.gateway.call import Call, new_request_id
from legato.gateway.reply import refuse
from legato.policy.keys import Key
from legato.server.context import ServerContext

STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_STREAM_HEAD: Final = (
    STATUS_LINES[200] + b"content-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\n"
    b"x-accel-buffering: no\r\n"
)
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

#: Bytes of the body of a request without a valid key that are read and thrown away at most.
REFUSED_BYTES: Final = 64 * 1024

#: The same after any other refusal, so that the peer can read the answer: a close with unread data
#: resets the connection.
DISCARD_BYTES: Final = 64 * 1024 * 1024


class Exchange(Protocol):
    """One request and its answer, native or of the ASGI application."""

    @property
    def keep_alive(self) -> bool:
        """Whether the connection may stay open behind its answer."""
        ...

    @keep_alive.setter
    def keep_alive(self, value: bool) -> None: ...
    @property
    def is_started(self) -> bool:
        """Whether its answer is being made."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether its answer is complete, or its peer gone."""
        ...

    def begin(self) -> None:
        """It is its turn to be answered; its body may not have come yet."""

    def append(self, data: bytes) -> None:
        """A piece of the body."""

    def end(self) -> None:
        """The body is complete."""

    def gone(self) -> None:
        """The peer has closed the connection."""

    def refused(self) -> None:
        """The connection has answered in its place."""

    def pause(self) -> None:
        """The peer reads slower than it is written to."""

    def resume(self) -> None: ...


class Connection(Protocol):
    """What an exchange needs of the connection it is on."""

    context: ServerContext
    transport: asyncio.Transport
    write_paused: bool

    @property
    def is_secure(self) -> bool: ...
    @property
    def is_behind_proxy(self) -> bool: ...
    def answered(self, exchange: Exchange) -> None:
        """An answer is complete."""

    def close_after_refusal(self, limit: int) -> None:
        """Closes our side; at most `limit` bytes are still read and thrown away."""


class NativeExchange:
    """A request to a native endpoint, and the client of its call (`gateway.services.Client`)."""

    __slots__ = (
        "_call",
        "_chunked",
        "_connection",
        "_encoding",
        "_expects_continue",
        "_forwarded",
        "_front",
        "_head",
        "_is_complete",
        "_is_gone",
        "_is_read",
        "_is_turn",
        "_key",
        "_length",
        "_origin",
        "_pieces",
        "_refusal",
        "begun",
        "body",
        "keep_alive",
        "received",
        "request_id",
        "user_agent",
    )

    def __init__(
        self,
        connection: Connection,
        front: Front,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        keep_alive: bool,
        chunked: bool,
    ) -> None:
        """`headers`: names in lower case. `chunked`: the client takes HTTP/1.1's chunks."""
        self._connection = connection
        self._front = front
        self._chunked = chunked
        self.keep_alive = keep_alive
        self.received = self.begun = connection.context.services.clock()
        self.request_id = new_request_id()
        self.body = b""
        self.user_agent: bytes | None = None
        self._call: Call | None = None
        self._key: Key | None = None
        self._refusal: ApiError | None = None
        self._pieces: list[bytes] | None = None
        self._head = b""  # of an answer, as long as nothing of its body has come
        self._length = -1  # of the body; -1 where the headers do not say
        self._encoding = b""
        self._origin: bytes | None = None
        self._forwarded: bytes | None = None
        self._expects_continue = False
        self._is_read = False
        self._is_turn = False
        self._is_gone = False
        self._is_complete = False
        self._read_headers(headers)

    def _read_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        for name, value in headers:
            match name:
                case b"origin":
                    self._origin = value
                case b"user-agent":
                    self.user_agent = value
                case b"x-forwarded-proto":
                    self._forwarded = value.lower()
                case b"content-length":
                    self._length = int(value)
                case b"content-encoding":
                    self._encoding = value.strip().lower()
                case b"expect":
                    self._expects_continue = value.lower() == b"100-continue"
                case _:
                    pass

    def admit(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Decides by the head alone whether the request is taken; its body is not kept if not."""
        try:
            self._key = self._connection.context.services.keyring.identify(headers)
            limit = self._connection.context.limits.body
            if self._length > limit:
                raise too_large(limit)
            if self._encoding not in (b"", b"identity"):
                name = self._encoding.decode("latin-1")
                raise ApiError(
                    415,
                    "unsupported_encoding",
                    f"The content encoding `{name}` is not supported: send the body as it is.",
                )
        except ApiError as error:
            self._refusal = error
            # Otherwise all of the body would have to be read before the next request.
            if not 0 <= self._length <= REFUSED_BYTES:
                self.keep_alive = False

    @property
    def is_started(self) -> bool:
        return self._call is not None or self._is_complete

    @property
    def is_over(self) -> bool:
        return self._is_gone or self._is_complete

    def begin(self) -> None:
        self._is_turn = True
        if self._refusal is not None:
            refuse(self, self._front, b"", self._refusal)
        elif self._is_read:
            self._start()
        elif self._expects_continue:
            self._connection.transport.write(_CONTINUE)

    def append(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        # Nearly every body comes in one piece; a list is made only for the second.
        if self._pieces is not None:
            self._pieces.append(data)
        elif self.body:
            self._pieces = [self.body, data]
        else:
            self.body = data

    def end(self) -> None:
        self._is_read = True
        if self._is_turn and not self.is_over:
            self._start()

    def _start(self) -> None:
        """All of the request is there, and it is its turn."""
        context, key = self._connection.context, self._key
        assert key is not None
        self.begun = context.services.clock()
        if self._pieces is not None:
            self.body = b"".join(self._pieces)
            self._pieces = None
        self._call = Call(context.services, self, self._front, key)
        self._call.start(context.state.tasks)

    def gone(self) -> None:
        self._is_gone = True
        call, self._call = self._call, None
        if call is not None and not self._is_complete:
            call.cancel()

    def refused(self) -> None:
        self._is_complete = True

    def pause(self) -> None:
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        if self._call is not None:
            self._call.resume()

    # The client of the call

    def answer(self, status: int, lines: bytes, body: bytes) -> None:
        if self.is_over:
            return
        kind = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        parts = (STATUS_LINES[status], kind, lines, self._lines(), b"\r\n", body)
        self._connection.transport.write(b"".join(parts))
        self._complete()

    def start(self, lines: bytes) -> None:
        if not self._is_gone:
            if not self._chunked:
                self.keep_alive = False  # an HTTP/1.0 body ends with the connection
            framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
            self._head = b"".join((_STREAM_HEAD, framing, lines, self._lines(), b"\r\n"))
            self.request_id = ""  # it has been sent, and many streams are open

    def flush(self) -> None:
        head, self._head = self._head, b""
        if head and not self._is_gone:
            self._connection.transport.write(head)

    def write(self, data: bytes) -> None:
        if self._is_gone:
            return
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head:
            data, self._head = self._head + data, b""
        self._connection.transport.write(data)

    def finish(self, data: bytes) -> None:
        if self.is_over:
            return
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

    def _lines(self) -> bytes:
        """Headers of every answer: date, id, CORS, and whether the connection stays."""
        context = self._connection.context
        lines = b"%bx-request-id: %b\r\n" % (context.lines, self.request_id.encode())
        if self._origin is not None:
            lines += context.cors.lines(self._origin)
        return lines if self.keep_alive else lines + b"connection: close\r\n"

    def _complete(self) -> None:
        self._is_complete = True
        self._call = None
        if self._refusal is not None and not self.keep_alive and not self._is_read:
            is_unknown = self._refusal.status in (401, 403)
            self._connection.close_after_refusal(REFUSED_BYTES if is_unknown else DISCARD_BYTES)
        else:
            self._connection.answered(self)


def too_large(limit: int) -> ApiError:
    return ApiError(413, "request_too_large", f"The request body is over {limit} bytes.")
