"""A pooled HTTP/1.1 client for streams: an `asyncio.Protocol` on llhttp, without a task of its own.

What is read goes straight to whoever asked, in the callback in which the event loop hands it over.
"""

import asyncio
import math
import socket
from typing import Any, Final, Protocol, cast

import httptools

from legato.core.errors import UpstreamError, bad_gateway
from legato.core.stream import Stream
from legato.fastpath.splice import Splice

#: Bytes of a response's head, interim answers before it included, after which no more is read.
HEAD_LIMIT: Final = 256 * 1024


#: The headers of an answer that anybody reads, of the twenty that a vendor may send.
_READ: Final = {
    name.encode(): name
    for name in ("content-encoding", "content-type", "keep-alive", "retry-after")
}


class Receiver(Protocol):
    """Reads one response. After `complete` or `lost` nothing more is called."""

    @property
    def stream(self) -> Stream: ...

    def head(self, status: int, headers: dict[str, str]) -> None:
        """`headers`: those that matter here, their names in lower case."""
        ...

    def body(self, data: bytes) -> None: ...
    def fast_path(self, body: bytes) -> Splice | None:
        """What may take the bodies of the HTTP chunks that follow `body`; None where nothing may.

        `body`: that of the last HTTP chunk, whose end is the end of what was read.
        """
        ...

    def complete(self) -> None: ...
    def lost(self, error: UpstreamError) -> None: ...


class StaleConnection(UpstreamError):
    """A kept connection was closed before anything came back: the request may go out again."""

    def __init__(self) -> None:
        super().__init__(502, "upstream_unreachable", "The upstream closed a kept connection.")


class ConnectionOwner(Protocol):
    """Whom a connection belongs to."""

    def keep(self, connection: "Connection") -> None:
        """It is good for another request."""

    def remove(self, connection: "Connection") -> None:
        """It is closed."""


#: Bytes of one stream that the kernel takes in ahead of us (twice that, for its own use). Without a
#: limit it is megabytes, and the turn of the event loop that reads them holds up the others.
AHEAD: Final = 64 * 1024

#: Bytes of one stream that are looked at in one turn, so that one that comes flat out does not hold
#: up the others.
SHARE: Final = 8 * 1024

#: The same for one whose client is slow, and the seconds from one to the next: there is no hurry.
SLOW_SHARE: Final = 1024
SLOW_TURN: Final = 0.001

_NOTHING: Final = memoryview(b"")

#: The end of an HTTP chunk with a whole event.
_CHUNK_ENDS: Final = b"\n\n\r\n"

#: The size of an HTTP chunk by its digits, for usual sizes: canonical, in lower case.
_SIZES: Final = {b"%x" % size: size for size in range(1, 2048)}

#: Bytes of the longest size line that is looked for: sixteen megabytes.
_SIZE_LINE: Final = 9


