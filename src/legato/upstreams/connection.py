"""A pooled HTTP/1.1 client for streams: an `asyncio.Protocol` on llhttp, without a task of its own.

What is read goes straight to whoever asked, in the callback in which the event loop hands it over.
"""

import asyncio
import math
import socket
from typing import Any, Final, Protocol, cast
from urllib.parse import urlsplit

import httptools
from msgspec import Struct

from legato.core.errors import UpstreamError, bad_gateway
from legato.core.stream import Stream
from legato.fastpath.lane import Lane

#: Bytes of a response's head, interim answers before it included, after which no more is read.
HEAD_LIMIT: Final = 256 * 1024


#: The headers of an answer that anybody reads, of the twenty that a vendor may send.
_READ: Final = {
    name.encode(): name
    for name in ("content-encoding", "content-type", "keep-alive", "retry-after")
}


class Endpoint(Struct, frozen=True):
    """Where an upstream listens. `path` is the base URL's, without a slash at its end."""

    host: str
    port: int
    path: str = ""
    tls: bool = False

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = 443 if self.tls else 80
        return host if self.port == usual else f"{host}:{self.port}"

    @classmethod
    def of(cls, url: str) -> "Endpoint":
        """Raises ValueError where `url` is no http(s) URL with a host."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"`{url}` is not an http:// or https:// URL")
        tls = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if tls else 80), parts.path.rstrip("/"), tls)


class Receiver(Protocol):
    """Reads one response. After `complete` or `lost` nothing more is called."""

    @property
    def stream(self) -> Stream: ...

    def head(self, status: int, headers: dict[str, str]) -> None:
        """`headers`: those that matter here, their names in lower case."""
        ...

    def body(self, data: bytes) -> None: ...
    def lane(self, read: bytes) -> Lane | None: ...
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

    def forget(self, connection: "Connection") -> None:
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


class Connection(asyncio.Protocol):
    """One connection; one request on it at a time."""

    __slots__ = (
        "_head_size",
        "_headers",
        "_held",
        "_is_due",
        "_is_heading",
        "_lane",
        "_parser",
        "_pool",
        "_receiver",
        "_rest",
        "_reused",
        "_said",
        "keep_seconds",
        "transport",
    )

    def __init__(self, pool: ConnectionOwner) -> None:
        self.transport: asyncio.Transport | None = None
        self._pool = pool
        self._parser: Any = httptools.HttpResponseParser(self)
        self._receiver: Receiver | None = None
        self._headers: dict[str, str] | None = None  # while they are read
        self._head_size = 0
        self._is_due = False  # a turn of `_read_on` is on its way
        self._is_heading = False  # the head of the answer, behind interim ones, has not ended
        self._held = False  # somebody wants nothing read for now
        self._lane: Lane | None = None  # for what needs no parsing; only while nothing else comes
        self._rest = _NOTHING  # of what was read: for the next turns
        self._reused = False
        self._said = False  # the peer has said something in answer to this request
        self.keep_seconds = math.inf  # for how long the peer keeps it, where it told

    def send(self, request: bytes, receiver: Receiver) -> None:
        assert self.transport is not None
        self._receiver = receiver
        self._lane = None
        self._said = False
        self._is_heading = True
        self._head_size = 0
        self.transport.write(request)

    def release(self) -> None:
        """The receiver wants no more. What is still on the way makes the connection useless."""
        if self._receiver is not None:
            self._receiver = self._lane = None
            self.close()

    def close(self) -> None:
        self._rest = _NOTHING
        if self.transport is not None:
            self.transport.abort()

    def pause(self) -> None:
        self._held = True
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._held:
            self._held = False
            self._soon()

    def _soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            loop = asyncio.get_running_loop()
            if self._is_unhurried:
                loop.call_later(SLOW_TURN, self._read_on)
            else:
                loop.call_soon(self._read_on)

    @property
    def _is_unhurried(self) -> bool:
        return self._receiver is not None and self._receiver.stream.is_behind

    def _read_on(self) -> None:
        """A share of what is left of the last read, or the next one."""
        self._is_due = False
        if self._held or self.is_closing:
            return
        if self._rest:
            size = SLOW_SHARE if self._is_unhurried else SHARE
            share = bytes(self._rest[:size])
            if self._lane is not None and (last := share.rfind(_CHUNK_ENDS)) >= 0:
                share = share[: last + len(_CHUNK_ENDS)]
            self._rest = self._rest[len(share) :]
            self._take(share)
        if self._rest:
            self._soon()
        elif not self._held and self.transport is not None and not self.is_closing:
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
        lane = self._lane
        if lane is not None and lane.take(data):
            return
        if len(data) > SHARE and self.transport is not None:
            self.transport.pause_reading()
            self._rest = memoryview(data)
            self._read_on()
        else:
            self._take(data)

    def _take(self, data: bytes) -> None:
        if self._lane is None or not self._lane.take_all(data):
            self._read(data)

    def _read(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:
            self.close()  # said without being asked
            return
        if self._lane is not None:
            self._lane.shut()
            self._lane = None
        self._said = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            self._lose(bad_gateway("The upstream's answer could not be read."))
            raise  # a bug of ours: the event loop's log has it
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._lose(bad_gateway(f"The upstream's answer is not HTTP: {error}"))
            return
        if self._is_heading:
            # By what is read: one header without an end is never shown to `on_header`.
            self._head_size += len(data)
            if self._head_size > HEAD_LIMIT:
                self._lose(bad_gateway("The upstream's answer has too large a head."))
                return
        receiver.stream.flush()
        if self._receiver is receiver:
            self._lane = receiver.lane(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.forget(self)
        rest, self._rest = self._rest, _NOTHING
        if rest:
            self._read(bytes(rest))
        self.transport = None
        if self._receiver is not None:
            if self._reused and not self._said:
                self._lose(StaleConnection())
            else:
                self._lose(bad_gateway("The upstream closed the connection.", code="upstream_cut"))
        self._parser = self._lane = None  # the one knows this connection, the other a call

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
        if self._receiver is not None:
            self._receiver.body(data)

    def on_message_complete(self) -> None:
        if self._is_heading:
            return  # an interim answer
        receiver, self._receiver = self._receiver, None
        reusable = receiver is not None and self._parser.should_keep_alive() and not self._rest
        if receiver is not None:
            receiver.complete()
        if reusable:
            self._reused = True
            if self._held:
                self.resume()  # a slow client held it when the answer ended
            self._pool.keep(self)
        else:
            self.close()


def _timeout(keep_alive: str) -> float:
    """Seconds of a `Keep-Alive: timeout=5, max=100`, less one for the way."""
    for part in keep_alive.split(","):
        name, _, value = part.strip().partition("=")
        if name.lower() == "timeout" and value.isdigit():
            return max(0.0, float(value) - 1.0)
    return math.inf
