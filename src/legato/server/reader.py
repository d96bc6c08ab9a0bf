"""Reads the requests of one connection with llhttp; there only while a request is being read."""

from collections.abc import Callable
from typing import Any, Final, Protocol

import httptools
from msgspec import Struct

from legato.core.errors import ApiError
from legato.core.front import Front
from legato.server.context import front_at
from legato.server.cors import Headers

#: Headers that delimit a request's body.
_DELIMITERS: Final = (b"content-length", b"transfer-encoding")


class RequestHead(Struct):
    """The head of a request. Names of headers are in lower case.

    `path` has no query. `fields`: the last value of each header. `keep_alive`: whether the client
    lets the connection stay open. `received`: when the first byte came, in seconds of the server's
    clock.
    """

    method: bytes
    url: bytes
    path: bytes
    version: str
    keep_alive: bool
    headers: Headers
    fields: dict[bytes, bytes]
    received: float

    @property
    def length(self) -> int | None:
        """The length of the body, where the headers have it. llhttp has checked the digits."""
        value = self.fields.get(b"content-length")
        return int(value) if value is not None else None

    @property
    def expects_continue(self) -> bool:
        """Whether the client may wait for a 100 before it sends the body."""
        return self.version != "1.0" and self.fields.get(b"expect", b"").lower() == b"100-continue"


class Sink(Protocol):
    """The connection: is given what is read."""

    def read_head(self, head: RequestHead) -> None: ...
    def read_body(self, data: bytes) -> None: ...
    def read_end(self) -> None: ...
    def refuse(self, error: ApiError) -> None: ...


class RequestReader:
    """`begun`: when the request being read began; None between requests.

    `origin`: the header of the last request that was read, as soon as it has come.
    """

    __slots__ = (
        "_clock",
        "_framing",
        "_has_progress",
        "_head_size",
        "_headers",
        "_is_resumed",
        "_limit",
        "_parser",
        "_raw_size",
        "_sink",
        "_url",
        "begun",
        "origin",
    )

    def __init__(self, sink: Sink, clock: Callable[[], float], limit: int) -> None:
        """`limit`: bytes of a head."""
        self._sink = sink
        self._clock = clock
        self._limit = limit
        self._parser: Any = self._new_parser()
        self._url = b""
        self._headers: Headers | None = None  # while they are read
        self._head_size = 0  # names and values of the headers so far
        self._raw_size = 0  # bytes of reads that brought nothing but a part of a header
        self._has_progress = False  # this read brought more than that
        self._framing = b""  # the headers that delimit the body of a request that offers an upgrade
        self._is_resumed = False  # reads such a body, behind a head that we made
        self.begun: float | None = None
        self.origin: bytes | None = None

    def _new_parser(self) -> Any:
        parser = httptools.HttpRequestParser(self)
        # What comes behind a `connection: close` is ignored, and no error (RFC 9112, section 9.6).
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    @property
    def front(self) -> Front:
        """The client format of an error in the request being read."""
        try:
            return front_at(self._path())
        except httptools.HttpParserInvalidURLError:
            return front_at(b"")

    def _path(self) -> bytes:
        url = self._url
        if not url.startswith(b"/"):  # absolute form (RFC 9112, section 3.2.2)
            url = httptools.parse_url(url).path or b"/"
        return url.partition(b"?")[0]

    def close(self) -> None:
        self._parser = None  # which refers back to this

    def feed(self, data: bytes) -> None:
        """Raises `httptools.HttpParserError` for what is not HTTP; `HttpParserCallbackError` where
        a callback raised, with its exception as the context."""
        self._has_progress = False
        rest: bytes | memoryview = data
        while rest:
            try:
                self._parser.feed_data(rest)
                break
            except httptools.HttpParserUpgrade as upgrade:
                self._decline_upgrade()
                rest = memoryview(rest)[upgrade.args[0] :]
        # Bytes are counted here as well: a header without an end is never given to `on_header`.
        if self.begun is not None and not self._has_progress:
            self._raw_size += len(data)
            if self._raw_size > self._limit:
                self._refuse_head()

    def _decline_upgrade(self) -> None:
        """A request that offers an upgrade (h2c, as Java's client does) is answered as it stands.

        llhttp takes its body for the other protocol's. Another parser reads it, behind a head that
        delimits the body in the same way and offers nothing.
        """
        self._is_resumed = True
        self._head_size = 0
        self._parser = self._new_parser()
        self._parser.feed_data(b"POST / HTTP/1.1\r\nhost: -\r\n%b\r\n" % self._framing)

    def _refuse_head(self) -> None:
        message = f"The headers are over {self._limit} bytes."
        self._sink.refuse(ApiError(431, "headers_too_large", message))

    # llhttp

    def on_message_begin(self) -> None:
        if self._is_resumed:
            return
        self._url = b""
        self.origin = None
        self.begun = self._clock()
        self._headers = []
        self._head_size = self._raw_size = 0

    def on_url(self, url: bytes) -> None:
        if not self._is_resumed:
            self._url += url
            self._add_to_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._add_to_head(len(name) + len(value) + 4)
        if self._headers is not None:  # trailers are not kept
            name = name.lower()
            if name == b"origin":
                self.origin = value
            self._headers.append((name, value))

    def _add_to_head(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self._limit:
            self._refuse_head()

    def on_headers_complete(self) -> None:
        if self._is_resumed:
            return
        self._progress()
        headers, self._headers = self._headers or [], None
        parser, version = self._parser, self._parser.get_http_version()
        if parser.should_upgrade():
            self._framing = b"".join(
                [b"%b: %b\r\n" % each for each in headers if each[0] in _DELIMITERS]
            )
        head = RequestHead(
            parser.get_method(),
            self._url,
            self._path(),
            version,
            version != "1.0" and parser.should_keep_alive(),
            headers,
            dict(headers),
            self.begun or self._clock(),
        )
        self._sink.read_head(head)

    def on_body(self, body: bytes) -> None:
        self._progress()
        self._sink.read_body(body)

    def on_message_complete(self) -> None:
        if self._is_resumed:
            self._is_resumed = False
        elif self._parser.should_upgrade():
            return  # its body is still to come: see `_decline_upgrade`
        self.begun = None
        self._progress()
        self._sink.read_end()

    def _progress(self) -> None:
        self._has_progress = True
        self._raw_size = 0


def not_http() -> ApiError:
    return ApiError(400, "invalid_http", "This is not an HTTP/1.1 request.")