class Connection(asyncio.Protocol):
    """One connection; one request on it at a time."""

    __slots__ = (
        "_body",
        "_fast_path",
        "_head_size",
        "_headers",
        "_is_due",
        "_is_heading",
        "_is_held",
        "_is_reused",
        "_owner",
        "_parser",
        "_receiver",
        "_rest",
        "_was_answered",
        "keep_seconds",
        "transport",
    )

    def __init__(self, owner: ConnectionOwner) -> None:
        self.transport: asyncio.Transport | None = None
        self._owner = owner
        self._parser: Any = httptools.HttpResponseParser(self)
        self._receiver: Receiver | None = None
        self._body = b""  # the last piece of a body that the parser gave
        self._fast_path: Splice | None = None  # only between two HTTP chunks
        self._headers: dict[str, str] | None = None  # while they are read
        self._head_size = 0
        self._is_due = False  # `_read_on` is scheduled
        self._is_heading = False  # the final head of the response has not ended
        self._is_held = False  # reading is paused for a slow client
        self._rest = _NOTHING  # of what was read: for the next turns of the event loop
        self._is_reused = False
        self._was_answered = False  # something came back for this request
        self.keep_seconds = math.inf  # for how long the peer keeps it, where it told

    def send(self, request: bytes, receiver: Receiver) -> None:
        assert self.transport is not None
        self._receiver = receiver
        self._fast_path = None
        self._was_answered = False
        self._is_heading = True
        self._head_size = 0
        self.transport.write(request)

    def release(self) -> None:
        """The receiver wants no more. What is still on the way makes the connection useless."""
        if self._receiver is not None:
            self._receiver = self._fast_path = None
            self.close()

    def close(self) -> None:
        self._rest = _NOTHING
        if self.transport is not None:
            self.transport.abort()

    def pause(self) -> None:
        self._is_held = True
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._is_held:
            self._is_held = False
            self._schedule()

    def _schedule(self) -> None:
        if not self._is_due:
            self._is_due = True
            loop = asyncio.get_running_loop()
            if self._is_behind:
                loop.call_later(SLOW_TURN, self._read_on)
            else:
                loop.call_soon(self._read_on)

    @property
    def _is_behind(self) -> bool:
        return self._receiver is not None and self._receiver.stream.is_behind

    def _read_on(self) -> None:
        """Processes a share of what is left of the last read, or reads again."""
        self._is_due = False
        if self._is_held or self.is_closing:
            return
        if self._rest:
            share = bytes(self._rest[: SLOW_SHARE if self._is_behind else SHARE])
            if self._fast_path is not None and (last := share.rfind(_CHUNK_ENDS)) >= 0:
                share = share[: last + len(_CHUNK_ENDS)]
            self._rest = self._rest[len(share) :]
            self._process(share)
        if self._rest:
            self._schedule()
        elif not self._is_held and self.transport is not None and not self.is_closing:
            self.transport.resume_reading()

    @property
    def is_closing(self) -> bool:
        return self.transport is None or self.transport.is_closing()

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it
        peer = transport.get_extra_info("socket")
        if peer is not None:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, AHEAD)

    def data_received(self, data: bytes) -> None:
        if len(data) > SHARE and self.transport is not None:
            self.transport.pause_reading()
            self._rest = memoryview(data)
            self._read_on()
        else:
            self._process(data)

    def _process(self, data: bytes) -> None:
        fast_path, receiver = self._fast_path, self._receiver
        if fast_path is not None and receiver is not None:
            taken = _take_chunks(fast_path, data)
            if taken == len(data):
                receiver.stream.flush()
                return
            if taken:
                data = data[taken:]
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:
            self.close()  # the peer sent something without being asked
            return
        self._fast_path = None
        self._was_answered = True
        self._body = b""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            self._lose(bad_gateway("The upstream's answer could not be read."))
            raise  # a bug of ours: the event loop logs it
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._lose(bad_gateway(f"The upstream's answer is not HTTP: {error}"))
            return
        if self._is_heading:
            # Bytes read are counted: a header without an end is never given to `on_header`.
            self._head_size += len(data)
            if self._head_size > HEAD_LIMIT:
                self._lose(bad_gateway("The upstream's answer has too large a head."))
                return
        receiver.stream.flush()
        body = self._body
        is_whole = body and data.endswith(b"%x\r\n%b\r\n" % (len(body), body))
        if is_whole and self._receiver is receiver:
            self._fast_path = receiver.fast_path(body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.remove(self)
        rest, self._rest = self._rest, _NOTHING
        if rest:
            self._process(bytes(rest))
        self.transport = None
        if self._receiver is not None:
            if self._is_reused and not self._was_answered:
                self._lose(StaleConnection())
            else:
                self._lose(bad_gateway("The upstream closed the connection.", code="upstream_cut"))
        self._parser = self._fast_path = None  # the parser refers back to this connection

    def _lose(self, error: UpstreamError) -> None:
        receiver, self._receiver = self._receiver, None
        self.close()
        if receiver is not None:
            receiver.lost(error)
            receiver.stream.flush()

    # llhttp

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_heading:  # trailers are no part of the next answer's head
            if self._headers is None:
                self._headers = {}
            if (read := _READ.get(name.lower())) is not None:
                self._headers[read] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        headers, self._headers = self._headers or {}, None
        status = self._parser.get_status_code()
        self._is_heading = 100 <= status < 200
        if (kept := headers.get("keep-alive")) is not None:
            self.keep_seconds = _timeout(kept)
        if not self._is_heading and self._receiver is not None:
            self._receiver.head(status, headers)

    def on_body(self, data: bytes) -> None:
        self._body = data
        if self._receiver is not None:
            self._receiver.body(data)

    def on_message_complete(self) -> None:
        if self._is_heading:
            return  # an interim response
        receiver, self._receiver = self._receiver, None
        reusable = receiver is not None and self._parser.should_keep_alive() and not self._rest
        if receiver is not None:
            receiver.complete()
        if reusable:
            self._is_reused = True
            if self._is_held:
                self.resume()  # a slow client held it when the answer ended
            self._owner.keep(self)
        else:
            self.close()


def _take_chunks(fast_path: Splice, data: bytes) -> int:
    """Gives the bodies of whole HTTP chunks to the fast path; how many bytes it has taken.

    Takes chunks in the form in which nearly all servers write them: the size in lower case
    without zeros before it, no extension. Others are left to the parser.
    """
    taken = 0
    while taken < len(data):
        line = data.find(b"\r\n", taken, taken + _SIZE_LINE)
        if line < 0:
            break
        digits = data[taken:line]
        start = line + 2
        end = start + (_SIZES.get(digits) or _size(digits))
        if end == start or not data.startswith(b"\r\n", end):
            break
        if not fast_path.take(data[start:end]):
            break
        taken = end + 2
    return taken


def _size(digits: bytes) -> int:
    """The size that canonical digits give; 0 where they are not."""
    try:
        size = int(digits, 16)
    except ValueError:
        return 0
    return size if b"%x" % size == digits else 0


def _timeout(keep_alive: str) -> float:
    """Seconds of a `Keep-Alive: timeout=5, max=100`, less one for the way."""
    for part in keep_alive.split(","):
        name, _, value = part.strip().partition("=")
        if name.lower() == "timeout" and value.isdigit():
            return max(0.0, float(value) - 1.0)
    return math.inf
