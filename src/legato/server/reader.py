"""Reads the requests of one connection with llhttp; there only while a request is being read."""

from collections.abc import Callable
from typing import Any, Final, Protocol

import httptools

from legato.core.errors import ApiError
from legato.core.front import Front
from legato.server.context import DEFAULT, NATIVE
from legato.server.cors import Headers

#: Headers that delimit a request's body.
_DELIMITERS: Final = (b"content-length", b"transfer-encoding")


class Sink(Protocol):
    """The connection: is given what is read."""

    def read_head(self, reader: "RequestReader", headers: Headers) -> None: ...
    def read_body(self, data: bytes) -> None: ...
    def read_end(self) -> None: ...
    def refuse(self, error: ApiError) -> None: ...


class RequestReader:
    """`begun`: when the first byte of the request being read came; None between requests.

    `url`, `origin` and `front` are those of the last request that was read.
    """

    __slots__ = (
        "_clock",
        "_framing",
        "_head_raw",
        "_head_size",
        "_headers",
        "_is_in_head",
        "_is_resumed",
        "_limit",
        "_parser",
        "_sink",
        "begun",
        "front",
        "origin",
        "url",
    )

    def __init__(self, sink: Sink, clock: Callable[[], float], limit: int) -> None:
        """`limit`: bytes of a head."""
        self._sink = sink
        self._clock = clock
        self._limit = limit
        self._parser: Any = self._new_parser()
        self._headers: Headers | None = None  # while they are read
        self._head_size = 0  # names and values of the headers so far
        self._head_raw = 0  # bytes read of a head that is not complete
        self._is_in_head = False
        self._framing = b""  # the headers that delimit the body of a request that offers an upgrade
        self._is_resumed = False  # reads such a body, behind a head that we made
        self.begun: float | None = None
        self.url = b""
        self.origin: bytes | None = None
        self.front: Front = DEFAULT

    def _new_parser(self) -> Any:
        parser = httptools.HttpRequestParser(self)
        # What comes behind a `connection: close` is another request, not an error.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    @property
    def parser(self) -> Any:
        """httptools', which has just read a head."""
        return self._parser

    @property
    def path(self) -> bytes:
        url = self.url
        if not url.startswith(b"/"):  # absolute form (RFC 9112, section 3.2.2)
            url = httptools.parse_url(url).path or b"/"
        return url.partition(b"?")[0]

    def close(self) -> None:
        self._parser = None  # which refers back to this

    def feed(self, data: bytes) -> None:
        """Raises `httptools.HttpParserError` for what is not HTTP."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade()
            if rest := data[upgrade.args[0] :]:
                self.feed(rest)
            return
        if self._is_in_head:
            # Bytes read are counted: a header without an end is never given to `on_header`.
            self._head_raw += len(data)
            if self._head_raw > self._limit:
                self._refuse_head()

    def _decline_upgrade(self) -> None:
        """A request that offers an upgrade (h2c, as Java's client does) is answered as it stands.

        llhttp takes its body for the other protocol's. Another parser reads it, behind a head that
        delimits the body in the same way and offers nothing.
        """
        self._is_resumed = True
        self._parser = self._new_parser()
        self._parser.feed_data(b"POST / HTTP/1.1\r\nhost: -\r\n%b\r\n" % self._framing)

    def _refuse_head(self) -> None:
        message = f"The headers are over {self._limit} bytes."
        self._sink.refuse(ApiError(431, "headers_too_large", message))

    # llhttp

    def on_message_begin(self) -> None:
        if self._is_resumed:
            return
        self.url = b""
        self.origin = None
        self.front = DEFAULT
        self.begun = self._clock()
        self._headers = []
        self._head_size = self._head_raw = 0
        self._is_in_head = True

    def on_url(self, url: bytes) -> None:
        if not self._is_resumed:
            self.url += url
            self._add_to_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_resumed:
            return
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
        self._is_in_head = False
        headers, self._headers = self._headers or [], None
        parser = self._parser
        if parser.should_upgrade():
            self._framing = b"".join(
                [b"%b: %b\r\n" % each for each in headers if each[0] in _DELIMITERS]
            )
        self.front = NATIVE.get((parser.get_method(), self.path), DEFAULT)
        self._sink.read_head(self, headers)

    def on_body(self, body: bytes) -> None:
        self._sink.read_body(body)

    def on_message_complete(self) -> None:
        if self._is_resumed:
            self._is_resumed = False
        elif self._parser.should_upgrade():
            return  # its body is still to come: see `_decline_upgrade`
        self.begun = None
        self._sink.read_end()
