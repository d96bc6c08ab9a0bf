"""One request and its answer on a client's connection: the interface, and the native kind."""

import asyncio
from http import HTTPStatus
from typing import Final, Protocol

from legato.core.front import Front
from legato.gateway.call import Call, new_request_id
from legato.policy.keys import Key
from legato.policy.sessions import session_headers
from legato.server.context import ServerContext
from legato.server.encoded_body import EncodedBody, encoding_of
from legato.server.reader import RequestHead

#: Statuses without a name in the standard library: Anthropic's for an overload.
_MORE_STATUSES: Final = {529: "Overloaded"}

STATUS_LINES: Final = {
    status: f"HTTP/1.1 {status} {phrase}\r\n".encode()
    for status, phrase in (
        {each.value: each.phrase for each in HTTPStatus} | _MORE_STATUSES
    ).items()
}
_STREAM_HEAD: Final = (
    STATUS_LINES[200] + b"content-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\n"
    b"x-accel-buffering: no\r\n"
)
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

#: Bytes of a body that are read and thrown away behind an answer, so that the peer can read that: a
#: close with unread data resets the connection.
DISCARD_BYTES: Final = 64 * 1024 * 1024


class Exchange(Protocol):
    """One request and its answer, native, static or of the ASGI application."""

    @property
    def keep_alive(self) -> bool:
        """Whether the connection may stay open behind its answer."""
        ...

    @keep_alive.setter
    def keep_alive(self, value: bool) -> None: ...
    @property
    def is_started(self) -> bool:
        """Whether its answer has begun."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether its answer is complete, or its peer gone."""
        ...

    @property
    def is_read(self) -> bool:
        """Whether its body is complete."""
        ...

    @property
    def takes_body(self) -> bool:
        """Whether its body is used; then its size is limited."""
        ...

    @property
    def discard_limit(self) -> int:
        """Bytes of its body that are read and thrown away behind its answer."""
        ...

    def begin(self) -> None:
        """It is its turn to be answered; its body may not have come yet."""

    def append(self, data: bytes) -> None:
        """A piece of the body. Raises `ApiError` 413 where it is too large once it is decoded."""

    def end(self) -> None:
        """The body is complete."""

    def gone(self) -> None:
        """The peer has closed the connection."""

    def refused(self) -> bool:
        """Its request is broken, and no more of it comes. Whether another exchange may answer in
        its place; else the connection ends behind its own answer."""
        ...

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

    async def drain(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class NativeExchange:
    """A request to a native endpoint, and the client of its call (`gateway.services.Client`)."""

    __slots__ = (
        "_call",
        "_chunked",
        "_connection",
        "_encoded",
        "_expects_continue",
        "_forwarded",
        "_front",
        "_head",
        "_is_complete",
        "_is_gone",
        "_is_turn",
        "_key",
        "_origin",
        "_pieces",
        "begun",
        "body",
        "is_read",
        "keep_alive",
        "passed",
        "received",
        "request_id",
        "session_headers",
        "title",
        "user_agent",
    )

    takes_body = True
    discard_limit = DISCARD_BYTES

    def __init__(self, connection: Connection, front: Front, key: Key, head: RequestHead) -> None:
        fields = head.fields
        self._connection = connection
        self._front = front
        self._key = key
        self._chunked = head.version != "1.0"
        self.keep_alive = head.keep_alive
        self.received = self.begun = head.received
        self.request_id = new_request_id()
        self.user_agent = fields.get(b"user-agent")
        self.title = fields.get(b"x-title")
        self.session_headers = session_headers(fields)
        self.passed = _passed(head, front.passed_headers) if front.passed_headers else b""
        self.body = b""
        self.is_read = False
        self._pieces: list[bytes] | None = None
        self._encoded = _encoded(connection, head) if b"content-encoding" in fields else None
        self._call: Call | None = None
        self._head = b""  # of an answer, as long as nothing of its body has come
        self._origin = fields.get(b"origin")
        self._forwarded = fields.get(b"x-forwarded-proto")
        self._expects_continue = head.expects_continue
        self._is_turn = False
        self._is_gone = False
        self._is_complete = False

    @property
    def is_started(self) -> bool:
        return self._call is not None or self._is_complete

    @property
    def is_over(self) -> bool:
        return self._is_gone or self._is_complete

    def begin(self) -> None:
        self._is_turn = True
        if self.is_read:
            self._start()
        elif self._expects_continue and not self.body:
            self._connection.transport.write(_CONTINUE)

    def append(self, data: bytes) -> None:
        if self._encoded is not None:
            self._encoded.append(data)
            return
        # Nearly every body comes in one piece; a list is made only for the second.
        if self._pieces is not None:
            self._pieces.append(data)
        elif self.body:
            self._pieces = [self.body, data]
        else:
            self.body = data

    def end(self) -> None:
        self.is_read = True
        if self._is_turn and not self.is_over:
            self._start()

    def _start(self) -> None:
        """All of the request is there, and it is its turn."""
        context = self._connection.context
        self.begun = context.services.clock()
        if self._pieces is not None:
            self.body = b"".join(self._pieces)
            self._pieces = None
        self._call = Call(context.services, self, self._front, self._key)
        self._call.start(context.state.tasks)

    def gone(self) -> None:
        self._is_gone = True
        call, self._call = self._call, None
        if call is not None and not self._is_complete:
            call.cancel()

    def refused(self) -> bool:
        self._is_complete = True
        self.body, self._pieces, self._encoded = b"", None, None
        return True

    def pause(self) -> None:
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        if self._call is not None:
            self._call.resume()

    # The client of the call

    @property
    def is_encoded(self) -> bool:
        return self._encoded is not None

    async def decode(self) -> None:
        encoded, self._encoded = self._encoded, None
        if encoded is not None:
            self.body = await encoded.finish()

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
        connection, forwarded = self._connection, self._forwarded
        return connection.is_secure or (
            forwarded is not None and forwarded.lower() == b"https" and connection.is_behind_proxy
        )

    def _lines(self) -> bytes:
        context, name = self._connection.context, self._front.id_header
        lines = context.lines(self.request_id, self._origin, keep_alive=self.keep_alive)
        return lines + b"%b: %b\r\n" % (name, self.request_id.encode()) if name else lines

    def _complete(self) -> None:
        self._is_complete = True
        self._call = None
        self._connection.answered(self)


def _passed(head: RequestHead, prefix: bytes) -> bytes:
    """The lines of the headers whose names begin with `prefix`."""
    return b"".join([b"%b: %b\r\n" % each for each in head.headers if each[0].startswith(prefix)])


def _encoded(connection: Connection, head: RequestHead) -> EncodedBody | None:
    """For a body that is compressed."""
    encoding = encoding_of(head.headers)
    return EncodedBody(encoding, connection.context.limits.body) if encoding else None
